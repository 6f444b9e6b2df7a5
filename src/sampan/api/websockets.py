"""Terminals for browsers: a process's streams over a WebSocket, where Docker's clients take the connection over."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import WSMsgType, web

from sampan.api import access, attach, streams
from sampan.api import execs as serving
from sampan.engine.container import Container
from sampan.engine.errors import EngineError
from sampan.engine.execs import Exec, Execs
from sampan.engine.model import ExecRequest
from sampan.keeper.client import KeeperGone
from sampan.runtime.errors import RuntimeFailure

Resize = Callable[[int, int], Awaitable[None]]
_SHELL = ["/bin/sh", "-c", "command -v bash >/dev/null 2>&1 && exec bash; exec sh"]
_LARGEST = 1 << 20
_PATIENCE = 2.0  # seconds that a client has to tell its size


class Socket:
    """A WebSocket as a client of a terminal: bytes are its input and output, texts are sizes."""

    def __init__(self, response: web.WebSocketResponse) -> None:
        self._response = response
        self._sink: streams.Sink | None = None
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.closed = asyncio.Event()
        self.size: asyncio.Future[tuple[int, int]] = (
            asyncio.get_running_loop().create_future()
        )  # the first that it tells

    def feed(self, sink: streams.Sink) -> None:
        """Sends what the client sends to `sink` from now on."""
        self._sink = sink

    async def write(self, data: bytes) -> None:
        """Writes, waiting while the client's buffer is full."""
        if self.closed.is_set():
            raise ConnectionResetError("the client is gone")
        await self._response.send_bytes(data)

    def hung_up(self) -> bool:
        """Whether the client is gone."""
        return self.closed.is_set()

    def pause_reading(self) -> None:
        """Stops taking input for a while."""
        self._flowing.clear()

    def resume_reading(self) -> None:
        """Takes input again."""
        self._flowing.set()

    def close(self) -> None:
        """Ends the connection; who reads it sees that."""
        if not self.closed.is_set():
            asyncio.get_running_loop().create_task(self._response.close())

    async def read(self, resize: Resize) -> None:
        """Takes what the client sends until it is gone."""
        async for message in self._response:
            if message.type == WSMsgType.BINARY and self._sink is not None:
                self._sink.write(message.data)
                await self._flowing.wait()
            elif message.type == WSMsgType.TEXT:
                rows, columns = _size(message.data)
                if not self.size.done():
                    self.size.set_result((rows, columns))
                elif rows and columns:
                    await resize(rows, columns)
        self.closed.set()
        if self._sink is not None:
            self._sink.lost()


def _size(text: str) -> tuple[int, int]:
    try:
        found = json.loads(text)
        rows, columns = int(found["rows"]), int(found["columns"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return 0, 0
    return (rows, columns) if 0 < rows < 1000 and 0 < columns < 1000 else (0, 0)


def _shell(execs: Execs, container: Container, command: list[str]) -> Exec:
    """A process that ends with its client."""
    request = ExecRequest(
        cmd=tuple(command), tty=True, kill_on_disconnect=True, attach_stdin=True, attach_stdout=True, attach_stderr=True
    )
    return execs.create(container, request)


class _Plain(Socket):
    """A WebSocket whose messages, of either kind, are input: also those that come before there is anybody to read it."""

    def __init__(self, response: web.WebSocketResponse) -> None:
        super().__init__(response)
        self._early: list[bytes] = []

    def feed(self, sink: streams.Sink) -> None:
        """As Socket.feed."""
        super().feed(sink)
        for data in self._early:
            sink.write(data)
        self._early.clear()

    async def read(self, resize: Resize | None = None) -> None:
        """Takes what the client sends until it is gone."""
        async for message in self._response:
            if message.type in (WSMsgType.BINARY, WSMsgType.TEXT):
                data = message.data if isinstance(message.data, bytes) else message.data.encode()
                if self._sink is not None:
                    self._sink.write(data)
                    await self._flowing.wait()
                elif sum(map(len, self._early)) < _LARGEST:
                    self._early.append(data)
        self.closed.set()
        if self._sink is not None:
            self._sink.lost()


async def attach_ws(request: web.Request) -> web.StreamResponse:
    """GET /containers/{id}/attach/ws: what `attach` does, over a WebSocket and without frames"""
    response = web.WebSocketResponse(max_msg_size=_LARGEST, heartbeat=30)
    reading: list[asyncio.Future[None]] = []

    async def upgraded(container: Container) -> _Plain:
        await response.prepare(request)
        client = _Plain(response)
        reading.append(asyncio.ensure_future(client.read()))
        return client

    try:
        await attach.attached(request, upgraded, framed=False)
    finally:
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
    return response


async def terminal(request: web.Request) -> web.StreamResponse:
    """GET /sampan/containers/{id}/terminal: a shell in it or, with attach=1, its own terminal."""
    engine, container = access.container(request)
    own = request.query.get("attach") == "1"
    response = web.WebSocketResponse(protocols=("sampan",), max_msg_size=_LARGEST, heartbeat=30)
    session = None if own else _shell(engine.execs, container, request.query.getall("cmd", _SHELL))
    await response.prepare(request)
    client = Socket(response)

    async def resize(rows: int, columns: int) -> None:
        try:
            await engine.execs.resize(session.id if session else container.id, rows, columns)
        except (EngineError, RuntimeFailure, KeeperGone):
            pass  # it has just ended

    reading = asyncio.ensure_future(client.read(resize))
    try:
        with contextlib.suppress(TimeoutError):
            size = await asyncio.wait_for(asyncio.shield(client.size), _PATIENCE)
            if session is not None:
                session.config = msgspec.structs.replace(session.config, console_size=size)
        if session is None:
            await attach.attach_terminal(engine.logs, engine.keeper, engine.tasks, container, client)
        else:
            ends = await engine.execs.start(session)
            await serving.serve(engine.execs, session, ends, client, b"")
    except (RuntimeFailure, EngineError, KeeperGone, OSError) as error:
        if not client.closed.is_set():
            await response.send_bytes(f"{error}\r\n".encode())
            await response.close()
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    return response
