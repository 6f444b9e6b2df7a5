"""The client for asyncio: one engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Any

from sampan.client.asynchronous.containers import AsyncContainers
from sampan.client.asynchronous.images import AsyncImages
from sampan.client.asynchronous.networks import AsyncNetworks
from sampan.client.asynchronous.volumes import AsyncVolumes
from sampan.client.asynctransport import AsyncResponse, AsyncTransport
from sampan.client.calls import Object, filters, query


class AsyncClient:
    """One engine. Without `host` ("unix:///path") the default one, started when none runs.

    Raises NoEngine when there is none, APIError with `status` for what the engine refuses.
    """

    def __init__(self, host: str | None = None) -> None:
        self._transport = AsyncTransport(host)
        self.containers = AsyncContainers(self._transport)
        self.images = AsyncImages(self._transport)
        self.volumes = AsyncVolumes(self._transport)
        self.networks = AsyncNetworks(self._transport)

    async def __aenter__(self) -> AsyncClient:
        await self._transport.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection that is kept, if one is; the client can still be used."""
        await self._transport.close()

    async def call(self, method: str, path: str, body: object = None) -> Any:
        """Any request of the API with a JSON answer."""
        return await self._transport.call(method, path, body)

    async def stream(
        self, method: str, path: str, body: object = None, source: AsyncIterator[bytes] | None = None, headers: str = ""
    ) -> AsyncResponse:
        """Any request, its answer read as it comes; on a connection of its own."""
        return await self._transport.stream(method, path, body, source, headers)

    async def hijack(self, path: str, body: object = None) -> AsyncResponse:
        """A request whose connection becomes a process's streams."""
        return await self._transport.hijack(path, body)

    async def finish(self, method: str, path: str, body: object = None) -> Object:
        """Any request that is answered with progress: its last object. Raises APIError for an error in it."""
        return await self._transport.finish(method, path, body)

    async def ping(self) -> bool:
        """Whether the engine answers."""
        response = await self.stream("GET", "/_ping")
        return await response.read() == b"OK"

    async def version(self) -> Object:
        """Versions of engine and API."""
        return dict(await self.call("GET", "/version"))

    async def info(self) -> Object:
        """The engine and its machine."""
        return dict(await self.call("GET", "/info"))

    async def disk_usage(self) -> Object:
        """What images, containers and volumes take."""
        return dict(await self.call("GET", "/system/df"))

    def events(
        self, since: str | None = None, until: str | None = None, filter: Mapping[str, object] | None = None
    ) -> AsyncIterator[Object]:
        """Events as they happen, with `since` those before too; ends at `until`."""
        return self._transport.objects("GET", "/events" + query(since=since, until=until, filters=filters(filter)))
