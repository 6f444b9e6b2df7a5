"""_ping, version, info, events, disk usage; volumes."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import time
from typing import Any

from aiohttp import web

import sampan
from sampan.api import access, listing, schema
from sampan.api.builds import cache_rows
from sampan.api.images import summary
from sampan.api.requests import body, engine_of, filters, flag
from sampan.engine import pools, removal, trouble
from sampan.engine.broken import refuse_prune
from sampan.engine.container import Container, timestamp
from sampan.engine.engine import Engine
from sampan.engine.errors import BadRequest, Conflict
from sampan.engine.filters import events as wanted_events
from sampan.engine.filters import volumes as wanted_volumes
from sampan.engine.model import Status
from sampan.engine.moments import moment, never
from sampan.engine.policy.caller import Caller
from sampan.engine.policy.operation import ENGINE, Kind, Verb
from sampan.linux.cgroup import hierarchies
from sampan.linux.namespaces import initial_user_namespace
from sampan.volumes.local import Volume, VolumeNotFound

MAX_API, MIN_API = "1.51", "1.24"


async def ping(request: web.Request) -> web.Response:
    """GET and HEAD /_ping"""
    headers = {
        "Api-Version": MAX_API,
        "Ostype": "linux",
        "Builder-Version": "2",
        "Docker-Experimental": "false",
        "Swarm": "inactive",
        "Cache-Control": "no-cache, no-store, must-revalidate",
        "Pragma": "no-cache",
        "Content-Type": "text/plain; charset=utf-8",
    }
    return web.Response(body=b"OK" if request.method == "GET" else b"", headers=headers)


def _architecture() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)


async def version(request: web.Request) -> web.Response:
    """GET /version"""
    details = {"ApiVersion": MAX_API, "MinAPIVersion": MIN_API, "Os": "linux", "Arch": _architecture(),
               "KernelVersion": os.uname().release}  # fmt: skip
    return web.json_response(
        {
            "Platform": {"Name": "Sampan"},
            "Components": [{"Name": "Engine", "Version": sampan.__version__, "Details": details}],
            "Version": sampan.__version__,
            "GitCommit": "",
            "GoVersion": "",
            "BuildTime": "",
            **details,
        }
    )


async def info(request: web.Request) -> web.Response:
    """GET /info"""
    engine = engine_of(request)
    who = access.who(request)
    states = [c.state.status for c in engine.finding.containers(who) if not c.system]
    groups = hierarchies()
    damage = await asyncio.to_thread(trouble.found, engine) if engine.gate.may(who, Verb.ADMINISTER, ENGINE) else []
    v2, limits = groups.version == "2", bool(groups.v1 or groups.v2)
    rootless = [] if initial_user_namespace() else ["name=rootless"]
    return web.json_response(
        {
            "ID": engine.identity.id,
            "Containers": len(states),
            "ContainersRunning": states.count(Status.RUNNING),
            "ContainersPaused": states.count(Status.PAUSED),
            "ContainersStopped": len(states) - states.count(Status.RUNNING) - states.count(Status.PAUSED),
            "Images": len(engine.finding.images(who)),
            "Driver": "overlay2",
            "DriverStatus": [["Supports d_type", "true"]],
            "Plugins": {
                "Volume": ["local"],
                "Network": ["bridge", "host", "ipvlan", "macvlan", "null"],
                "Authorization": None,
                "Log": ["json-file", "local", "none"],
            },
            "MemoryLimit": limits,
            "SwapLimit": limits,
            "CpuCfsPeriod": limits,
            "CpuCfsQuota": limits,
            "CPUShares": limits,
            "CPUSet": limits,
            "PidsLimit": limits,
            "OomKillDisable": limits and not v2,
            "IPv4Forwarding": True,
            "NFd": len(os.listdir("/proc/self/fd")),
            "NGoroutines": 0,
            "SystemTime": timestamp(time.time_ns()),
            "LoggingDriver": "json-file",
            "CgroupDriver": "cgroupfs" if limits else "none",
            "CgroupVersion": groups.version,
            "NEventsListener": engine.events.listeners,
            "KernelVersion": os.uname().release,
            "OperatingSystem": _os_name(),
            "OSType": "linux",
            "Architecture": os.uname().machine,
            "IndexServerAddress": "",
            "RegistryConfig": {"IndexConfigs": {}, "InsecureRegistryCIDRs": [], "Mirrors": []},
            "NCPU": os.cpu_count(),
            "MemTotal": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
            "DockerRootDir": engine.data_root,
            "HttpProxy": "",
            "HttpsProxy": "",
            "NoProxy": "",
            "Name": os.uname().nodename,
            "Labels": [],
            "ExperimentalBuild": False,
            "ServerVersion": sampan.__version__,
            "Runtimes": {"sampan": {"path": "sampan"}},
            "DefaultRuntime": "sampan",
            "Swarm": {"LocalNodeState": "inactive"},
            "LiveRestoreEnabled": True,
            "Isolation": engine.isolation or "container",
            "VirtualMachines": dict(
                zip(("Accelerator", "Reason"), engine.machines.templates.known_accelerator() or ("", ""), strict=True)
            ),
            "InitBinary": "tini-static",
            "SecurityOptions": ["name=seccomp,profile=builtin", "name=cgroupns", *rootless],
            "Warnings": _warnings(engine, who, damage) or None,
            "Trouble": damage,  # our own, for doctor
        }
    )


def _warnings(engine: Engine, who: Caller, damage: list[str]) -> list[str]:
    """What `docker info` shows at its end."""
    known = engine.machines.templates.known_accelerator()
    notes = engine.gate.notes() if engine.gate.may(who, Verb.ADMINISTER, ENGINE) else []
    found = [f"WARNING: isolation policy: {text}" for text in notes]
    found += [f"WARNING: {text}" for text in damage]
    if known and known[0] == "tcg":
        found.append(f"WARNING: virtual machines run without hardware virtualization: {known[1]}")
    return found


def _os_name() -> str:
    try:
        with open("/etc/os-release", encoding="utf-8") as file:
            rows = dict(line.rstrip().partition("=")[::2] for line in file if "=" in line)
        return rows.get("PRETTY_NAME", "Linux").strip('"')
    except OSError:
        return "Linux"


async def plugins(request: web.Request) -> web.Response:
    """GET /plugins: there are none"""
    return web.json_response([])


async def overview_(request: web.Request) -> web.Response:
    """GET /sampan/overview: the picture of the page"""
    engine = engine_of(request)
    return web.json_response(await engine.overview.now(engine.finding.containers(access.who(request))))


async def events(request: web.Request) -> web.StreamResponse:
    """GET /events"""
    engine = engine_of(request)
    passes = wanted_events.wanted(filters(request))
    sees = engine.gate.sees_event(access.who(request))
    since = moment(request.query.get("since"), time.time()) / 1e9
    until_text = never(request.query.get("until"))
    until = moment(until_text, 0) / 1e9 if until_text else None
    transport = request.transport
    listener = engine.events.listen(transport.abort if transport is not None else lambda: None)
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    try:
        await response.prepare(request)
        if request.query.get("since"):
            for event, owners in engine.events.past(since, until or time.time()):
                if sees(event, owners) and passes(event):
                    await response.write(json.dumps(event).encode() + b"\n")
        while until is None or time.time() < until:
            try:
                event, owners = await asyncio.wait_for(
                    listener.queue.get(), None if until is None else max(0.0, until - time.time())
                )
            except TimeoutError:
                break
            if sees(event, owners) and passes(event):
                await response.write(json.dumps(event).encode() + b"\n")
    finally:
        engine.events.forget(listener)
    return response


async def disk_usage(request: web.Request) -> web.Response:
    """GET /system/df"""
    engine = engine_of(request)
    who = access.who(request)
    images = engine.finding.images(who)
    containers = [c for c in engine.finding.containers(who) if not c.system]
    rows = [listing.summary(engine, c) | await pools.run("look", listing.sizes, engine, c) for c in containers]
    volumes = engine.finding.volumes(who)
    used = {v.name: await pools.run("look", listing.tree_size, v.path) for v in volumes}
    return web.json_response(
        {
            "LayersSize": sum({x.digest: x.size for image in images for x in image.layers}.values()),
            "Images": [summary(engine, who, image, containers) for image in images],
            "Containers": rows,
            "Volumes": [
                _volume(v) | {"UsageData": {"Size": used[v.name], "RefCount": len(_users(engine, v.name, containers))}}
                for v in volumes
            ],
            "BuildCache": cache_rows(engine, who),
        }
    )


# volumes


def _users(engine: Engine, name: str, containers: list[Container] | None = None) -> list[str]:
    """The containers, of these or of all, that have a volume."""
    known = engine.containers.values() if containers is None else containers
    return [c.id for c in known if any(row.name == name for row in c.mounts)]


def _volume(volume: Volume) -> dict[str, Any]:
    return {
        "Name": volume.name,
        "Driver": "local",
        "Mountpoint": volume.path,
        "CreatedAt": timestamp(int(volume.created * 1e9)),
        "Labels": volume.labels or None,
        "Options": volume.options or None,
        "Scope": "local",
        **({"Status": {"Error": volume.broken}} if volume.broken else {}),
    }


async def volume_create(request: web.Request) -> web.Response:
    """POST /volumes/create"""
    engine = engine_of(request)
    wanted = schema.check(await body(request, optional=True), schema.VolumeCreate)
    if wanted.get("Driver") not in (None, "", "local"):
        raise BadRequest(f"error looking up volume plugin {wanted['Driver']}: plugin {wanted['Driver']!r} not found")
    who, name = access.who(request), wanted.get("Name") or secrets.token_hex(32)
    options = wanted.get("DriverOpts") or {}
    engine.finding.check_volume(who, name, access.verb(request))
    if options.get("device", "").startswith("/"):
        await asyncio.to_thread(
            lambda: engine.gate.may_have(who, os.path.realpath(options["device"]), options["device"])
        )
    async with engine.finding.making_volumes([name], who.owner):
        volume = await asyncio.to_thread(
            engine.volumes.create, name, wanted.get("Labels") or {}, options, not wanted.get("Name")
        )
    engine.events.publish("volume", "create", volume.name, {"driver": "local"}, (who.owner,))
    return web.json_response(_volume(volume), status=201)


async def volume_list(request: web.Request) -> web.Response:
    """GET /volumes"""
    engine = engine_of(request)
    passes = wanted_volumes.listed(filters(request), lambda name: bool(_users(engine, name)))
    rows = [_volume(volume) for volume in engine.finding.volumes(access.who(request)) if passes(volume)]
    return web.json_response({"Volumes": rows, "Warnings": None})


async def volume_inspect(request: web.Request) -> web.Response:
    """GET /volumes/{name}"""
    return web.json_response(_volume(engine_of(request).volumes.get(access.volume(request))))


async def volume_remove(request: web.Request) -> web.Response:
    """DELETE /volumes/{name}"""
    engine = engine_of(request)
    try:
        name = access.volume(request)
        if _users(engine, name):
            shown = _users(engine, name, engine.finding.containers(access.who(request)))
            raise Conflict(f"remove {name}: volume is in use - [{', '.join(shown)}]")
        await removal.volume(engine, name)
    except VolumeNotFound:
        if not flag(request, "force"):
            raise
        owners = (access.who(request).owner,)
        engine.events.publish("volume", "destroy", request.match_info["name"], {"driver": "local"}, owners)
    return web.Response(status=204)


async def volume_prune(request: web.Request) -> web.Response:
    """POST /volumes/prune: anonymous ones only, unless the filter `all` says otherwise."""
    engine = engine_of(request)
    passes = wanted_volumes.pruned(filters(request))
    refuse_prune(engine, "mounts", "volumes")
    deleted, freed, who = [], 0, access.who(request)
    for volume in engine.finding.volumes(who):
        if not engine.gate.may(who, Verb.REMOVE, engine.finding.owners.subject(Kind.VOLUME, volume.name)):
            continue
        if volume.broken or not passes(volume) or _users(engine, volume.name):
            continue
        freed += await pools.run("look", listing.tree_size, volume.path)
        if _users(engine, volume.name):
            continue  # since then
        await removal.volume(engine, volume.name)
        deleted.append(volume.name)
    return web.json_response({"VolumesDeleted": deleted, "SpaceReclaimed": freed})
