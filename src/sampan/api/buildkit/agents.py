"""SSH agents of the client's, as sockets on this machine while a build lasts."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from typing import Any

from grpclib.exceptions import GRPCError, StreamTerminatedError

from sampan.api.buildkit import messages
from sampan.api.buildkit.sessions import Session

_CHECK, _FORWARD = "/moby.sshforward.v1.SSH/CheckAgent", "/moby.sshforward.v1.SSH/ForwardAgent"


@contextlib.asynccontextmanager
async def forwarded(session: Session, names: set[str], directory: str) -> AsyncIterator[dict[str, str]]:
    """Sockets below `directory` by the agents' ids; those that the client has not are left out."""
    found: dict[str, str] = {}
    servers: list[asyncio.Server] = []
    try:
        for number, name in enumerate(sorted(names) if _FORWARD in session.methods else []):
            try:
                await session.ask(_CHECK, messages.new("CheckAgentRequest", ID=name), "Empty")
            except (GRPCError, StreamTerminatedError):
                continue
            found[name] = f"{directory}/agent{number}"

            async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str = name) -> None:
                with contextlib.suppress(GRPCError, StreamTerminatedError, ConnectionError):
                    await _forward(session, name, reader, writer)
                writer.close()

            servers.append(await asyncio.start_unix_server(serve, found[name]))
            os.chmod(found[name], 0o600)
        yield found
    finally:
        for server in servers:
            server.close()


async def _forward(session: Session, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    async with session.stream(_FORWARD, "BytesMessage", "BytesMessage", {"buildkit.ssh.id": name}) as stream:
        await stream.send_request()

        async def up() -> None:
            while data := await reader.read(32 << 10):
                await stream.send_message(messages.new("BytesMessage", data=data))
            await stream.end()

        async def down() -> None:
            message: Any
            while (message := await stream.recv_message()) is not None:
                writer.write(message.data)
                await writer.drain()

        await asyncio.gather(up(), down())
