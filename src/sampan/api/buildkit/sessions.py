"""Sessions: connections on which the client serves the engine its files, secrets, credentials and agents."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

from aiohttp import web
from grpclib.client import Channel
from grpclib.config import Configuration
from grpclib.const import Cardinality, Status
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError

from sampan.api import access
from sampan.api.buildkit import messages
from sampan.api.requests import begin
from sampan.build.errors import BuildError
from sampan.engine.policy.caller import Caller, Owner
from sampan.images.registry.auth import Credentials

_WINDOW = 4 << 20
CONFIG = Configuration(http2_connection_window_size=_WINDOW, http2_stream_window_size=_WINDOW)
_WAIT = 10.0


def take_over(request: web.Request) -> asyncio.Transport:
    """Answers 101 and takes the connection away from HTTP/1; HTTP/2 follows on it."""
    begin(request)
    transport = cast(asyncio.Transport, request.transport)
    transport.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
    return transport


class _Channel(Channel):
    """A gRPC channel over a connection that is there already."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__("session", 1, config=CONFIG)
        # At once: the client's first frames come unasked, and are not HTTP/1's to read.
        self._ready = self._protocol_factory()
        transport.set_protocol(self._ready)
        self._ready.connection_made(transport)

    async def _create_connection(self) -> Any:
        return self._ready


class Session:
    """One client's session. `methods` are what it serves, as paths."""

    def __init__(self, transport: asyncio.Transport, methods: list[str]) -> None:
        self._transport = transport
        self._channel = _Channel(transport)
        self.methods = set(methods)

    @asynccontextmanager
    async def stream(
        self, path: str, sends: str, receives: str, metadata: dict[str, str] | list[tuple[str, str]]
    ) -> AsyncIterator[Any]:
        """A stream in both directions."""
        done = False
        try:
            async with self._channel.request(
                path, Cardinality.STREAM_STREAM, messages.kind(sends), messages.kind(receives), metadata=metadata
            ) as stream:
                yield stream
                done = True
        except (StreamTerminatedError, ProtocolError):
            if not done:  # a Go server that has answered resets what we have not closed: no news
                raise

    async def ask(self, path: str, request: object, receives: str) -> Any:
        """A request with one answer. Raises GRPCError."""
        async with self._channel.request(
            path, Cardinality.UNARY_UNARY, type(request), messages.kind(receives), timeout=60
        ) as stream:
            await stream.send_message(request, end=True)
            return await stream.recv_message()

    async def secret(self, name: str) -> bytes | None:
        """A secret's content, or None when the client has none of that name."""
        path = "/moby.buildkit.secrets.v1.Secrets/GetSecret"
        if path not in self.methods:
            return None
        try:
            return bytes((await self.ask(path, messages.new("GetSecretRequest", ID=name), "GetSecretResponse")).data)
        except GRPCError as error:
            if error.status == Status.NOT_FOUND:
                return None
            raise BuildError(f"secret {name}: {error.message}") from None

    async def credentials(self, host: str) -> Credentials:
        """What the client has for a registry."""
        path = "/moby.filesync.v1.Auth/Credentials"
        if path not in self.methods:
            return Credentials()
        try:
            found = await self.ask(path, messages.new("CredentialsRequest", Host=host), "CredentialsResponse")
        except (GRPCError, StreamTerminatedError):
            return Credentials()
        if found.Secret and not found.Username:
            return Credentials(identity_token=found.Secret)
        return Credentials(found.Username, found.Secret)

    def close(self) -> None:
        """Ends it."""
        self._channel.close()
        self._transport.close()


class Sessions:
    """The sessions there are, by whose they are and the id that the client has given them."""

    def __init__(self) -> None:
        self._sessions: dict[tuple[Owner, str], Session] = {}
        self._news = asyncio.Condition()

    async def serve(self, request: web.Request) -> None:
        """POST /session: keeps the session until its connection ends."""
        identifier = (access.who(request).owner, request.headers.get("X-Docker-Expose-Session-Uuid", ""))
        methods = request.headers.getall("X-Docker-Expose-Session-Grpc-Method", [])
        transport = take_over(request)
        session = Session(transport, methods)
        async with self._news:
            self._sessions[identifier] = session
            self._news.notify_all()
        try:
            while not transport.is_closing():
                await asyncio.sleep(0.2)
        finally:
            self._sessions.pop(identifier, None)
            session.close()

    async def get(self, who: Caller, identifier: str) -> Session:
        """A session of somebody's, which may still be on its way: to others there is none. Raises BuildError."""
        key = (who.owner, identifier)
        try:
            async with asyncio.timeout(_WAIT), self._news:
                await self._news.wait_for(lambda: key in self._sessions)
                return self._sessions[key]
        except TimeoutError:
            raise BuildError(f"no active session for {identifier}: context deadline exceeded") from None
