"""Threads for long work, in pools by kind: however much of one kind there is, the threads that a start needs are not among them."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

SHORT = 32  # threads for whatever takes no longer than the kernel does

_SIZES = {
    "archive": 8,  # files into a container
    "commit": 4,
    "images": 4,  # load, import, bootstrap
    "look": 4,  # sizes, changes, process lists: what walks a tree or many files
    "remove": 4,
}
_pools: dict[str, ThreadPoolExecutor] = {}


def short() -> ThreadPoolExecutor:
    """The event loop's own: asyncio.to_thread()'s. Python's default is the number of CPUs and four, which six pulls fill."""
    return ThreadPoolExecutor(SHORT, "short")


async def run(kind: str, work: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
    """Does `work` in a thread of its kind's pool, when one is free; goes on with it if the caller is cancelled."""
    pool = _pools.get(kind)
    if pool is None:
        pool = _pools[kind] = ThreadPoolExecutor(_SIZES[kind], kind)
    context = contextvars.copy_context()
    return await asyncio.get_running_loop().run_in_executor(pool, partial(context.run, work, *args, **options))
