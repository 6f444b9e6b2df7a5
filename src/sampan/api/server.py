"""The application: routes, version negotiation, errors."""

from __future__ import annotations

import asyncio
import sys
import traceback
from collections.abc import Awaitable, Callable
from typing import NoReturn

from aiohttp import web

from sampan.api import (
    builds,
    comparisons,
    containers,
    errors,
    images,
    interactive,
    machines,
    metrics,
    networks,
    piped,
    policy,
    registries,
    system,
    systemmachines,
    transfer,
    websockets,
)
from sampan.api.requests import ENGINE, begin, begun, engine_of, peer
from sampan.engine.engine import Engine
from sampan.engine.errors import DiskError
from sampan.engine.policy import caller

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_ROUTES: list[tuple[str, str, Handler]] = [
    ("GET", "/_ping", system.ping),
    ("HEAD", "/_ping", system.ping),
    ("GET", "/version", system.version),
    ("GET", "/info", system.info),
    ("GET", "/plugins", system.plugins),
    ("GET", "/events", system.events),
    ("GET", "/metrics", metrics.metrics),
    ("GET", "/system/df", system.disk_usage),
    ("POST", "/containers/create", containers.create),
    ("GET", "/containers/json", containers.list_),
    ("POST", "/containers/prune", containers.prune),
    ("GET", "/containers/{id}/json", containers.inspect),
    ("POST", "/containers/{id}/start", containers.start),
    ("POST", "/containers/{id}/stop", containers.stop),
    ("POST", "/containers/{id}/restart", containers.restart),
    ("POST", "/containers/{id}/kill", containers.kill),
    ("POST", "/containers/{id}/pause", containers.pause),
    ("POST", "/containers/{id}/unpause", containers.unpause),
    ("POST", "/containers/{id}/wait", containers.wait),
    ("POST", "/containers/{id}/rename", containers.rename),
    ("POST", "/containers/{id}/update", containers.update),
    ("POST", "/containers/{id}/resize", containers.resize),
    ("GET", "/containers/{id}/top", containers.top),
    ("GET", "/containers/{id}/stats", containers.stats_),
    ("DELETE", "/containers/{id}", containers.remove),
    ("POST", "/containers/{id}/attach", interactive.attach),
    ("GET", "/containers/{id}/logs", interactive.container_logs),
    ("POST", "/containers/{id}/exec", interactive.exec_create),
    ("POST", "/exec/{id}/start", interactive.exec_start),
    ("POST", "/exec/{id}/resize", interactive.exec_resize),
    ("POST", "/exec/{id}/kill", interactive.exec_kill),
    ("GET", "/exec/{id}/json", interactive.exec_inspect),
    ("HEAD", "/containers/{id}/archive", transfer.head_archive),
    ("GET", "/containers/{id}/archive", transfer.get_archive),
    ("PUT", "/containers/{id}/archive", transfer.put_archive),
    ("GET", "/containers/{id}/export", transfer.export),
    ("GET", "/containers/{id}/changes", transfer.changes),
    ("POST", "/commit", transfer.commit),
    ("GET", "/images/json", images.list_),
    ("GET", "/images/get", images.save),
    ("GET", "/images/search", registries.search),
    ("POST", "/images/load", images.load),
    ("POST", "/images/create", images.create),
    ("POST", "/images/prune", images.prune),
    ("GET", "/images/{name:.+}/json", images.inspect),
    ("GET", "/images/{name:.+}/history", images.history),
    ("GET", "/images/{name:.+}/get", images.save),
    ("POST", "/images/{name:.+}/push", registries.push),
    ("POST", "/images/{name:.+}/tag", images.tag),
    ("POST", "/auth", registries.auth),
    ("GET", "/distribution/{name:.+}/json", registries.distribution),
    ("DELETE", "/images/{name:.+}", images.remove),
    ("POST", "/sampan/bootstrap", images.make),
    ("POST", "/build", builds.build),
    ("POST", "/build/prune", builds.prune),
    ("POST", "/grpc", builds.grpc),
    ("POST", "/session", builds.session),
    ("POST", "/sampan/build", builds.build_here),
    ("GET", "/sampan/containers/{id}/footprint", containers.footprint),
    ("GET", "/sampan/containers/{id}/terminal", websockets.terminal),
    ("GET", "/sampan/overview", system.overview_),
    ("GET", "/sampan/comparisons", comparisons.list_),
    ("POST", "/sampan/comparisons", comparisons.keep),
    ("GET", "/sampan/comparisons/{name}", comparisons.show),
    ("POST", "/sampan/compare", comparisons.measure),
    ("POST", "/sampan/policy/check", policy.check),
    ("POST", "/sampan/policy/explain", policy.explain),
    ("POST", "/sampan/vm/prepare", machines.prepare),
    ("POST", "/sampan/vm/create", systemmachines.create),
    ("GET", "/sampan/vm/export", systemmachines.export),
    ("GET", "/sampan/vm/json", systemmachines.list_),
    ("GET", "/sampan/vm/{name}/json", systemmachines.inspect),
    ("POST", "/sampan/vm/{name}/start", systemmachines.start),
    ("POST", "/sampan/vm/{name}/stop", systemmachines.stop),
    ("POST", "/sampan/vm/{name}/{action:kill|pause|unpause|reset}", systemmachines.act),
    ("POST", "/sampan/vm/{name}/snapshots/{snapshot}/{action}", systemmachines.snapshot),
    ("DELETE", "/sampan/vm/{name}", systemmachines.remove),
    ("POST", "/volumes/create", system.volume_create),
    ("POST", "/volumes/prune", system.volume_prune),
    ("GET", "/volumes", system.volume_list),
    ("GET", "/volumes/{name}", system.volume_inspect),
    ("DELETE", "/volumes/{name}", system.volume_remove),
    ("GET", "/networks", networks.list_),
    ("POST", "/networks/create", networks.create),
    ("POST", "/networks/prune", networks.prune),
    ("GET", "/networks/{id}", networks.inspect),
    ("DELETE", "/networks/{id}", networks.remove),
    ("POST", "/networks/{id}/connect", networks.connect),
    ("POST", "/networks/{id}/disconnect", networks.disconnect),
]


# What is told a client as it goes on. They look after themselves: what they show ends with the client, what they do does not.
_STREAMS = (
    containers.wait,
    interactive.attach,
    interactive.exec_start,
    images.load,
    images.create,
    registries.push,
    builds.build,
    builds.build_here,
    builds.grpc,
    builds.session,
    comparisons.measure,
    machines.prepare,
    systemmachines.create,
)


# Their records are written to the disk while they work.
# What they do is true whatever the disk says: the records follow when it can.
_HAS_HAPPENED = (
    containers.stop,
    containers.kill,
    containers.pause,
    containers.unpause,
    systemmachines.stop,
    systemmachines.act,
)
_DURABLE = (containers.start, systemmachines.start)


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
                print(f"sampand: {request.path}: {error}", file=sys.stderr)
        return response

    async def answer(request: web.Request) -> web.StreamResponse:
        return await engine_of(request).carry(whole(request))

    return answer


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


@web.middleware
async def _guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Checks the API version and turns every exception into Docker's JSON error."""
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
    found = peer(request)
    if found is not None:
        caller.enter(caller.user_name(found[1]))
    try:
        response = await handler(request)
    except web.HTTPNotFound:
        return await _without_slash(request) or errors.response(404, "page not found")
    except web.HTTPMethodNotAllowed:
        return await _without_slash(request) or errors.response(405, "method not allowed")
    except web.HTTPException:
        raise
    except ConnectionError:
        raise asyncio.CancelledError from None  # the client is gone: nobody to tell
    except Exception as error:
        status = errors.status_of(error)
        if status == 500 and not errors.is_expected(error):
            traceback.print_exc(file=sys.stderr)
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
    print(f"sampand: {request.method} {request.path} is broken off: {error}", file=sys.stderr)
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
    for method, path, plain in _ROUTES:
        handler = plain if method in ("GET", "HEAD") or plain in _STREAMS else _carried(plain)
        for prefix in ("", r"/v{version:\d+\.\d+}"):
            app.router.add_route(method, prefix + path, handler)
    return app
