"""A client's SSH agents, as sockets of the engine's own while a build lasts: what is mounted is never the client's path."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import tempfile
from collections.abc import AsyncIterator

_BLOCK = 32 << 10


@contextlib.asynccontextmanager
async def relayed(sockets: dict[str, int], directory: str) -> AsyncIterator[dict[str, str]]:
    """Paths by name, each of a socket that leads to the one behind the descriptor."""
    if not sockets:
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="agents-", dir=directory) as top:
        servers: list[asyncio.Server] = []
        found: dict[str, str] = {}
        try:
            for number, (name, fd) in enumerate(sorted(sockets.items())):
                found[name] = f"{top}/{number}"

                async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, fd: int = fd) -> None:
                    with contextlib.suppress(OSError):
                        await _relay(fd, reader, writer)
                    writer.close()

                listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                listening.bind(found[name])
                os.chmod(found[name], 0o600)
                servers.append(await asyncio.start_unix_server(serve, sock=listening))
            yield found
        finally:
            for server in servers:
                server.close()


async def _relay(fd: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    agent, to_agent = await asyncio.open_unix_connection(f"/proc/self/fd/{fd}")

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(_BLOCK):
            target.write(data)
            await target.drain()
        with contextlib.suppress(OSError):
            target.write_eof()

    try:
        await asyncio.gather(copy(reader, to_agent), copy(agent, writer))
    finally:
        to_agent.close()
