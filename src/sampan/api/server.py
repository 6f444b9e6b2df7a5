"""The application: routes, version negotiation, errors."""

from __future__ import annotations

import asyncio
import logging
from typing import NoReturn

from aiohttp import web

from sampan.api import (
    access,
    attach,
    builds,
    comparisons,
    containers,
    errors,
    execs,
    images,
    machines,
    piped,
    registries,
    system,
    system_vms,
)
from sampan.api.requests import ENGINE, begin, begun, engine_of
from sampan.api.routes import ROUTES, Handler, Route
from sampan.engine.engine import Engine
from sampan.engine.errors import DiskError

_log = logging.getLogger(__name__)

# What is told a client as it goes on. They look after themselves: what they show ends with the client, what they do does not.
_STREAMS = (
    containers.wait,
    attach.attach,
    execs.start,
    images.load,
    images.create,
    registries.push,
    builds.build,
    builds.build_here,
    builds.grpc,
    builds.session,
    comparisons.measure,
    machines.prepare,
    system_vms.create,
)


# Their records are written to the disk while they work.
# What they do is true whatever the disk says: the records follow when it can.
_HAS_HAPPENED = (
    containers.stop,
    containers.kill,
    containers.pause,
    containers.unpause,
    system_vms.stop,
    system_vms.act,
)
_DURABLE = (containers.start, system_vms.start)


def _carried(handler: Handler) -> Handler:
    """Answers as `handler` does, which goes on to its end when its client leaves: what it changes would be half done.

    What it has recorded is on disk when its client is told.
    """

    async def whole(request: web.Request) -> web.StreamResponse:
        response = await handler(request)
        if handler not in _DURABLE:
            try:
                await engine_of(request).store.flush()
            except DiskError as error:
                if handler not in _HAS_HAPPENED:
                    raise
                _log.error(f"{request.path}: {error}")
        return response

    async def answer(request: web.Request) -> web.StreamResponse:
        return await engine_of(request).tasks.carry(whole(request))

    return answer


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


@web.middleware
async def _guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Checks the API version and turns every exception into Docker's JSON error."""
    _log.debug("%s %s", request.method, request.path)  # without its query: that may hold secrets
    asked = request.match_info.get("version")
    if asked:
        if _parts(asked) > _parts(system.MAX_API):
            return errors.response(
                400, f"client version {asked} is too new. Maximum supported API version is {system.MAX_API}"
            )
        if _parts(asked) < _parts(system.MIN_API):
            return errors.response(
                400,
                f"client version {asked} is too old. Minimum supported API version is {system.MIN_API}, "
                "please upgrade your client to a newer version",
            )
    for name, value in [*request.match_info.items(), *request.query.items()]:
        if "\0" in value or "\0" in name:
            return errors.response(400, f"invalid value for {name!r}: a NUL byte")
    try:
        access.enter(request)
        response = await handler(request)
    except web.HTTPNotFound:
        return await _without_slash(request) or errors.response(404, "page not found")
    except web.HTTPMethodNotAllowed:
        return await _without_slash(request) or errors.response(404, "page not found")  # as Docker says it
    except web.HTTPException:
        raise
    except ConnectionError:
        raise asyncio.CancelledError from None  # the client is gone: nobody to tell
    except Exception as error:
        status = errors.status_of(error)
        if status == 500 and not errors.is_expected(error):
            _log.exception("%s %s", request.method, request.path)
        if begun(request):
            _break_off(request, error)
        return (errors.headed if request.method == "HEAD" else errors.response)(status, errors.message_of(error))
    response.headers.setdefault("Server", "Sampan")
    return response


async def _without_slash(request: web.Request) -> web.StreamResponse | None:
    """The answer of the path without the "/" at its end, if there is one: Go's clients send it."""
    path = request.rel_url.raw_path
    if request.match_info.http_exception is None or len(path) < 2 or not path.endswith("/"):
        return None
    again = request.clone(rel_url=request.rel_url.with_path(path.rstrip("/") or "/", encoded=True, keep_query=True))
    found = await request.app.router.resolve(again)
    if found.http_exception is not None:
        return None
    found.add_app(request.app)
    again._match_info = found
    answer: web.StreamResponse = await _guard(again, found.handler)
    return answer


def _break_off(request: web.Request, error: Exception) -> NoReturn:
    """Ends an answer that can't be finished so that its reader knows: a second answer, or the last chunk, would be taken for data."""
    _log.error(f"{request.method} {request.path} is broken off: {error}")
    if request.transport is not None:
        request.transport.abort()
    raise asyncio.CancelledError from None


async def _mark(request: web.Request, response: web.StreamResponse) -> None:
    begin(request)


def application(engine: Engine, host: str) -> web.Application:
    """The API of an engine as an aiohttp application. `host`: where its socket is ("unix:///path")."""
    app = web.Application(middlewares=[_guard], client_max_size=16 << 20)
    app[ENGINE], app[comparisons.HOST] = engine, host
    app[builds.BUILDKIT] = []
    piped.add(app)
    app.on_response_prepare.append(_mark)
    for route in ROUTES:
        add(app, route)
    return app


def add(app: web.Application, route: Route) -> None:
    """Makes an application answer a path, with and without a version: the gate is asked before anything else is done."""
    plain = route.handler
    handler = plain if route.method in ("GET", "HEAD") or plain in _STREAMS else _carried(plain)

    async def asked(request: web.Request) -> web.StreamResponse:
        access.settle(request, route.asks)
        return await handler(request)

    for prefix in ("", r"/v{version:\d+\.\d+}"):
        app.router.add_route(route.method, prefix + route.path, asked)
