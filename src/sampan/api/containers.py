"""/containers: create to remove."""

from __future__ import annotations

import asyncio
import contextlib
import json

from aiohttp import web

from sampan import logline
from sampan.api import access, decode, listing
from sampan.api.requests import body, engine_of, filters, flag, number
from sampan.engine import (
    pools,
    stats,
    waiting,
)
from sampan.engine.errors import BadRequest, Conflict, DiskError, Forbidden
from sampan.engine.filters import containers as wanted
from sampan.engine.policy.facts import isolation_of

_LONGEST_NAME = 255  # as of any file


def _name(request: web.Request) -> str:
    name = request.query.get("name", "")
    if len(name) > _LONGEST_NAME:
        raise BadRequest(f"invalid container name ({name[:40]}...): {len(name)} characters, {_LONGEST_NAME} at most")
    return name


async def create(request: web.Request) -> web.Response:
    """POST /containers/create"""
    engine = engine_of(request)
    wanted = decode.create_request(await body(request))
    container, warnings = await engine.creation.create(
        access.who(request), wanted, _name(request), request.query.get("platform", "")
    )
    isolation = isolation_of(container)
    return web.json_response({"Id": container.id, "Warnings": warnings, "Isolation": isolation}, status=201)


async def list_(request: web.Request) -> web.Response:
    """GET /containers/json"""
    engine = engine_of(request)
    who, asked = access.who(request), filters(request)
    passes = wanted.listed(engine.containers, engine.networks, engine.images, engine.finding.sees(who), asked)
    rows = wanted.select(engine.finding.containers(who), passes, asked, flag(request, "all"), number(request, "limit"))
    shown = [listing.summary(engine.networks, container) for container in rows]
    if flag(request, "size"):
        for container, row in zip(rows, shown, strict=True):
            row |= await pools.run("look", listing.sizes, engine.containers, engine.images, container)
    return web.json_response(shown)


async def inspect(request: web.Request) -> web.Response:
    """GET /containers/{id}/json"""
    engine, container = access.container(request)
    shown = listing.details(engine.containers, engine.networks, engine.execs, container)
    if flag(request, "size"):
        shown |= await pools.run("look", listing.sizes, engine.containers, engine.images, container)
    return web.json_response(shown)


async def start(request: web.Request) -> web.Response:
    """POST /containers/{id}/start"""
    engine, container = access.container(request)
    if request.query.get("checkpoint"):
        raise BadRequest("checkpoint is only supported in experimental mode")
    if request.query.get("checkpoint-dir"):
        raise Forbidden("custom checkpointdir is not supported")
    if await body(request, optional=True):
        raise BadRequest(
            "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24"
        )
    warnings = await engine.lifecycle.start(container)
    response = web.Response(status=204)
    for text in warnings:
        response.headers.add("Warning", f'199 sampan "{logline.one_line(text)}"')  # RFC 7234, section 5.5
    return response


async def stop(request: web.Request) -> web.Response:
    """POST /containers/{id}/stop"""
    engine, container = access.container(request)
    await engine.killing.stop(container, number(request, "t"), request.query.get("signal", ""))
    return web.Response(status=204)


async def restart(request: web.Request) -> web.Response:
    """POST /containers/{id}/restart"""
    engine, container = access.container(request)
    await engine.lifecycle.restart(container, number(request, "t"), request.query.get("signal", ""))
    return web.Response(status=204)


async def kill(request: web.Request) -> web.Response:
    """POST /containers/{id}/kill"""
    engine, container = access.container(request)
    try:
        await engine.killing.kill(container, request.query.get("signal", ""))
    except (BadRequest, Conflict) as error:
        raise type(error)(f"cannot kill container: {request.match_info['id']}: {error}") from None
    return web.Response(status=204)


async def pause(request: web.Request) -> web.Response:
    """POST /containers/{id}/pause"""
    engine, container = access.container(request)
    await engine.freezing.pause(container)
    return web.Response(status=204)


async def unpause(request: web.Request) -> web.Response:
    """POST /containers/{id}/unpause"""
    engine, container = access.container(request)
    await engine.freezing.unpause(container)
    return web.Response(status=204)


async def wait(request: web.Request) -> web.StreamResponse:
    """POST /containers/{id}/wait: the headers go out at once, so the client knows we are waiting.

    A code that was told stands, whatever happens to the power; but nobody waits longer because the disk takes nothing.
    """
    engine, container = access.container(request)
    future = waiting.wait(container, request.query.get("condition", ""))
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    try:
        code = await future
        if not container.host_config.auto_remove:
            with contextlib.suppress(DiskError):
                await engine.store.flush()
        await response.write(json.dumps({"StatusCode": code}).encode() + b"\n")
    finally:
        future.cancel()
    return response


async def remove(request: web.Request) -> web.Response:
    """DELETE /containers/{id}"""
    engine, container = access.container(request)
    if flag(request, "link"):
        raise BadRequest("a link is a name that a container has for another: it goes with that container")
    await engine.removing.remove(container, flag(request, "force"), flag(request, "v"))
    return web.Response(status=204)


async def rename(request: web.Request) -> web.Response:
    """POST /containers/{id}/rename"""
    engine, container = access.container(request)
    await engine.updating.rename(access.who(request), container, _name(request))
    return web.Response(status=204)


async def update(request: web.Request) -> web.Response:
    """POST /containers/{id}/update"""
    engine, container = access.container(request)
    asked = decode.host_config(await body(request, optional=True))
    return web.json_response({"Warnings": await engine.updating.update(container, asked) or None})


async def resize(request: web.Request) -> web.Response:
    """POST /containers/{id}/resize"""
    engine, container = access.container(request)
    rows, columns = number(request, "h"), number(request, "w")
    if rows is None or columns is None:
        raise BadRequest("resize needs h and w")
    await engine.execs.resize(container.id, rows, columns)
    engine.events.announce(container, "resize", height=str(rows), width=str(columns))
    return web.Response(status=200)


async def top(request: web.Request) -> web.Response:
    """GET /containers/{id}/top"""
    engine, container = access.container(request)
    if not container.running:
        raise Conflict(f"container {container.id} is not running")
    arguments = request.query.get("ps_args", "")
    engine.events.announce(container, "top")
    return web.json_response(await engine.backends.of(container).processes(container, arguments))


async def stats_(request: web.Request) -> web.StreamResponse:
    """GET /containers/{id}/stats"""
    engine, container = access.container(request)
    stream = flag(request, "stream", True)
    if not stream:
        first = None
        if not flag(request, "one-shot") and container.running:
            first = await engine.usage.sample(container, None)
            await asyncio.sleep(1)
        return web.json_response(await engine.usage.sample(container, first))
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    previous: stats.Sample | None = None
    while not container.removed:
        previous = await engine.usage.sample(container, previous)
        await response.write(json.dumps(previous).encode() + b"\n")
        await asyncio.sleep(1)
    return response


async def footprint(request: web.Request) -> web.Response:
    """GET /sampan/containers/{id}/footprint: bytes of memory and disk that are there because of it"""
    engine, container = access.container(request)
    return web.json_response(await pools.run("look", engine.usage.footprint, container))


async def prune(request: web.Request) -> web.Response:
    """POST /containers/prune"""
    passes = wanted.pruned(filters(request))
    pruned = await engine_of(request).pruning.containers(access.who(request), passes)
    return web.json_response({"ContainersDeleted": pruned.names or None, "SpaceReclaimed": pruned.freed})
