"""The door: how many connections there may be, and who has to go when there are too many.

Each connection costs a descriptor, of which the engine needs some for every container. So there are fewer of them than descriptors:
when they are used up, an idle one of the process with most of them goes; one that has most of them, all in use, gets no more.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import struct
import time
from collections import Counter
from typing import Any, cast
from weakref import WeakKeyDictionary

from aiohttp import web, web_runner

_MOST = 4096  # connections, however many descriptors there are
_WAITING = 1024  # that the kernel keeps until they are taken
_SHARE = 4  # one in so many descriptors may be a connection
_REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"

# What aiohttp says of requests that are no HTTP: tracebacks as large as their senders please. Errors of ours api/server prints.
_quiet = logging.getLogger("sampan.http")
_quiet.setLevel(logging.CRITICAL)

# When a connection came, in seconds since boot: who has its pid now and is younger is somebody else.
SINCE: WeakKeyDictionary[asyncio.BaseTransport, float] = WeakKeyDictionary()

# Of every server: aiohttp's, with room for the headers and queries that Docker's clients send.
SETTINGS: dict[str, Any] = {
    "access_log": None,
    "logger": _quiet,
    "handle_signals": False,
    "auto_decompress": False,  # a body's size is what was sent; Docker reads compressed archives by their first bytes
    "max_line_size": 512 << 10,  # buildargs and filters
    "max_field_size": 512 << 10,  # X-Registry-Config
    "keepalive_timeout": 300.0,
}


def limit() -> int:
    """How many connections there may be."""
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return max(16, min(_MOST, descriptors // _SHARE))


class Door(asyncio.Protocol):
    """A connection that has just come: becomes HTTP's, or is told that there are too many."""

    def __init__(self, server: web.Server, most: int) -> None:
        self._server, self._most = server, most

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of asyncio.Protocol."""
        transport = cast(asyncio.Transport, transport)
        if len(self._server.connections) >= self._most and not _make_room(self._server, transport, self._most):
            text = b'{"message":"too many connections: %d are open"}' % self._most
            transport.write(_REFUSAL % (len(text), text))
            transport.close()
            return
        SINCE[transport] = time.clock_gettime(time.CLOCK_BOOTTIME)
        handler = self._server()
        transport.set_protocol(handler)
        handler.connection_made(transport)


def _make_room(server: web.Server, comer: asyncio.Transport, most: int) -> bool:
    """Ends the longest idle connection of the process that has most of them. False when that is the one who comes, and all are in use."""
    open_ = [
        (_process(handler.transport), handler)
        for handler in server.connections
        if handler.transport is not None and not handler.transport.is_closing()
    ]
    if len(open_) < most:
        return True
    counts = Counter(process for process, _ in open_)
    worst, who = max(counts, key=lambda process: counts[process]), _process(comer)
    if _end_idle(open_, worst):
        return True
    if who == worst:
        return False
    # A quarter more is kept for those who have few.
    if counts[who] < most // 8 and len(open_) < most + most // 4:
        return True
    idle = Counter(process for process, handler in open_ if handler._current_request is None)
    return bool(idle) and _end_idle(open_, max(idle, key=lambda process: idle[process]))


def _end_idle(open_: list[tuple[int, Any]], process: int) -> bool:
    for owner, handler in open_:  # the oldest first
        if owner == process and handler._current_request is None:
            handler.transport.abort()
            return True
    return False


def _process(transport: Any) -> int:
    """The process at the other end of a unix socket."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family != socket.AF_UNIX or sock.fileno() < 0:
        return 0
    return int(struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0])


class Site(web.SockSite):
    """An application, which is set up, behind a door on a listening socket."""

    async def start(self) -> None:
        """Begins to serve."""
        await web_runner.BaseSite.start(self)
        server, most = cast(web.Server, self._runner.server), limit()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Door(server, most), sock=self._sock, backlog=_WAITING)
