"""Exec: further processes in a container, for the clients that have their streams."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import Any

import msgspec
from aiohttp import web

from sampan.api import access, decode, streams
from sampan.api.requests import body, engine_of, number
from sampan.api.streams import Client
from sampan.engine.errors import BadRequest, EngineError
from sampan.engine.execs import Exec, Execs, Streams, check_startable, extra
from sampan.engine.tasks import Tasks
from sampan.keeper.client import KeeperGone
from sampan.linux import signals
from sampan.runtime.errors import RuntimeFailure


async def create(request: web.Request) -> web.Response:
    """POST /containers/{id}/exec"""
    engine, container = access.container(request)
    wanted = decode.exec_request(await body(request))
    engine.gate.ask_container(access.who(request), access.verb(request), container, extra(wanted))
    session = engine.execs.create(container, wanted)
    return web.json_response({"Id": session.id}, status=201)


async def start(request: web.Request) -> web.StreamResponse:
    """POST /exec/{id}/start"""
    engine, session = engine_of(request), access.execution(request)
    options = decode.exec_start(await body(request, optional=True))
    if options.console_size:
        session.config = msgspec.structs.replace(session.config, console_size=options.console_size)
    if options.detach:
        session.config = msgspec.structs.replace(
            session.config, attach_stdin=False, attach_stdout=False, attach_stderr=False
        )
        await engine.tasks.carry(_start_detached(engine.execs, engine.tasks, session))
        return web.Response(status=200)
    check_startable(session)
    # As Docker does: the connection is taken over first, so the headers travel alone (docker-py loses
    # what arrives with them, P048), and a failure to start arrives in the stream.
    tty = session.config.tty
    try:
        keys = streams.detach_sequence(session.config.detach_keys)
    except ValueError as error:
        raise BadRequest(str(error)) from None
    client = streams.hijack(request, tty)
    # Shielded: the end of the connection cancels this handler, not the start nor the clean-up of descriptors.
    await asyncio.shield(engine.tasks.beside(_converse(engine.execs, session, client, keys)))
    return web.Response()


async def _converse(execs: Execs, session: Exec, client: Client, keys: bytes) -> None:
    tty = session.config.tty
    try:
        ends = await execs.start(session)
    except (RuntimeFailure, EngineError, KeeperGone, OSError) as error:
        text = f"{error}\r\n".encode()
        with contextlib.suppress(ConnectionError):
            await client.write(text if tty else streams.frame(2, text))
        client.close()
        await client.closed.wait()
        return
    await serve(execs, session, ends, client, keys)


async def _start_detached(execs: Execs, tasks: Tasks, session: Exec) -> None:
    ends = await execs.start(session)
    if ends.stdin >= 0:
        tasks.beside(_hold_terminal(session, ends.stdin))


async def _hold_terminal(session: Exec, master: int) -> None:
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


async def _kill_on_disconnect(execs: Execs, session: Exec, client: Client) -> None:
    """For an exec that asked for it: the end of its client is its own."""
    while not session.done.is_set():
        if client.closed.is_set() or client.hung_up():
            execs.kill(session)
            return
        await asyncio.sleep(0.2)


async def serve(execs: Execs, session: Exec, ends: Streams, client: Client, detach_keys: bytes) -> None:
    """Copies both ways until the process has ended, or the client is gone or has detached."""
    tty = session.config.tty
    sink = None
    watching = None
    if session.config.kill_on_disconnect:
        watching = asyncio.ensure_future(_kill_on_disconnect(execs, session, client))
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


async def inspect(request: web.Request) -> web.Response:
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
                **({"user": config.user} if config.user else {}),
            },
            "OpenStdin": config.attach_stdin,
            "OpenStdout": config.attach_stdout,
            "OpenStderr": config.attach_stderr,
            "CanRemove": session.code is not None,
            "ContainerID": session.container.id,
            "DetachKeys": "",
            "Pid": session.process.pid if session.process is not None else 0,
        }
    )


async def kill(request: web.Request) -> web.Response:
    """POST /exec/{id}/kill: ends the process and all it has started. Sampan's own."""
    session = access.execution(request)
    try:
        engine_of(request).execs.kill(session, signals.number(request.query.get("signal") or "KILL"))
    except ValueError as error:
        raise BadRequest(str(error)) from None
    return web.Response(status=204)


async def resize(request: web.Request) -> web.Response:
    """POST /exec/{id}/resize"""
    engine, session = engine_of(request), access.execution(request)
    rows, columns = number(request, "h"), number(request, "w")
    if rows is None or columns is None:
        raise BadRequest("resize needs h and w")
    await engine.execs.resize(session.id, rows, columns)
    return web.Response(status=200)
