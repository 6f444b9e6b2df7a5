"""/containers: create to remove."""

from __future__ import annotations

import asyncio
import contextlib
import json

from aiohttp import web

from sampan.api import access, decode, errors, listing
from sampan.api.requests import body, engine_of, filters, flag, number
from sampan.engine import (
    creation,
    execs,
    freezing,
    killing,
    lifecycle,
    pools,
    removing,
    sampling,
    stats,
    updating,
    waiting,
)
from sampan.engine.errors import BadRequest, DiskError, NotModified
from sampan.engine.filters import containers as wanted

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
    container, warnings = await creation.create(
        engine, access.who(request), wanted, _name(request), request.query.get("platform", "")
    )
    isolation = "vm" if container.virtual else "container"
    return web.json_response({"Id": container.id, "Warnings": warnings, "Isolation": isolation}, status=201)


async def list_(request: web.Request) -> web.Response:
    """GET /containers/json"""
    engine = engine_of(request)
    rows = listing.select(engine, access.who(request), filters(request), flag(request, "all"), number(request, "limit"))
    shown = [listing.summary(engine, container) for container in rows]
    if flag(request, "size"):
        for container, row in zip(rows, shown, strict=True):
            row |= await pools.run("look", listing.sizes, engine, container)
    return web.json_response(shown)


async def inspect(request: web.Request) -> web.Response:
    """GET /containers/{id}/json"""
    engine, container = access.container(request)
    shown = listing.details(engine, container)
    if flag(request, "size"):
        shown |= await pools.run("look", listing.sizes, engine, container)
    return web.json_response(shown)


async def start(request: web.Request) -> web.Response:
    """POST /containers/{id}/start"""
    engine, container = access.container(request)
    warnings = await lifecycle.start(engine, container)
    response = web.Response(status=204)
    for text in warnings:
        response.headers.add("Warning", f'199 sampan "{errors.one_line(text)}"')  # RFC 7234, section 5.5
    return response


async def stop(request: web.Request) -> web.Response:
    """POST /containers/{id}/stop"""
    engine, container = access.container(request)
    await killing.stop(engine, container, number(request, "t"), request.query.get("signal", ""))
    return web.Response(status=204)


async def restart(request: web.Request) -> web.Response:
    """POST /containers/{id}/restart"""
    engine, container = access.container(request)
    await lifecycle.restart(engine, container, number(request, "t"), request.query.get("signal", ""))
    return web.Response(status=204)


async def kill(request: web.Request) -> web.Response:
    """POST /containers/{id}/kill"""
    engine, container = access.container(request)
    await killing.kill(engine, container, request.query.get("signal", ""))
    return web.Response(status=204)


async def pause(request: web.Request) -> web.Response:
    """POST /containers/{id}/pause"""
    await freezing.pause(*access.container(request))
    return web.Response(status=204)


async def unpause(request: web.Request) -> web.Response:
    """POST /containers/{id}/unpause"""
    await freezing.unpause(*access.container(request))
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
        for waiters in (container.exit_waiters, container.remove_waiters):
            if future in waiters:
                waiters.remove(future)
    return response


async def remove(request: web.Request) -> web.Response:
    """DELETE /containers/{id}"""
    engine, container = access.container(request)
    await removing.remove(engine, container, flag(request, "force"), flag(request, "v"))
    return web.Response(status=204)


async def rename(request: web.Request) -> web.Response:
    """POST /containers/{id}/rename"""
    engine, container = access.container(request)
    await updating.rename(engine, access.who(request), container, _name(request))
    return web.Response(status=204)


async def update(request: web.Request) -> web.Response:
    """POST /containers/{id}/update"""
    engine, container = access.container(request)
    return web.json_response(
        {"Warnings": await updating.update(engine, container, decode.host_config(await body(request)))}
    )


async def resize(request: web.Request) -> web.Response:
    """POST /containers/{id}/resize"""
    engine, container = access.container(request)
    rows, columns = number(request, "h"), number(request, "w")
    if rows is None or columns is None:
        raise BadRequest("resize needs h and w")
    await execs.resize(engine, container.id, rows, columns)
    return web.Response(status=200)


async def top(request: web.Request) -> web.Response:
    """GET /containers/{id}/top"""
    engine, container = access.container(request)
    if not container.running:
        from sampan.engine.errors import Conflict

        raise Conflict(f"container {container.id} is not running")
    arguments = request.query.get("ps_args", "")
    if container.virtual:
        return web.json_response(stats.top_of(await engine.machines.ask(container, "processes"), arguments))
    return web.json_response(await pools.run("look", stats.top, container, arguments))


async def stats_(request: web.Request) -> web.StreamResponse:
    """GET /containers/{id}/stats"""
    engine, container = access.container(request)
    stream = flag(request, "stream", True)
    if not stream:
        first = None
        if not flag(request, "one-shot") and container.running:
            first = await sampling.sample(engine, container, None)
            await asyncio.sleep(1)
        return web.json_response(await sampling.sample(engine, container, first))
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    previous: stats.Sample | None = None
    while not container.removed:
        previous = await sampling.sample(engine, container, previous)
        await response.write(json.dumps(previous).encode() + b"\n")
        await asyncio.sleep(1)
    return response


async def footprint(request: web.Request) -> web.Response:
    """GET /sampan/containers/{id}/footprint: bytes of memory and disk that are there because of it"""
    engine, container = access.container(request)
    return web.json_response(await pools.run("look", sampling.footprint, engine, container))


async def prune(request: web.Request) -> web.Response:
    """POST /containers/prune"""
    engine = engine_of(request)
    passes = wanted.pruned(filters(request))
    deleted, freed = [], 0
    for container in engine.finding.containers(access.who(request)):
        if (
            container.running
            or container.system
            or container.broken
            or container.state.restarting
            or not passes(container)
        ):
            continue
        freed += await pools.run("look", listing.tree_size, f"{engine.containers.directory(container)}/upper")
        try:
            await removing.remove(engine, container)
        except NotModified:
            continue
        deleted.append(container.id)
    return web.json_response({"ContainersDeleted": deleted, "SpaceReclaimed": freed})
