"""Files that a client names: opened with the client's rights, where the client sees them, once (ADR 28).

Whoever comes by the page or over TCP has no identity on the host, so these are for clients on the unix socket; what a policy
is asked about is where the file is on the host.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator, Iterator

from aiohttp import web

from sampan.api import access, door
from sampan.api.requests import engine_of
from sampan.engine import hostpaths
from sampan.engine.errors import BadRequest, Forbidden
from sampan.linux import peer as peers
from sampan.linux.peer import Peer
from sampan.runtime import borrowed


@contextlib.asynccontextmanager
async def client(request: web.Request, what: str) -> AsyncIterator[Peer]:
    """Who has sent a request that names `what`. Raises BadRequest when there is no telling."""
    sock = request.transport.get_extra_info("socket") if request.transport is not None else None
    if request.transport is None or sock is None or sock.family != socket.AF_UNIX:
        raise BadRequest(f"{what} can be given only over the unix socket")
    since = door.SINCE.get(request.transport, time.clock_gettime(time.CLOCK_BOOTTIME))
    try:
        found = await asyncio.to_thread(peers.of, sock, since)
    except peers.NoPeer as error:
        raise BadRequest(f"{what} can't be read for this client: {error}") from None
    try:
        yield found
    finally:
        found.close()


async def opened(request: web.Request, who: Peer, path: str, kind: str) -> int:
    """A descriptor of the file, directory or socket that a client names. Raises BadRequest, Forbidden."""
    return (await found(request, who, path, kind))[0]


async def found(request: web.Request, who: Peer, path: str, kind: str) -> tuple[int, str]:
    """As opened(), and where it is on the host: "" for what is on no mount of it. Raises BadRequest, Forbidden."""
    if not path.startswith("/"):
        raise BadRequest(f"{path!r} must be an absolute path")
    gate, caller = engine_of(request).gate, access.who(request)
    try:
        fd = await asyncio.to_thread(borrowed.open_as, who, path, kind)
    except OSError as error:
        gate.may_have(caller, os.path.normpath(path))  # whoever may not have it is not told what is there
        raise BadRequest(f"path {path!r}: {os.strerror(error.errno or 0).lower()}") from None
    try:
        place = await asyncio.to_thread(hostpaths.find, fd, who.pid)
        if place is None:
            with telling(f"{path} is on no file system of the host that a rule could name"):
                gate.may_have(caller, "/")
        else:
            gate.may_have(caller, place)
    except BaseException:
        os.close(fd)
        raise
    return fd, place or ""


@contextlib.contextmanager
def telling(why: str) -> Iterator[None]:
    """Says another reason for a refusal."""
    try:
        yield
    except Forbidden:
        raise Forbidden(f"denied by the isolation policy: {why}") from None
