# Made from asynchronous/volumes.py by scripts/sync_client.py: change that one.
"""Volumes."""

from __future__ import annotations

from collections.abc import Mapping

from sampan.client.calls import Object, Objects, at, filters, query
from sampan.client.transport import Transport


class Volumes:
    """The volumes of an engine, as the API's objects."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, name: str = "", labels: Mapping[str, str] | None = None) -> Object:
        """Makes one, or returns the one of that name."""
        return dict(self._transport.call("POST", "/volumes/create", {"Name": name, "Labels": dict(labels or {})}))

    def get(self, name: str) -> Object:
        """One by name."""
        return dict(self._transport.call("GET", at("/volumes/{}", name)))

    def list(self, filter: Mapping[str, object] | None = None) -> Objects:
        """All of them."""
        answer = self._transport.call("GET", "/volumes" + query(filters=filters(filter)))
        return list(answer["Volumes"] or [])

    def remove(self, name: str, force: bool = False) -> None:
        """Deletes one that no container uses."""
        self._transport.call("DELETE", at("/volumes/{}", name) + query(force=force))

    def prune(self, filter: Mapping[str, object] | None = None) -> Object:
        """Deletes anonymous ones that no container uses."""
        return dict(self._transport.call("POST", "/volumes/prune" + query(filters=filters(filter))))
