"""System VMs over the API: what is Sampan's own below /sampan/vm."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

from aiohttp import web

from sampan.api import access, decode, encode, peers
from sampan.api.requests import body, engine_of, flag, json_stream, number
from sampan.engine import guest_answers, system_vms
from sampan.engine.container import Container, moment_text, timestamp
from sampan.engine.errors import BadRequest, EngineError
from sampan.network.networks import Networks
from sampan.runtime import borrowed
from sampan.vm import requests

_BLOCK = 1 << 20


def _summary(networks: Networks, container: Container) -> dict[str, object]:
    settings = system_vms.hardware_of(container)
    addresses = [endpoint.address(4) for _, endpoint in networks.of(container.id)]
    return {"Id": container.id, "Name": container.name, "Source": container.image_name, "Created": container.created // 10**9,
            "State": container.state.status, "StartedAt": moment_text(container.state.started_at), "Cpus": settings.cpus or 1,
            "Memory": settings.memory or 1 << 30, "Addresses": addresses, "Ports": encode.published_ports(container.ports)}  # fmt: skip


async def create(request: web.Request) -> web.StreamResponse:
    """POST /sampan/vm/create"""
    wanted = decode.system_vm_request(await body(request))
    engine, who = engine_of(request), access.who(request)
    disk, place = await _open_disk(request, wanted.disk)

    async def make(say: Callable[[str], None]) -> None:
        # A descriptor for the work, which goes on when its client leaves.
        own = os.dup(disk) if disk >= 0 else -1
        container = await engine.tasks.carry(_closing(own, engine.system_vms.create(who, wanted, say, own, place)))
        await engine.store.flush()
        say(f"\0{container.id}")

    try:
        return await json_stream(request, _told(make))
    finally:
        if disk >= 0:
            os.close(disk)


async def _open_disk(request: web.Request, path: str) -> tuple[int, str]:
    """The disk that is asked for, opened as who asks, and where it is on the host; -1 for none."""
    if not path:
        return -1, ""
    try:
        async with peers.client(request, "a disk's path") as who:
            return await peers.found(request, who, path, borrowed.FILE)
    except BadRequest as error:
        raise BadRequest(
            f"no disk at {path}: an absolute path of a file that you can read is needed: {error}"
        ) from None


async def _closing(fd: int, work: Coroutine[object, object, Container]) -> Container:
    try:
        return await work
    finally:
        if fd >= 0:
            os.close(fd)


async def _told(work: Callable[[Callable[[str], None]], Awaitable[None]]) -> AsyncIterator[dict[str, Any]]:
    """What `work` says as messages; what comes after a NUL is its result."""
    queue: asyncio.Queue[str | None] = asyncio.Queue()
    task = asyncio.ensure_future(work(queue.put_nowait))
    task.add_done_callback(lambda _: queue.put_nowait(None))
    try:
        while (text := await queue.get()) is not None:
            yield {"aux": {"ID": text[1:]}} if text.startswith("\0") else {"status": text}
        await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def list_(request: web.Request) -> web.Response:
    """GET /sampan/vm/json"""
    engine = engine_of(request)
    machines = engine.finding.machines(access.who(request))
    return web.json_response([_summary(engine.networks, container) for container in machines])


async def inspect(request: web.Request) -> web.Response:
    """GET /sampan/vm/{name}/json"""
    engine, container = access.container(request)
    directory = engine.containers.directory(container)
    disk = f"{directory}/disk.qcow2"
    found = _summary(engine.networks, container) | {
        "State": encode.state(container.state),
        "CreatedAt": timestamp(container.created),
        "Hostname": container.config.hostname,
        "Disk": {"Path": disk, "Format": "qcow2", "Used": os.stat(disk).st_blocks * 512},
        "Bus": system_vms.hardware_of(container).bus or "virtio",
        "User": system_vms.hardware_of(container).user,
        "Networks": {network.name: {"MacAddress": endpoint.mac, "IPv4": endpoint.ipv4, "IPv6": endpoint.ipv6}
                     for network, endpoint in engine.networking.networks.of(container.id)},
        "Snapshots": await engine.system_vms.snapshots(container),
        "Console": f"{directory}/console",
    }  # fmt: skip
    found["Agent"] = False
    if container.running:
        with contextlib.suppress(EngineError):  # it may be ending
            said = await engine.machines.ask(container, requests.IsReady())
            found["Agent"] = guest_answers.READY.of(container.name, said)
    return web.json_response(found)


async def start(request: web.Request) -> web.Response:
    """POST /sampan/vm/{name}/start"""
    engine, container = access.container(request)
    warnings = await engine.lifecycle.start(container)
    return web.Response(status=204, headers=[("Warning", f'299 - "{text}"') for text in warnings])


async def stop(request: web.Request) -> web.Response:
    """POST /sampan/vm/{name}/stop?t=SECONDS: the power button, then the plug"""
    engine, container = access.container(request)
    await engine.killing.stop(container, number(request, "t"))
    return web.Response(status=204)


async def act(request: web.Request) -> web.Response:
    """POST /sampan/vm/{name}/{kill,pause,unpause,reset}"""
    engine, container = access.container(request)
    action = request.match_info["action"]
    if action == "kill":
        await engine.killing.kill(container, "KILL")
    elif action == "pause":
        await engine.freezing.pause(container)
    elif action == "unpause":
        await engine.freezing.unpause(container)
    elif action == "reset":
        await engine.machines.ask(container, requests.Reset())
    else:
        raise BadRequest(f"unknown action {action}: kill, pause, unpause or reset")
    return web.Response(status=204)


async def remove(request: web.Request) -> web.Response:
    """DELETE /sampan/vm/{name}?force=1"""
    engine, container = access.container(request)
    await engine.removing.remove(container, flag(request, "force"))
    engine.system_vms.announce(container, "destroy")
    return web.Response(status=204)


async def snapshot(request: web.Request) -> web.Response:
    """POST /sampan/vm/{name}/snapshots/{snapshot}/{create,restore,delete}"""
    engine, container = access.container(request)
    action = request.match_info["action"]
    if action not in ("create", "restore", "delete"):
        raise BadRequest(f"unknown action {action}: create, restore or delete")
    async with container.exclusive():
        await engine.system_vms.snapshot(container, action, request.match_info["snapshot"])
    return web.Response(status=204)


async def export(request: web.Request) -> web.StreamResponse:
    """GET /sampan/vm/export?source=IMAGE|NAME&format=FORMAT&size=BYTES: the disk itself"""
    engine = engine_of(request)
    source, form = request.query.get("source", ""), request.query.get("format", "qcow2")
    if not source:
        raise BadRequest("missing query parameter 'source'")
    with tempfile.NamedTemporaryFile(dir=engine.data_root, prefix="export-") as file:
        await engine.system_vms.export(
            access.who(request), source, form, number(request, "size") or 0, file.name, lambda _: None
        )
        response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
        await response.prepare(request)
        while data := await asyncio.to_thread(file.read, _BLOCK):
            await response.write(data)
    return response
