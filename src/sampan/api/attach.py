"""Attach and logs: what a container's own process reads and writes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from sampan.api import access, streams
from sampan.api.requests import flag
from sampan.api.streams import Client
from sampan.engine import lines, log_options
from sampan.engine.container import Container, log_timestamp
from sampan.engine.errors import BadRequest, Conflict, Unsupported
from sampan.engine.keeper_link import KeeperLink
from sampan.engine.logs import Log, Logs, end_of
from sampan.engine.moments import moment, never
from sampan.engine.tasks import Tasks
from sampan.keeper.client import KeeperGone
from sampan.keeper.frames import Frame
from sampan.keeper.protocol import CloseStdin, GetStdin
from sampan.runtime.errors import RuntimeFailure


async def attach(request: web.Request) -> web.StreamResponse:
    """POST /containers/{id}/attach"""

    async def hijacked(container: Container) -> Client:
        return streams.hijack(request, container.tty)

    await attached(request, hijacked)
    return web.Response()


async def attached(
    request: web.Request, connect: Callable[[Container], Awaitable[Client]], framed: bool = True
) -> None:
    """Serves who attaches as the query says. `connect` makes the client when it is known that this can be; what goes there has Docker's
    frames if it is to be `framed`. Raises Conflict, BadRequest."""
    engine, container = access.container(request)
    if container.state.paused:
        raise Conflict(f"container {container.id} is paused, unpause the container before attach")
    try:
        keys = streams.detach_sequence(request.query.get("detachKeys"))
    except ValueError as error:
        raise BadRequest(str(error)) from error
    wanted = {number_ for number_, name in ((1, "stdout"), (2, "stderr")) if flag(request, name)}
    follow, replay = flag(request, "stream"), flag(request, "logs")
    log = engine.logs.open(container, follow)
    if not replay:
        log.reader.seek(log.reader.end())
    stdin = flag(request, "stdin") and container.config.open_stdin
    # As Docker's: who attaches to one that has ended is about to start it, unless it is what was that is asked for.
    ended = end_of(container, next_run=not replay)
    try:
        client = await connect(container)
    except BaseException:
        log.close()
        raise
    engine.events.announce(container, "attach")
    session = _Attachment(engine.logs, engine.keeper, engine.tasks, container, client, log, ended)
    session.wanted, session.follow, session.replay, session.stdin = wanted, follow, replay, stdin
    session.detach_keys, session.framed = keys if container.tty else b"", framed and not container.tty
    # Shielded: the end of the connection cancels this handler, not the clean-up of descriptors.
    await asyncio.shield(engine.tasks.beside(session.serve()))


async def attach_terminal(logs: Logs, keeper: KeeperLink, tasks: Tasks, container: Container, client: Client) -> None:
    """A container's own terminal for a client, with what it has shown before."""
    log = logs.open(container, follows=True)
    session = _Attachment(logs, keeper, tasks, container, client, log, end_of(container), {1, 2}, True, True)
    session.stdin = container.config.open_stdin
    await session.serve()


@dataclass(slots=True)
class _Attachment:
    """A client that is attached to a container, and what it asked for."""

    logs: Logs
    keeper: KeeperLink
    tasks: Tasks
    container: Container
    client: Client
    log: Log
    ended: asyncio.Future[int]
    wanted: set[int] = field(default_factory=set)  # streams of the process: 1, 2
    follow: bool = False
    replay: bool = False
    stdin: bool = False
    detach_keys: bytes = b""
    framed: bool = False

    async def serve(self) -> None:
        """Copies both ways until the container has ended or the client is gone."""
        reading = self.tasks.beside(self._pass_input()) if self.stdin else None
        if self.follow or self.replay:
            await self._copy_until_gone()
        elif reading is not None:
            await self.client.closed.wait()
        self.log.close()
        if reading is not None:
            reading.cancel()
        self.client.close()
        await self.client.closed.wait()

    async def _copy_until_gone(self) -> None:
        task = asyncio.ensure_future(self._copy())
        gone = asyncio.ensure_future(self.client.closed.wait())
        both: set[asyncio.Future[Any]] = {task, gone}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for each in both:
            each.cancel()
        await asyncio.gather(*both, return_exceptions=True)

    async def _copy(self) -> None:
        if self.follow:
            async for frame in self.logs.follow(self.container, self.log, self.ended):
                await self._send(frame)
            return
        while found := await self.log.read():
            for frame in found:
                await self._send(frame)

    async def _send(self, frame: Frame) -> None:
        if frame.stream in self.wanted or self.container.tty:
            await self.client.write(streams.frame(frame.stream, frame.data) if self.framed else frame.data)

    async def _pass_input(self) -> None:
        """Waits until the container runs, then passes input on. Closing input closes the container's stdin
        only where it was made for one client (StdinOnce) or the client half-closed."""
        while not self.container.running:
            if self.container.removed or self.client.closed.is_set():
                return
            await asyncio.sleep(0.002)
        try:
            stdin = await self.keeper.call(GetStdin(self.container.id))
        except (RuntimeFailure, KeeperGone):
            return
        sink = streams.Sink(stdin, self.client, self._input_ended, self.detach_keys)
        try:
            self.client.feed(sink)
            await sink.detached.wait()
            self.client.close()
        finally:
            sink.stop()

    def _input_ended(self) -> None:
        if not self.container.tty and self.container.config.stdin_once:
            if self.container.process is not None:
                self.container.process.close_stdin()
            self.tasks.beside(self._close_stdin())

    async def _close_stdin(self) -> None:
        try:
            await self.keeper.call(CloseStdin(self.container.id))
        except (RuntimeFailure, KeeperGone):
            pass


async def logs(request: web.Request) -> web.StreamResponse:
    """GET /containers/{id}/logs"""
    engine, container = access.container(request)
    wanted = {number_ for number_, name in ((1, "stdout"), (2, "stderr")) if flag(request, name)}
    if not wanted:
        raise BadRequest("Bad parameters: you must choose at least one stream")
    if container.host_config.log_config.driver == "none":
        raise Unsupported("configured logging driver does not support reading")
    since = moment(request.query.get("since"), 0)
    until = moment(never(request.query.get("until")), 2**62 / 1e9)
    tail = request.query.get("tail") or "all"
    timestamps = flag(request, "timestamps")
    details = log_options.details(container) if flag(request, "details") else b""
    chosen = lines.Wanted(frozenset({1, 2} if container.tty else wanted), since, until)

    def render(line: Frame) -> bytes:
        data = details + line.data
        if timestamps:
            data = f"{log_timestamp(line.time)} ".encode() + data
        return data if container.tty else streams.frame(line.stream, data)

    kind = streams.RAW if container.tty else streams.MULTIPLEXED
    response = web.StreamResponse(headers={"Content-Type": kind})
    log = engine.logs.open(container, flag(request, "follow"))
    try:
        count = int(tail) if tail.isdecimal() else None
        pieces = log.all(lines.written(log.reader, count, chosen, render))
        first = await anext(pieces, b"")  # a disk that fails is told as an error, while there is no answer yet
        await response.prepare(request)
        await response.write(first)
        async for piece in pieces:
            await response.write(piece)
        if flag(request, "follow"):
            await _follow_logs(engine.logs, container, response, log, chosen, render)
    finally:
        log.close()
    return response


async def _follow_logs(
    logs: Logs,
    container: Container,
    response: web.StreamResponse,
    log: Log,
    chosen: lines.Wanted,
    render: Callable[[Frame], bytes],
) -> None:
    joined = lines.Lines()
    deadline = chosen.until / 1e9 - time.time()

    async def copy() -> None:
        async for frame in logs.follow(container, log, end_of(container)):
            data = b"".join(render(line) for line in joined.add(frame) if chosen.has(line))
            if data:
                await response.write(data)
        data = b"".join(render(line) for line in joined.rest() if chosen.has(line))
        if data:
            await response.write(data)

    try:
        await asyncio.wait_for(copy(), None if deadline > 1e8 else max(0.0, deadline))
    except TimeoutError:
        pass
