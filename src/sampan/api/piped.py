"""Answers that a thread makes: archives of files and images, as long as whoever reads them pleases.

Each has a thread of its own and a pipe. A reader that does not read holds this one thread, which no other request waits for; when
there are as many of a kind as there may be, the one that has not been read from for longest is ended. An error after the first byte
ends the connection without the last chunk, so that nobody takes what came for all of it (api/server).
"""

from __future__ import annotations

import asyncio
import contextvars
import fcntl
import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import IO

from aiohttp import web

from sampan.engine.errors import Busy

Produce = Callable[[IO[bytes]], None]

_LIMIT = 32  # of each kind at once
_STALLED = 10.0  # seconds without a byte read, after which one may be ended for the sake of another
_PATIENCE = 5.0  # seconds to wait for a place
_BLOCK = 256 << 10


class _Stream:
    """One answer under way."""

    def __init__(self, transport: asyncio.Transport | None) -> None:
        self._transport = transport
        self.moved = time.monotonic()

    def end(self) -> None:
        """Takes the connection away from a client that does not read."""
        if self._transport is not None:
            self._transport.abort()


class Places:
    """How many answers of one kind there are, and whose place another may have."""

    def __init__(self, kind: str, limit: int = _LIMIT) -> None:
        self._kind, self._limit = kind, limit
        self._streams: set[_Stream] = set()
        self._left = asyncio.Event()

    async def take(self, transport: asyncio.Transport | None) -> _Stream:
        """Raises Busy when nobody leaves in time."""
        deadline = time.monotonic() + _PATIENCE
        while len(self._streams) >= self._limit:
            self._left.clear()
            slowest = min(self._streams, key=lambda stream: stream.moved)
            if time.monotonic() - slowest.moved > _STALLED:
                slowest.end()
            try:
                await asyncio.wait_for(self._left.wait(), max(0.05, min(1.0, deadline - time.monotonic())))
            except TimeoutError:
                if time.monotonic() > deadline:
                    raise Busy(f"too many at once: {self._limit} of {self._kind} are under way") from None
        stream = _Stream(transport)
        self._streams.add(stream)
        return stream

    def leave(self, stream: _Stream) -> None:
        """Gives the place back."""
        self._streams.discard(stream)
        self._left.set()


PLACES: web.AppKey[dict[str, Places]] = web.AppKey("places", dict)


def add(app: web.Application) -> None:
    """Gives an application its places."""
    app[PLACES] = {}


async def answer(
    request: web.Request, kind: str, produce: Produce, headers: dict[str, str] | None = None
) -> web.StreamResponse:
    """Sends what `produce` writes. An error before the first byte is an error reply."""
    places = request.app[PLACES].setdefault(kind, Places(kind))
    stream = await places.take(request.transport)
    async with _producing(produce, lambda: places.leave(stream)) as (source, done):
        first = await _read(source)
        if not first:
            await done
        response = web.StreamResponse(headers={"Content-Type": "application/x-tar", **(headers or {})})
        await response.prepare(request)
        while first:
            await response.write(first)
            stream.moved = time.monotonic()
            first = await _read(source)
        await done
    return response


@asynccontextmanager
async def _producing(produce: Produce, left: Callable[[], None]) -> AsyncIterator[tuple[int, asyncio.Future[None]]]:
    """A thread that writes into a pipe: the end to read from, and how it ends. Its end is `left`, whenever that comes."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, _BLOCK)
    except OSError:
        pass  # the user's share of pipe buffers is used up: a smaller one does as well
    os.set_blocking(reader, False)

    def ended(error: BaseException | None) -> None:
        left()
        if done.done():
            return
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

    def run() -> None:
        error: BaseException | None = None
        try:
            with os.fdopen(writer, "wb") as out:
                produce(out)
        except BaseException as found:
            error = found
        try:
            loop.call_soon_threadsafe(ended, error)
        except RuntimeError:
            pass  # the daemon has ended

    context = contextvars.copy_context()
    try:
        threading.Thread(target=context.run, args=(run,), daemon=True, name="stream").start()
    except BaseException:
        os.close(reader)
        os.close(writer)
        left()
        raise
    try:
        yield reader, done
    finally:
        os.close(reader)  # whoever still writes gets EPIPE
        done.add_done_callback(_heard)


def _heard(done: asyncio.Future[None]) -> None:
    if not done.cancelled():
        done.exception()


async def _read(fd: int) -> bytes:
    """Some bytes, or none at the end."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            return os.read(fd, _BLOCK)
        except BlockingIOError:
            ready = loop.create_future()
            loop.add_reader(fd, _wake, ready)
            try:
                await ready
            finally:
                loop.remove_reader(fd)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
