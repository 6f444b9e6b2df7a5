"""Attach, logs and exec: everything that carries a process's streams."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
from aiohttp import web

from sampan.api import access, decode, streams
from sampan.api.requests import body, engine_of, flag, number
from sampan.engine import execs, keeperlink, lines, output
from sampan.engine.container import Container, timestamp
from sampan.engine.engine import Engine
from sampan.engine.errors import BadRequest, EngineError
from sampan.engine.moments import moment, never
from sampan.keeper.client import KeeperGone
from sampan.keeper.frames import Frame
from sampan.keeper.protocol import CloseStdin, GetStdin
from sampan.linux import signals
from sampan.runtime.errors import RuntimeFailure

Resize = Callable[[int, int], Awaitable[None]]


class Client(Protocol):
    """Whoever has a process's streams: a connection taken over, or a WebSocket."""

    closed: asyncio.Event

    def feed(self, sink: streams.Sink) -> None: ...
    async def write(self, data: bytes) -> None: ...
    def hung_up(self) -> bool: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def close(self) -> None: ...


async def attach(request: web.Request) -> web.StreamResponse:
    """POST /containers/{id}/attach"""
    engine, container = access.container(request)
    if container.state.paused:
        from sampan.engine.errors import Conflict

        raise Conflict(f"container {container.id} is paused, unpause the container before attach")
    try:
        keys = streams.detach_sequence(request.query.get("detachKeys"))
    except ValueError as error:
        raise BadRequest(str(error)) from error
    wanted = {number_ for number_, name in ((1, "stdout"), (2, "stderr")) if flag(request, name)}
    follow, replay = flag(request, "stream"), flag(request, "logs")
    log = output.open_log(engine, container, follow)
    if not replay:
        log.reader.seek(log.reader.end())
    stdin = flag(request, "stdin") and container.config.open_stdin
    # As Docker's: who attaches to one that has ended is about to start it, unless it is what was that is asked for.
    ended = output.end_of(container, next_run=not replay)
    try:
        client = streams.hijack(request, container.tty)
    except BaseException:
        log.close()
        raise
    session = _Attachment(client, log, ended, wanted, follow, replay, stdin, keys if container.tty else b"")
    # Shielded: the end of the connection cancels this handler, not the clean-up of descriptors.
    await asyncio.shield(engine.background(_serve_attach(engine, container, session)))
    return web.Response()


async def attach_terminal(engine: Engine, container: Container, client: Client) -> None:
    """A container's own terminal for a client, with what it has shown before."""
    log = output.open_log(engine, container, follows=True)
    session = _Attachment(client, log, output.end_of(container), {1, 2}, True, True, container.config.open_stdin, b"")
    await _serve_attach(engine, container, session)


@dataclass(slots=True)
class _Attachment:
    """What an attached client asked for."""

    client: Client
    log: output.Log
    ended: asyncio.Future[int]
    wanted: set[int]
    follow: bool
    replay: bool
    stdin: bool
    detach_keys: bytes


async def _serve_attach(engine: Engine, container: Container, session: _Attachment) -> None:
    client, input_task = session.client, None
    if session.stdin:
        input_task = engine.background(_attach_input(engine, container, client, session.detach_keys))
    if session.follow or session.replay:
        await _copy_output(engine, container, session)
    elif input_task is not None:
        await client.closed.wait()
    session.log.close()
    if input_task is not None:
        input_task.cancel()
    client.close()
    await client.closed.wait()


async def _copy_output(engine: Engine, container: Container, session: _Attachment) -> None:
    client = session.client

    async def copy() -> None:
        if not session.follow:
            while found := await session.log.read():
                for frame in found:
                    await _send(client, container, frame, session.wanted)
            return
        async for frame in output.follow(engine, container, session.log, session.ended):
            await _send(client, container, frame, session.wanted)

    task = asyncio.ensure_future(copy())
    gone = asyncio.ensure_future(client.closed.wait())
    both: set[asyncio.Future[Any]] = {task, gone}
    await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    for each in both:
        each.cancel()
    await asyncio.gather(*both, return_exceptions=True)


async def _send(client: Client, container: Container, frame: Frame, wanted: set[int]) -> None:
    if frame.stream in wanted or container.tty:
        await client.write(frame.data if container.tty else streams.frame(frame.stream, frame.data))


async def _attach_input(engine: Engine, container: Container, client: Client, keys: bytes) -> None:
    """Waits until the container runs, then passes input on. Closing input closes the container's stdin
    only where it was made for one client (StdinOnce) or the client half-closed."""
    while not container.running:
        if container.removed or client.closed.is_set():
            return
        await asyncio.sleep(0.002)
    try:
        stdin = await engine.keeper.call(GetStdin(container.id))
    except (RuntimeFailure, KeeperGone):
        return

    def ended() -> None:
        if not container.tty and container.config.stdin_once:
            keeperlink.forget_stdin(container)
            engine.background(_close_stdin(engine, container))

    sink = streams.Sink(stdin, client, ended, keys)
    try:
        client.feed(sink)
        await sink.detached.wait()
        client.close()
    finally:
        sink.stop()


async def _close_stdin(engine: Engine, container: Container) -> None:
    try:
        await engine.keeper.call(CloseStdin(container.id))
    except (RuntimeFailure, KeeperGone):
        pass


async def container_logs(request: web.Request) -> web.StreamResponse:
    """GET /containers/{id}/logs"""
    engine, container = access.container(request)
    wanted = {number_ for number_, name in ((1, "stdout"), (2, "stderr")) if flag(request, name)}
    if not wanted:
        raise BadRequest("Bad parameters: you must choose at least one stream")
    if container.host_config.log_config.driver == "none":
        raise web.HTTPNotImplemented(
            text='{"message":"configured logging driver does not support reading"}', content_type="application/json"
        )
    since = moment(request.query.get("since"), 0)
    until = moment(never(request.query.get("until")), 2**62 / 1e9)
    tail = request.query.get("tail") or "all"
    timestamps = flag(request, "timestamps")
    chosen = lines.Wanted(frozenset({1, 2} if container.tty else wanted), since, until)

    def render(line: Frame) -> bytes:
        data = f"{timestamp(line.time)} ".encode() + line.data if timestamps else line.data
        return data if container.tty else streams.frame(line.stream, data)

    kind = streams.RAW if container.tty else streams.MULTIPLEXED
    response = web.StreamResponse(headers={"Content-Type": kind})
    log = output.open_log(engine, container, flag(request, "follow"))
    try:
        count = int(tail) if tail.isdecimal() else None
        pieces = log.all(lines.written(log.reader, count, chosen, render))
        first = await anext(pieces, b"")  # a disk that fails is told as an error, while there is no answer yet
        await response.prepare(request)
        await response.write(first)
        async for piece in pieces:
            await response.write(piece)
        if flag(request, "follow"):
            await _follow_logs(engine, container, response, log, chosen, render)
    finally:
        log.close()
    return response


async def _follow_logs(engine, container, response, log, chosen, render) -> None:  # type: ignore[no-untyped-def]
    joined = lines.Lines()
    deadline = chosen.until / 1e9 - time.time()

    async def copy() -> None:
        async for frame in output.follow(engine, container, log, output.end_of(container)):
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


async def exec_create(request: web.Request) -> web.Response:
    """POST /containers/{id}/exec"""
    engine, container = access.container(request)
    wanted = decode.exec_request(await body(request))
    engine.gate.ask_container(access.who(request), access.verb(request), container, execs.extra(wanted))
    session = execs.create(engine, container, wanted)
    return web.json_response({"Id": session.id}, status=201)


async def exec_start(request: web.Request) -> web.StreamResponse:
    """POST /exec/{id}/start"""
    engine, session = engine_of(request), access.execution(request)
    options = decode.exec_start(await body(request, optional=True))
    if options.console_size:
        session.config = msgspec.structs.replace(session.config, console_size=options.console_size)
    if options.detach:
        session.config = msgspec.structs.replace(
            session.config, attach_stdin=False, attach_stdout=False, attach_stderr=False
        )
        await engine.carry(_start_detached(engine, session))
        return web.Response(status=200)
    execs.check_startable(session)
    # As Docker does: the connection is taken over first, so the headers travel alone (docker-py loses
    # what arrives with them, P048), and a failure to start arrives in the stream.
    tty = session.config.tty
    try:
        keys = streams.detach_sequence(session.config.detach_keys)
    except ValueError as error:
        raise BadRequest(str(error)) from None
    client = streams.hijack(request, tty)
    # Shielded: the end of the connection cancels this handler, not the start nor the clean-up of descriptors.
    await asyncio.shield(engine.background(_converse(engine, session, client, keys)))
    return web.Response()


async def _converse(engine: Engine, session: execs.Exec, client: Client, keys: bytes) -> None:
    tty = session.config.tty
    try:
        ends = await execs.start(engine, session)
    except (RuntimeFailure, EngineError, KeeperGone, OSError) as error:
        text = f"{error}\r\n".encode()
        with contextlib.suppress(ConnectionError):
            await client.write(text if tty else streams.frame(2, text))
        client.close()
        await client.closed.wait()
        return
    await serve_exec(session, ends, client, keys)


async def _start_detached(engine: Engine, session: execs.Exec) -> None:
    ends = await execs.start(engine, session)
    if ends.stdin >= 0:
        engine.background(_hold_terminal(session, ends.stdin))


async def _hold_terminal(session: execs.Exec, master: int) -> None:
    """A detached exec with a terminal keeps it until the process has ended; its output is dropped."""
    loop = asyncio.get_running_loop()
    os.set_blocking(master, False)

    def drop() -> None:
        try:
            os.read(master, 1 << 16)
        except OSError:
            loop.remove_reader(master)

    loop.add_reader(master, drop)
    await session.done.wait()
    loop.remove_reader(master)
    os.close(master)


async def _kill_on_disconnect(session: execs.Exec, client: Client) -> None:
    """For an exec that asked for it: the end of its client is its own."""
    while not session.done.is_set():
        if client.closed.is_set() or client.hung_up():
            execs.kill(session)
            return
        await asyncio.sleep(0.2)


async def serve_exec(session: execs.Exec, ends: execs.Streams, client: Client, detach_keys: bytes) -> None:
    tty = session.config.tty
    sink = None
    watching = None
    if session.config.kill_on_disconnect:
        watching = asyncio.ensure_future(_kill_on_disconnect(session, client))
    if session.config.attach_stdin and ends.stdin >= 0:
        sink = streams.Sink(
            os.dup(ends.stdin) if tty else ends.stdin, client, lambda: None, detach_keys if tty else b""
        )
        client.feed(sink)
    pumps = []
    for number_, fd in ((1, ends.stdout), (2, ends.stderr)):
        if fd >= 0:
            pumps.append(asyncio.ensure_future(_pump(fd, number_, tty, client)))
    if pumps:
        everything = asyncio.gather(*pumps, return_exceptions=True)
        gone = asyncio.ensure_future(client.closed.wait())
        left = asyncio.ensure_future(sink.detached.wait()) if sink is not None else gone
        both: set[asyncio.Future[Any]] = {everything, gone, left}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if gone.done() or left.done():
            for pump in pumps:
                pump.cancel()
        gone.cancel()
        left.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
    if not client.closed.is_set() and not (sink is not None and sink.detached.is_set()):
        await session.done.wait()
    if watching is not None:
        await watching
    if sink is not None:
        sink.stop()
    for fd in {ends.stdout, ends.stderr} - {-1}:
        os.close(fd)
    client.close()
    await client.closed.wait()


async def _pump(fd: int, stream: int, tty: bool, client: Client) -> None:
    """Copies a descriptor to the client until its end."""
    loop = asyncio.get_running_loop()
    os.set_blocking(fd, False)
    ready = asyncio.Event()
    while True:
        try:
            data = os.read(fd, 64 << 10)
        except BlockingIOError:
            ready.clear()
            loop.add_reader(fd, ready.set)
            try:
                await ready.wait()
            finally:
                loop.remove_reader(fd)
            continue
        except OSError:
            return
        if not data:
            return
        await client.write(data if tty else streams.frame(stream, data))


async def exec_inspect(request: web.Request) -> web.Response:
    """GET /exec/{id}/json"""
    session = access.execution(request)
    config = session.config
    return web.json_response(
        {
            "ID": session.id,
            "Running": session.running,
            "ExitCode": session.code,
            "ProcessConfig": {
                "tty": config.tty,
                "entrypoint": config.cmd[0],
                "arguments": list(config.cmd[1:]),
                "privileged": config.privileged,
                "user": config.user,
            },
            "OpenStdin": config.attach_stdin,
            "OpenStdout": config.attach_stdout,
            "OpenStderr": config.attach_stderr,
            "CanRemove": session.code is not None,
            "ContainerID": session.container.id,
            "DetachKeys": "",
            "Pid": session.pid,
        }
    )


async def exec_kill(request: web.Request) -> web.Response:
    """POST /exec/{id}/kill: ends the process and all it has started. Sampan's own."""
    session = access.execution(request)
    try:
        execs.kill(session, signals.number(request.query.get("signal") or "KILL"))
    except ValueError as error:
        raise BadRequest(str(error)) from None
    return web.Response(status=204)


async def exec_resize(request: web.Request) -> web.Response:
    """POST /exec/{id}/resize"""
    engine, session = engine_of(request), access.execution(request)
    rows, columns = number(request, "h"), number(request, "w")
    if rows is None or columns is None:
        raise BadRequest("resize needs h and w")
    await execs.resize(engine, session.id, rows, columns)
    return web.Response(status=200)
