"""_ping, version, info, events, disk usage."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter

import msgspec
from aiohttp import web

import sampan
from sampan.api import access, daemonlog, listing, volumes
from sampan.api.builds import cache_rows
from sampan.api.images import summary, virtual_size
from sampan.api.requests import NEWEST, engine_of, filters
from sampan.engine import cdi, pools
from sampan.engine.container import Container, timestamp
from sampan.engine.creation import RUNTIME
from sampan.engine.engine import Engine
from sampan.engine.errors import BadRequest
from sampan.engine.filters import events as wanted_events
from sampan.engine.filters import rules
from sampan.engine.filters.containers import is_container
from sampan.engine.model import Status
from sampan.engine.moments import moment, never
from sampan.engine.policy.operation import ENGINE, Verb
from sampan.images.image import shared_sizes
from sampan.linux.cgroup import hierarchies
from sampan.linux.namespaces import initial_user_namespace
from sampan.volumes.local import Volume

MAX_API, MIN_API = NEWEST, "1.24"


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
    states = [c.state.status for c in filter(is_container, engine.finding.containers(who))]
    administers = engine.gate.may(who, Verb.ADMINISTER, ENGINE)
    damage = await asyncio.to_thread(engine.trouble.found) if administers else []
    notes = engine.gate.notes() if administers else []
    accelerator = engine.machines.templates.known_accelerator() or ("", "")
    return web.json_response(
        {
            "ID": engine.identity.id,
            "Containers": len(states),
            "ContainersRunning": states.count(Status.RUNNING),
            "ContainersPaused": states.count(Status.PAUSED),
            "ContainersStopped": len(states) - states.count(Status.RUNNING) - states.count(Status.PAUSED),
            "Images": len(engine.finding.images(who)),
            **_host(),
            **_always(),
            "NFd": len(os.listdir("/proc/self/fd")),
            "SystemTime": timestamp(time.time_ns()),
            "NEventsListener": engine.events.listeners,
            "DockerRootDir": engine.data_root,
            "Isolation": engine.requests.isolation or "container",
            "VirtualMachines": dict(zip(("Accelerator", "Reason"), accelerator, strict=True)),
            "Warnings": _warnings(accelerator, notes, damage) or None,
            "Trouble": damage,  # our own, for doctor
        }
    )


def _host() -> dict[str, object]:
    """What `info` says of this machine and of what its kernel can do."""
    groups = hierarchies()
    limits = groups.usable
    rootless = [] if initial_user_namespace() else ["name=rootless"]
    names = ("MemoryLimit", "SwapLimit", "CpuCfsPeriod", "CpuCfsQuota", "CPUShares", "CPUSet", "PidsLimit")
    return {
        **dict.fromkeys(names, limits),
        "OomKillDisable": limits and groups.version != "2",
        "CgroupDriver": "cgroupfs" if limits else "none",
        "CgroupVersion": groups.version,
        "KernelVersion": os.uname().release,
        "OperatingSystem": _os_name(),
        "OSType": "linux",
        "Architecture": os.uname().machine,
        "NCPU": os.cpu_count(),
        "MemTotal": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "Name": os.uname().nodename,
        "SecurityOptions": ["name=seccomp,profile=builtin", "name=cgroupns", *rootless],
    }


def _always() -> dict[str, object]:
    """What `info` says of every engine of this version."""
    return {
        "Driver": "overlay2",
        "DriverStatus": [["Supports d_type", "true"]],
        "Plugins": {
            "Volume": ["local"],
            "Network": ["bridge", "host", "ipvlan", "macvlan", "null"],
            "Authorization": None,
            "Log": ["journald", "json-file", "local", "none", "syslog"],
        },
        "IPv4Forwarding": True,
        "NGoroutines": 0,
        "LoggingDriver": "json-file",
        "IndexServerAddress": "",
        "RegistryConfig": {"IndexConfigs": {}, "InsecureRegistryCIDRs": [], "Mirrors": []},
        "HttpProxy": "",
        "HttpsProxy": "",
        "NoProxy": "",
        "Labels": [],
        "ExperimentalBuild": False,
        "Debug": daemonlog.debugging(),
        "ServerVersion": sampan.__version__,
        "Runtimes": {RUNTIME: {"path": "sampan"}},
        "DefaultRuntime": RUNTIME,
        "Swarm": {
            "NodeID": "",
            "NodeAddr": "",
            "LocalNodeState": "inactive",
            "ControlAvailable": False,
            "Error": "",
            "RemoteManagers": None,
        },
        "ContainerdCommit": {"ID": ""},
        "RuncCommit": {"ID": ""},
        "InitCommit": {"ID": ""},
        "LiveRestoreEnabled": True,
        "CDISpecDirs": list(cdi.directories),
        "InitBinary": "tini-static",
    }


def _warnings(accelerator: tuple[str, str], notes: list[str], damage: list[str]) -> list[str]:
    """What `docker info` shows at its end. `accelerator` is what virtual machines run with and why, `notes` are the policy's."""
    found = [f"WARNING: isolation policy: {text}" for text in notes]
    found += [f"WARNING: {text}" for text in damage]
    if accelerator[0] == "tcg":
        found.append(f"WARNING: virtual machines run without hardware virtualization: {accelerator[1]}")
    return found


def _os_name() -> str:
    try:
        with open("/etc/os-release", encoding="utf-8") as file:
            rows = dict(line.rstrip().partition("=")[::2] for line in file if "=" in line)
        return rows.get("PRETTY_NAME", "Linux").strip('"')
    except OSError:
        return "Linux"


_PLUGIN_FILTERS: dict[str, rules.Rule[object]] = {
    "capability": rules.exactly(lambda plugin: ()),
    "enabled": rules.boolean(lambda plugin: True),
}


async def plugins(request: web.Request) -> web.Response:
    """GET /plugins: there are none"""
    rules.compile(_PLUGIN_FILTERS, filters(request))
    return web.json_response([])


async def overview_(request: web.Request) -> web.Response:
    """GET /sampan/overview: the picture of the page"""
    engine = engine_of(request)
    picture = await engine.overview.now(engine.finding.containers(access.who(request)))
    return web.json_response(msgspec.to_builtins(picture))


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
        async for event, owners in engine.events.follow(listener, since if request.query.get("since") else None, until):
            if sees(event, owners) and passes(event):
                await response.write(json.dumps(event).encode() + b"\n")
    finally:
        engine.events.forget(listener)
    return response


_KINDS = ("container", "image", "volume", "build-cache")


async def disk_usage(request: web.Request) -> web.Response:
    """GET /system/df: of everything, or of the types that are asked for; those left out are null, as Docker's."""
    engine, who = engine_of(request), access.who(request)
    kinds = request.query.getall("type", []) or _KINDS
    for kind in kinds:
        if kind not in _KINDS:
            raise BadRequest(f"unknown object type: {kind}")
    images = engine.finding.images(who)
    containers = sorted(filter(is_container, engine.finding.containers(who)), key=lambda found: -found.created)
    answer: dict[str, object] = dict.fromkeys(("Images", "Containers", "Volumes", "BuildCache"))
    answer["LayersSize"] = 0
    if "image" in kinds:
        answer["LayersSize"] = sum({x.digest: x.size for image in images for x in image.layers}.values())
        shared, sees = shared_sizes(images), engine.gate.sight(who)
        users = Counter(container.image for container in containers)
        answer["Images"] = [
            summary(i, engine.finding.digests(i, sees), None, shared[i.id], users[i.id]) | virtual_size(request, i)
            for i in images
        ]
    if "container" in kinds:
        answer["Containers"] = [
            listing.summary(engine.networks, c)
            | await pools.run("look", listing.sizes, engine.containers, engine.images, c)
            for c in containers
        ]
    if "volume" in kinds:
        answer["Volumes"] = [await _volume(engine, volume, containers) for volume in engine.finding.volumes(who)]
    if "build-cache" in kinds:
        answer["BuildCache"] = cache_rows(engine.builds.cache_of(who))
    return web.json_response(answer)


async def _volume(engine: Engine, volume: Volume, containers: list[Container]) -> dict[str, object]:
    """A volume with what it holds and how many of these containers use it."""
    size = await pools.run("look", listing.tree_size, volume.path)
    used = len(engine.volume_service.users(volume.name, containers))
    return volumes.describe(volume) | {"UsageData": {"Size": size, "RefCount": used}}
