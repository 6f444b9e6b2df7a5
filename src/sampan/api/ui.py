"""The page: a port on loopback for those who have a token, with the API behind it."""

from __future__ import annotations

import asyncio
import functools
import mimetypes
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from sampan.api import access, door, errors, server
from sampan.api.access import Ask
from sampan.api.comparisons import HOST
from sampan.api.requests import ENGINE, body
from sampan.api.routes import Route
from sampan.api.server import application
from sampan.engine.engine import Engine
from sampan.engine.errors import BadRequest
from sampan.engine.policy.caller import at_page
from sampan.engine.policy.operation import Verb
from sampan.web.sessions import Sessions

Bind = Callable[[str, str, int], socket.socket]
_FILES = Path(__file__).resolve().parents[1] / "web/static"
_PROTOCOL = "sampan"
_HEADERS = {
    # Styles are made by the terminal as it goes; nothing else may come from within the page or from elsewhere.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'; frame-src 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}  # fmt: skip


class Page:
    """The port, while somebody wants it."""

    def __init__(self, engine: Engine, host: str, bind: Bind) -> None:
        self._engine, self._host, self._bind = engine, host, bind
        self.sessions = Sessions()
        self._runner: web.AppRunner | None = None
        self._lock = asyncio.Lock()
        self.port = 0

    async def open(self, port: int, user: str) -> str:
        """The page's address with a token for a user. Raises BadRequest when the port is taken."""
        async with self._lock:
            if self._runner is None:
                await self._listen(port)
            elif port not in (0, self.port):
                raise BadRequest(f"the page is on port {self.port} already: sampan ui --off ends it")
        return f"http://127.0.0.1:{self.port}/#token={self.sessions.offer(user)}"

    async def _listen(self, port: int) -> None:
        app = web.Application(middlewares=[self._guard], client_max_size=16 << 20)
        app.router.add_post("/session", self._session)
        app.add_subapp("/api", application(self._engine, self._host))
        app.router.add_get("/{path:.*}", self._file)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1.0, **door.SETTINGS)
        await runner.setup()
        try:
            await door.Site(runner, self._bind("tcp", "127.0.0.1", port)).start()
        except OSError as error:
            await runner.cleanup()
            raise BadRequest(f"port {port}: {error.strerror or error}") from None
        self._runner, self.port = runner, int(runner.addresses[0][1])

    async def close(self) -> None:
        """Takes the port away, and every key with it."""
        async with self._lock:
            self.sessions.clear()
            if self._runner is not None:
                await self._runner.cleanup()
                self._runner, self.port = None, 0

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        """Answers only by the names of this machine, which another site's name made to lead here is not (DNS rebinding), and
        the API only for those who have a key."""
        if request.host not in (f"127.0.0.1:{self.port}", f"localhost:{self.port}"):
            return errors.response(403, f"the page is at 127.0.0.1:{self.port}, and {request.host} is another name")
        if request.path.startswith("/api/"):
            user = self.sessions.user(_key(request))
            if user is None:
                return errors.response(401, "no session: run `sampan ui` for a new address")
            origin = request.headers.get("Origin")
            if origin is not None and origin != f"http://{request.host}":
                return errors.response(403, f"not for pages of {origin}")
            access.enter(request, at_page(user))
            return await handler(request)  # type: ignore[no-any-return]
        response: web.StreamResponse = await handler(request)
        response.headers.update(_HEADERS)
        return response

    async def _session(self, request: web.Request) -> web.Response:
        """POST /session: a token for a key."""
        key = self.sessions.redeem(str((await body(request)).get("token", "")))
        if key is None:
            return errors.response(
                401, "this address has been used, or is older than five minutes: run `sampan ui` for a new one"
            )
        return web.json_response({"key": key})

    async def _file(self, request: web.Request) -> web.Response:
        name = request.match_info["path"] or "index.html"
        path = _known().get(name)
        if path is None:
            return errors.response(404, "page not found")
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        return web.Response(
            body=path.read_bytes(), content_type=kind, charset="utf-8" if kind.startswith("text/") else None
        )


PAGE: web.AppKey[Page] = web.AppKey("page", Page)


@functools.cache
def _known() -> dict[str, Path]:
    """The page's files by name: nothing else is ever opened."""
    return {str(path.relative_to(_FILES)): path for path in _FILES.rglob("*") if path.is_file()}


def _key(request: web.Request) -> str:
    """The key of a request: a browser's WebSocket can say nothing but a list of protocols."""
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    if scheme == "Bearer":
        return key
    protocols = [text.strip() for text in request.headers.get("Sec-WebSocket-Protocol", "").split(",")]
    return protocols[1] if len(protocols) == 2 and protocols[0] == _PROTOCOL else ""


async def open_(request: web.Request) -> web.Response:
    """POST /sampan/ui: {"Port": 0}: an address that counts once"""
    port = (await body(request, optional=True)).get("Port") or 0
    if not isinstance(port, int) or not 0 <= port < 1 << 16:
        raise BadRequest(f"invalid port {port!r}")
    page = request.app[PAGE]
    return web.json_response({"Url": await page.open(port, access.who(request).user), "Port": page.port})


async def close(request: web.Request) -> web.Response:
    """DELETE /sampan/ui"""
    await request.app[PAGE].close()
    return web.Response(status=204)


def add(app: web.Application, bind: Bind) -> Page:
    """Lets those on the socket ask for the page. `bind`: what listens on the host, as network.ports.bind() does."""
    app[PAGE] = page = Page(app[ENGINE], app[HOST], bind)
    server.add(app, Route("POST", "/sampan/ui", open_, Ask(Verb.INFORM)))
    server.add(app, Route("DELETE", "/sampan/ui", close, Ask(Verb.ADMINISTER)))
    return page
