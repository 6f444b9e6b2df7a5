"""Virtual machines: what they need, made ahead."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from aiohttp import web

from sampan.api.requests import engine_of, json_stream, number
from sampan.engine.engine import Engine
from sampan.engine.errors import BadRequest


async def prepare(request: web.Request) -> web.StreamResponse:
    """POST /sampan/vm/prepare?cpus=1&memory=128 (MiB): kernel, initramfs and template of a shape, told as it goes on"""
    cpus, memory = number(request, "cpus") or 1, number(request, "memory") or 128
    if not 1 <= cpus <= 64 or not 64 <= memory <= 1 << 20:
        raise BadRequest(f"impossible shape: {cpus} CPUs, {memory} MiB")
    return await json_stream(request, _prepare(engine_of(request), cpus, memory))


async def _prepare(engine: Engine, cpus: int, memory: int) -> AsyncIterator[dict[str, Any]]:
    queue: asyncio.Queue[str | None] = asyncio.Queue()

    async def work() -> None:
        templates = engine.templates
        shape = await templates.shape(queue.put_nowait, cpus, memory)
        queue.put_nowait(f"kernel {shape.kernel.release}")
        name, why = await templates.accelerator(shape)
        queue.put_nowait(f"accelerator {name}: {why}")
        began = time.monotonic()
        await templates.get(replace(shape, accelerator=name), queue.put_nowait)
        queue.put_nowait(f"template ready ({time.monotonic() - began:.1f} s)")

    task = asyncio.ensure_future(work())
    task.add_done_callback(lambda _: queue.put_nowait(None))
    try:
        while (text := await queue.get()) is not None:
            yield {"stream": f"{text}\n"}
        await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
