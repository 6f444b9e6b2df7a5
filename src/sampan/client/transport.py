"""What the sync client sends its requests with: as `asynctransport`, over one kept connection where possible."""

from __future__ import annotations

import json
import socket as sockets
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from sampan.client.calls import Object, told
from sampan.client.connection import engine, socket_path
from sampan.client.http import Http, Response

__all__ = ["Response", "Transport"]
T = TypeVar("T")


class Transport:
    """Requests to one engine."""

    def __init__(self, host: str | None) -> None:
        self._path = socket_path(host)
        self._http = engine(self._path) if host is None else Http(self._path)

    def open(self) -> None:
        """The engine has been asked for when this was made."""

    def close(self) -> None:
        """Closes the kept connection."""
        self._http.close()

    def call(self, method: str, path: str, body: object = None) -> Any:
        """A request with a JSON answer."""
        return self._http.call(method, path, body)

    def stream(
        self,
        method: str,
        path: str,
        body: object = None,
        source: bytes | Iterator[bytes] | None = None,
        headers: str = "",
    ) -> Response:
        """A request whose answer is read as it comes, on a connection of its own; `source` is its body."""
        pieces = iter([source]) if isinstance(source, bytes) else source
        return Http(self._path).send(method, path, body, stream=pieces, headers=headers)

    def hijack(self, path: str, body: object = None) -> Response:
        """A request whose connection becomes a process's streams."""
        return Http(self._path).send("POST", path, body, upgrade=True)

    def chunks(self, method: str, path: str) -> Iterator[bytes]:
        """The body of an answer in pieces; an error of the engine's is raised by this call."""
        return _closing(self.stream(method, path), Response.chunks)

    def frames(self, method: str, path: str) -> Iterator[tuple[int, bytes]]:
        """(stream, data) of a process that is followed; an error of the engine's is raised by this call."""
        return _closing(self.stream(method, path), Response.frames)

    def objects(
        self, method: str, path: str, body: object = None, source: bytes | Iterator[bytes] | None = None,
        headers: str = "",
    ) -> Iterator[Object]:  # fmt: skip
        """The objects of an answer, one a line, as they come; an error of the engine's is raised by this call."""
        lines = _closing(self.stream(method, path, body, source, headers), Response.lines)
        return (json.loads(line) for line in lines if line.strip())

    def finish(
        self, method: str, path: str, body: object = None, source: bytes | Iterator[bytes] | None = None
    ) -> Object:
        """The last object of a progress stream. Raises APIError for an error in it."""
        last: Object = {}
        for message in self.objects(method, path, body, source):
            last = told(message)
        return last

    def converse(self, response: Response, data: bytes | None) -> tuple[bytes, bytes]:
        """Writes the input and reads the output at once, so that neither waits for the other: (stdout, stderr)."""
        if data is not None:
            threading.Thread(target=_feed, args=(response, data), daemon=True).start()
        parts: dict[int, list[bytes]] = {1: [], 2: []}
        try:
            for stream, piece in response.frames():
                parts[2 if stream == 2 else 1].append(piece)
        finally:
            response.close()
        return b"".join(parts[1]), b"".join(parts[2])


def _closing(response: Response, read: Callable[[Response], Iterator[T]]) -> Iterator[T]:
    try:
        yield from read(response)
    finally:
        response.close()


def _feed(response: Response, data: bytes) -> None:
    try:
        response.sock.sendall(data)
        response.sock.shutdown(sockets.SHUT_WR)
    except OSError:
        pass  # it ended before it had read all
