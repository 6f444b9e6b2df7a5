"""The two connections that BuildKit's clients take over: /grpc, which we serve, and /session, which they serve."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from grpclib.server import Server

from sampan.api import access
from sampan.api.buildkit.control import Control, Jobs
from sampan.api.buildkit.sessions import CONFIG, Sessions, take_over
from sampan.engine.builds import Builds
from sampan.engine.policy.caller import Caller, Owner
from sampan.engine.policy.gate import Gate
from sampan.engine.registries import Registries
from sampan.images.store import ImageStore


@dataclass(slots=True)
class Upload:
    """A context that comes in a request of its own: where it is, and when it is no longer needed."""

    ready: asyncio.Future[str]
    done: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True)
class BuildKit:
    """The state of an engine's BuildKit side, made when it is first asked for."""

    builds: Builds
    images: ImageStore
    registries: Registries
    gate: Gate
    sessions: Sessions = field(default_factory=Sessions)
    jobs: Jobs = field(default_factory=dict)
    uploads: dict[tuple[Owner, str], Upload] = field(default_factory=dict)

    def upload(self, who: Caller, identifier: str) -> Upload:
        """The upload of somebody's build, whichever of its two requests comes first."""
        return self.uploads.setdefault((who.owner, identifier), Upload(asyncio.get_running_loop().create_future()))


async def serve(buildkit: BuildKit, request: web.Request) -> None:
    """POST /grpc: serves HTTP/2 on the connection until it ends."""
    control = Control(
        buildkit.builds,
        buildkit.images,
        buildkit.registries,
        buildkit.gate,
        access.who(request),
        buildkit.sessions,
        buildkit.jobs,
    )
    server: Any = Server(
        [control], config=CONFIG
    )  # of one connection: whatever is asked on it is for whoever has made it
    transport = take_over(request)
    protocol = server._protocol_factory()
    transport.set_protocol(protocol)
    protocol.connection_made(transport)
    while not transport.is_closing():
        await asyncio.sleep(0.2)
