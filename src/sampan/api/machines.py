"""Virtual machines: what they need, made ahead."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator

from aiohttp import web

from sampan.api import decode
from sampan.api.requests import body, engine_of, flag, json_stream, number
from sampan.engine import machine_shape
from sampan.engine.errors import BadRequest
from sampan.vm.templates import Templates

_EXPECTED, _TICK = 12.0, 0.25  # seconds that a boot may take, and between two signs of life


async def prepare(request: web.Request) -> web.StreamResponse:
    """POST /sampan/vm/prepare?cpus=1&memory=512 (MiB), or for the limits of a HostConfig in the body: kernel, initramfs
    and template of that shape, told as it goes on; with quiet=1 only what is not there yet."""
    cpus, memory = number(request, "cpus"), number(request, "memory")
    if request.can_read_body:
        host = decode.host_config(await body(request))
        cpus, memory = cpus or machine_shape.cpus(host), memory or machine_shape.memory(host)
    cpus, memory = cpus or 1, memory or machine_shape.DEFAULT_MEMORY
    if not 1 <= cpus <= 64 or not 64 <= memory <= 1 << 20:
        raise BadRequest(f"impossible shape: {cpus} CPUs, {memory} MiB")
    return await json_stream(
        request, _prepare(engine_of(request).machines.templates, cpus, memory, flag(request, "quiet"))
    )


async def _prepare(templates: Templates, cpus: int, memory: int, quiet: bool) -> AsyncIterator[dict[str, object]]:
    queue: asyncio.Queue[str | None] = asyncio.Queue()

    async def work() -> None:
        shape = await templates.shape(queue.put_nowait, cpus, memory)
        name, why = await templates.accelerator(shape)
        if not quiet:
            queue.put_nowait(f"kernel {os.path.basename(shape.kernel)}")
            queue.put_nowait(f"accelerator {name}: {why}")
        began = time.monotonic()
        await templates.get(shape, queue.put_nowait)
        if not quiet:
            queue.put_nowait(f"template ready ({time.monotonic() - began:.1f} s)")

    task = asyncio.ensure_future(work())
    task.add_done_callback(lambda _: queue.put_nowait(None))
    began, waits = 0.0, False
    try:
        while True:
            try:
                text = await asyncio.wait_for(queue.get(), _TICK)
            except TimeoutError:
                if waits:
                    yield _progress(time.monotonic() - began)
                continue
            if text is None:
                break
            began, waits = time.monotonic(), True
            yield {"stream": f"{text}\n"}
        await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _progress(seconds: float) -> dict[str, object]:
    done = min(int(seconds / _EXPECTED * 30), 29)
    return {"id": "vm", "status": "Preparing", "progressDetail": {"current": int(seconds), "total": int(_EXPECTED), "units": "s"},
            "progress": f"[{'=' * done}>{' ' * (29 - done)}] {seconds:.0f}s"}  # fmt: skip
