"""Volumes."""

from __future__ import annotations

from collections.abc import Mapping

from sampan.client.asynctransport import AsyncTransport
from sampan.client.calls import Object, Objects, at, filters, query


class AsyncVolumes:
    """The volumes of an engine, as the API's objects."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def create(self, name: str = "", labels: Mapping[str, str] | None = None) -> Object:
        """Makes one, or returns the one of that name."""
        return dict(await self._transport.call("POST", "/volumes/create", {"Name": name, "Labels": dict(labels or {})}))

    async def get(self, name: str) -> Object:
        """One by name."""
        return dict(await self._transport.call("GET", at("/volumes/{}", name)))

    async def list(self, filter: Mapping[str, object] | None = None) -> Objects:
        """All of them."""
        answer = await self._transport.call("GET", "/volumes" + query(filters=filters(filter)))
        return list(answer["Volumes"] or [])

    async def remove(self, name: str, force: bool = False) -> None:
        """Deletes one that no container uses."""
        await self._transport.call("DELETE", at("/volumes/{}", name) + query(force=force))

    async def prune(self, filter: Mapping[str, object] | None = None) -> Object:
        """Deletes anonymous ones that no container uses."""
        return dict(await self._transport.call("POST", "/volumes/prune" + query(filters=filters(filter))))
