"""The two connections that BuildKit's clients take over: /grpc, which we serve, and /session, which they serve."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from grpclib.server import Server

from sampan.api.buildkit.control import Control
from sampan.api.buildkit.sessions import CONFIG, Sessions, take_over
from sampan.engine.engine import Engine


@dataclass(slots=True)
class Upload:
    """A context that comes in a request of its own: where it is, and when it is no longer needed."""

    ready: asyncio.Future[str]
    done: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True)
class BuildKit:
    """The state of an engine's BuildKit side, made when it is first asked for."""

    sessions: Sessions
    server: Any
    uploads: dict[str, Upload] = field(default_factory=dict)

    def upload(self, identifier: str) -> Upload:
        """The upload of a build, whichever of its two requests comes first."""
        return self.uploads.setdefault(identifier, Upload(asyncio.get_running_loop().create_future()))


def make(engine: Engine) -> BuildKit:
    """For one engine."""
    sessions = Sessions()
    return BuildKit(sessions, Server([Control(engine, sessions)], config=CONFIG))


async def serve(buildkit: BuildKit, request: web.Request) -> None:
    """POST /grpc: serves HTTP/2 on the connection until it ends."""
    transport = take_over(request)
    protocol = buildkit.server._protocol_factory()
    transport.set_protocol(protocol)
    protocol.connection_made(transport)
    while not transport.is_closing():
        await asyncio.sleep(0.2)
