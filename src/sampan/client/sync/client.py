# Made from asynchronous/client.py by scripts/sync_client.py: change that one.
"""The client: one engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any

from sampan.client.calls import Object, filters, query
from sampan.client.sync.containers import Containers
from sampan.client.sync.images import Images
from sampan.client.sync.networks import Networks
from sampan.client.sync.volumes import Volumes
from sampan.client.transport import Response, Transport


class Client:
    """One engine. Without `host` ("unix:///path") the default one, started when none runs.

    Raises NoEngine when there is none, APIError with `status` for what the engine refuses.
    """

    def __init__(self, host: str | None = None) -> None:
        self._transport = Transport(host)
        self.containers = Containers(self._transport)
        self.images = Images(self._transport)
        self.volumes = Volumes(self._transport)
        self.networks = Networks(self._transport)

    def __enter__(self) -> Client:
        self._transport.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection that is kept, if one is; the client can still be used."""
        self._transport.close()

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Any request of the API with a JSON answer."""
        return self._transport.call(method, path, body)

    def stream(
        self, method: str, path: str, body: object = None, source: Iterator[bytes] | None = None, headers: str = ""
    ) -> Response:
        """Any request, its answer read as it comes; on a connection of its own."""
        return self._transport.stream(method, path, body, source, headers)

    def hijack(self, path: str, body: object = None) -> Response:
        """A request whose connection becomes a process's streams."""
        return self._transport.hijack(path, body)

    def finish(self, method: str, path: str, body: object = None) -> Object:
        """Any request that is answered with progress: its last object. Raises APIError for an error in it."""
        return self._transport.finish(method, path, body)

    def ping(self) -> bool:
        """Whether the engine answers."""
        response = self.stream("GET", "/_ping")
        return response.read() == b"OK"

    def version(self) -> Object:
        """Versions of engine and API."""
        return dict(self.call("GET", "/version"))

    def info(self) -> Object:
        """The engine and its machine."""
        return dict(self.call("GET", "/info"))

    def disk_usage(self) -> Object:
        """What images, containers and volumes take."""
        return dict(self.call("GET", "/system/df"))

    def events(
        self, since: str | None = None, until: str | None = None, filter: Mapping[str, object] | None = None
    ) -> Iterator[Object]:
        """Events as they happen, with `since` those before too; ends at `until`."""
        return self._transport.objects("GET", "/events" + query(since=since, until=until, filters=filters(filter)))
