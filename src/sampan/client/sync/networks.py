# Made from asynchronous/networks.py by scripts/sync_client.py: change that one.
"""Networks."""

from __future__ import annotations

from collections.abc import Mapping

from sampan.client import calls
from sampan.client.calls import Names, Object, Objects, at, filters, query
from sampan.client.transport import Transport


class Networks:
    """The networks of an engine, as the API's objects."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
        self, name: str, driver: str = "bridge", *, subnet: str | None = None, gateway: str | None = None,
        internal: bool = False, ipv6: bool = False, labels: Mapping[str, str] | None = None,
        options: Mapping[str, str] | None = None,
    ) -> Object:  # fmt: skip
        """Makes one; containers reach it by `network=name`."""
        body = calls.network(name, driver, subnet, gateway, internal, ipv6, labels, options)
        made = self._transport.call("POST", "/networks/create", body)
        return self.get(made["Id"])

    def get(self, name: str) -> Object:
        """One by name or id, with the containers on it."""
        return dict(self._transport.call("GET", at("/networks/{}", name)))

    def list(self, filter: Mapping[str, object] | None = None) -> Objects:
        """All of them."""
        return list(self._transport.call("GET", "/networks" + query(filters=filters(filter))))

    def connect(self, name: str, container: str, aliases: Names | None = None, ip: str | None = None) -> None:
        """Puts a container on it, also while it runs."""
        self._transport.call("POST", at("/networks/{}/connect", name), calls.endpoint(container, aliases, ip))

    def disconnect(self, name: str, container: str, force: bool = False) -> None:
        """Takes a container off it."""
        self._transport.call("POST", at("/networks/{}/disconnect", name), {"Container": container, "Force": force})

    def remove(self, name: str) -> None:
        """Deletes one that no container is on."""
        self._transport.call("DELETE", at("/networks/{}", name))

    def prune(self, filter: Mapping[str, object] | None = None) -> Object:
        """Deletes all that no container uses."""
        return dict(self._transport.call("POST", "/networks/prune" + query(filters=filters(filter))))
