"""/volumes"""

from __future__ import annotations

import secrets
from typing import Any

from aiohttp import web

from sampan.api import access, schema
from sampan.api.requests import body, engine_of, filters, flag
from sampan.engine.container import timestamp
from sampan.engine.errors import NotFound
from sampan.engine.filters import volumes as wanted
from sampan.volumes.local import Volume, VolumeNotFound

ANONYMOUS = "com.docker.volume.anonymous"  # a label of volumes that nobody gave a name


def describe(volume: Volume) -> dict[str, Any]:
    """A volume as the API shows it."""
    return {
        "Name": volume.name,
        "Driver": "local",
        "Mountpoint": volume.path,
        "CreatedAt": timestamp(int(volume.created) * 10**9),
        "Labels": {ANONYMOUS: ""} | volume.labels if volume.anonymous else volume.labels or None,
        "Options": volume.options or None,
        "Scope": "local",
        **({"Status": {"Error": volume.broken}} if volume.broken else {}),
    }


async def create(request: web.Request) -> web.Response:
    """POST /volumes/create"""
    asked = schema.check(await body(request, optional=True), schema.VolumeCreate)
    if asked.get("Driver") not in (None, "", "local"):
        driver, name = asked["Driver"], asked.get("Name") or ""
        raise NotFound(f'create {name}: error looking up volume plugin {driver}: plugin "{driver}" not found')
    volume = await engine_of(request).volume_service.create(
        access.who(request),
        asked.get("Name") or secrets.token_hex(32),
        asked.get("Labels") or {},
        asked.get("DriverOpts") or {},
        anonymous=not asked.get("Name"),
    )
    return web.json_response(describe(volume), status=201)


async def list_(request: web.Request) -> web.Response:
    """GET /volumes"""
    engine = engine_of(request)
    passes = wanted.listed(filters(request), lambda name: bool(engine.volume_service.users(name)))
    rows = [describe(volume) for volume in engine.finding.volumes(access.who(request)) if passes(volume)]
    return web.json_response({"Volumes": rows, "Warnings": None})


async def inspect(request: web.Request) -> web.Response:
    """GET /volumes/{name}"""
    return web.json_response(describe(engine_of(request).volumes.get(access.volume(request))))


async def remove(request: web.Request) -> web.Response:
    """DELETE /volumes/{name}"""
    volumes, who = engine_of(request).volume_service, access.who(request)
    try:
        await volumes.remove(who, access.volume(request))
    except VolumeNotFound:
        if not flag(request, "force"):
            raise
        volumes.was_not_there(who, request.match_info["name"])
    return web.Response(status=204)


async def prune(request: web.Request) -> web.Response:
    """POST /volumes/prune: anonymous ones only, unless the filter `all` says otherwise."""
    passes = wanted.pruned(filters(request))
    pruned = await engine_of(request).pruning.volumes(access.who(request), passes)
    return web.json_response({"VolumesDeleted": pruned.names, "SpaceReclaimed": pruned.freed})
