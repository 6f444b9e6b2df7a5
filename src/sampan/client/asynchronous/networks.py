"""Networks."""

from __future__ import annotations

from collections.abc import Mapping

from sampan.client import calls
from sampan.client.asynctransport import AsyncTransport
from sampan.client.calls import Names, Object, Objects, at, filters, query


class AsyncNetworks:
    """The networks of an engine, as the API's objects."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def create(
        self, name: str, driver: str = "bridge", *, subnet: str | None = None, gateway: str | None = None,
        internal: bool = False, ipv6: bool = False, labels: Mapping[str, str] | None = None,
        options: Mapping[str, str] | None = None,
    ) -> Object:  # fmt: skip
        """Makes one; containers reach it by `network=name`."""
        body = calls.network(name, driver, subnet, gateway, internal, ipv6, labels, options)
        made = await self._transport.call("POST", "/networks/create", body)
        return await self.get(made["Id"])

    async def get(self, name: str) -> Object:
        """One by name or id, with the containers on it."""
        return dict(await self._transport.call("GET", at("/networks/{}", name)))

    async def list(self, filter: Mapping[str, object] | None = None) -> Objects:
        """All of them."""
        return list(await self._transport.call("GET", "/networks" + query(filters=filters(filter))))

    async def connect(self, name: str, container: str, aliases: Names | None = None, ip: str | None = None) -> None:
        """Puts a container on it, also while it runs."""
        await self._transport.call("POST", at("/networks/{}/connect", name), calls.endpoint(container, aliases, ip))

    async def disconnect(self, name: str, container: str, force: bool = False) -> None:
        """Takes a container off it."""
        await self._transport.call(
            "POST", at("/networks/{}/disconnect", name), {"Container": container, "Force": force}
        )

    async def remove(self, name: str) -> None:
        """Deletes one that no container is on."""
        await self._transport.call("DELETE", at("/networks/{}", name))

    async def prune(self, filter: Mapping[str, object] | None = None) -> Object:
        """Deletes all that no container uses."""
        return dict(await self._transport.call("POST", "/networks/prune" + query(filters=filters(filter))))
