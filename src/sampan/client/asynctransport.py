"""HTTP/1.1 over a unix socket for asyncio: one connection a request, bodies as they come. Its twin is `transport`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from sampan.client.calls import Object, told
from sampan.client.connection import engine, socket_path
from sampan.client.http import UPGRADE, Head, NoEngine, encode_chunk, encode_request, split_frames

_CHUNK = 1 << 18
_LIMIT = 1 << 20


class AsyncResponse:
    """A response whose body is read as it comes. Close it, or read it to the end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, bodyless: bool) -> None:
        self._reader, self.writer, self._bodyless = reader, writer, bodyless
        self.status = 0
        self.headers: dict[str, str] = {}
        self.head: Head

    async def begin(self) -> None:
        """Reads status and headers. Raises NoEngine when the connection ends before."""
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise NoEngine("the engine closed the connection") from error
        self.head = Head(head[:-4])
        self.status, self.headers = self.head.status, self.head.headers

    async def _raw(self) -> AsyncIterator[bytes]:
        while data := await self._reader.read(_CHUNK):
            yield data

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body in pieces, by Content-Length, chunked, or to the end."""
        if self._bodyless or self.status in (204, 304):
            return
        if "content-length" in self.headers:
            left = int(self.headers["content-length"])
            while left:
                data = await self._reader.read(min(left, _CHUNK))
                if not data:
                    raise NoEngine("the engine closed the connection in the middle of an answer")
                left -= len(data)
                yield data
        elif self.headers.get("transfer-encoding") == "chunked":
            while data := await self._chunk():
                yield data
        else:
            async for data in self._raw():
                yield data

    async def _chunk(self) -> bytes:
        """The next chunk; the last one is empty. Raises NoEngine when the connection ends before that."""
        try:
            size = int((await self._reader.readuntil(b"\r\n")).split(b";")[0], 16)
            return (await self._reader.readexactly(size + 2))[:-2]
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise NoEngine("the engine closed the connection in the middle of an answer") from error

    async def read(self) -> bytes:
        """The whole body; closes the connection."""
        data = b"".join([chunk async for chunk in self.chunks()])
        self.close()
        return data

    async def lines(self) -> AsyncIterator[bytes]:
        """The body line by line."""
        rest = b""
        async for chunk in self.chunks():
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                yield line
        if rest:
            yield rest

    async def frames(self) -> AsyncIterator[tuple[int, bytes]]:
        """(stream, data) of an attached or logged process, whether framed or raw."""
        buffer = b""
        async for data in self._raw() if self.head.hijacked else self.chunks():
            if self.head.tty:
                yield 1, data
                continue
            found, buffer = split_frames(buffer + data)
            for frame in found:
                yield frame

    def close(self) -> None:
        """Closes the connection."""
        self.writer.close()


async def _send(
    path: str,
    method: str,
    target: str,
    body: object = None,
    upgrade: bool = False,
    source: AsyncIterator[bytes] | None = None,
    headers: str = "",
) -> AsyncResponse:
    """Makes a request on the socket `path`; returns once the headers are there. Raises APIError, NoEngine."""
    try:
        reader, writer = await asyncio.open_unix_connection(path, limit=_LIMIT)
    except OSError as error:
        raise NoEngine(f"Cannot connect to the Sampan engine at unix://{path}: {error.strerror}") from error
    request = encode_request(
        method, target, body, source is not None, (UPGRADE if upgrade else "Connection: close\r\n") + headers
    )
    response = AsyncResponse(reader, writer, bodyless=method == "HEAD")
    try:
        await _write(writer, request, source)
        await response.begin()
        if response.status >= 400:
            raise response.head.error(await response.read())
    except BaseException:
        response.close()
        raise
    return response


async def _write(writer: asyncio.StreamWriter, request: bytes, source: AsyncIterator[bytes] | None) -> None:
    try:
        writer.write(request)
        if source is not None:
            async for chunk in source:
                if chunk:
                    writer.write(encode_chunk(chunk))
                    await writer.drain()
            writer.write(encode_chunk(b""))
        await writer.drain()
    except ConnectionError:
        pass  # an early error answer: read it


class AsyncTransport:
    """Requests to one engine, each on a connection of its own."""

    def __init__(self, host: str | None) -> None:
        self._path = socket_path(host)
        self._given = host is not None

    async def open(self) -> None:
        """Starts the default engine if it does not run. Raises NoEngine."""
        if not self._given:
            http = await asyncio.to_thread(engine, self._path)
            http.close()

    async def close(self) -> None:
        """Nothing is kept open between requests."""

    async def call(self, method: str, path: str, body: object = None) -> Any:
        """A request with a JSON answer."""
        response = await _send(self._path, method, path, body)
        data = await response.read()
        return json.loads(data) if data else None

    async def stream(
        self,
        method: str,
        path: str,
        body: object = None,
        source: bytes | AsyncIterator[bytes] | None = None,
        headers: str = "",
    ) -> AsyncResponse:
        """A request whose answer is read as it comes; `source` is its body, at once or in pieces."""
        pieces = _once(source) if isinstance(source, bytes) else source
        return await _send(self._path, method, path, body, source=pieces, headers=headers)

    async def hijack(self, path: str, body: object = None) -> AsyncResponse:
        """A request whose connection becomes a process's streams."""
        return await _send(self._path, "POST", path, body, upgrade=True)

    async def chunks(self, method: str, path: str) -> AsyncIterator[bytes]:
        """The body of an answer in pieces; asked for with the first of them."""
        response = await self.stream(method, path)
        try:
            async for chunk in response.chunks():
                yield chunk
        finally:
            response.close()

    async def frames(self, method: str, path: str) -> AsyncIterator[tuple[int, bytes]]:
        """(stream, data) of a process that is followed; asked for with the first of them."""
        response = await self.stream(method, path)
        try:
            async for frame in response.frames():
                yield frame
        finally:
            response.close()

    async def objects(
        self, method: str, path: str, body: object = None, source: bytes | AsyncIterator[bytes] | None = None,
        headers: str = "",
    ) -> AsyncIterator[Object]:  # fmt: skip
        """The objects of an answer, one a line, as they come; asked for with the first of them."""
        response = await self.stream(method, path, body, source, headers)
        try:
            async for line in response.lines():
                if line.strip():
                    yield json.loads(line)
        finally:
            response.close()

    async def finish(
        self, method: str, path: str, body: object = None, source: bytes | AsyncIterator[bytes] | None = None
    ) -> Object:
        """The last object of a progress stream. Raises APIError for an error in it."""
        last: Object = {}
        async for message in self.objects(method, path, body, source):
            last = told(message)
        return last

    async def converse(self, response: AsyncResponse, data: bytes | None) -> tuple[bytes, bytes]:
        """Writes the input and reads the output at once, so that neither waits for the other: (stdout, stderr)."""
        feeding = asyncio.ensure_future(_feed(response, data))
        try:
            parts: dict[int, list[bytes]] = {1: [], 2: []}
            async for stream, piece in response.frames():
                parts[2 if stream == 2 else 1].append(piece)
            return b"".join(parts[1]), b"".join(parts[2])
        finally:
            response.close()
            feeding.cancel()


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def _feed(response: AsyncResponse, data: bytes | None) -> None:
    if data is None:
        return
    try:
        response.writer.write(data)
        await response.writer.drain()
        response.writer.write_eof()
    except OSError:
        pass  # it ended before it had read all
