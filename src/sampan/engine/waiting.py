"""Waiting for a container's end or removal: futures of its exit code."""

from __future__ import annotations

import asyncio

from sampan.engine.container import Container
from sampan.engine.errors import BadRequest

_CONDITIONS = ("", "not-running", "next-exit", "removed")


def exit_of(container: Container) -> asyncio.Future[int]:
    """A future of the exit code of the run that there is, or of the next one."""
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    container.exit_waiters.append(future)
    return future


def resolve(waiters: list[asyncio.Future[int]], code: int) -> None:
    """Tells all who wait."""
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(code)
    waiters.clear()


def wait(container: Container, condition: str) -> asyncio.Future[int]:
    """A future of the exit code: "not-running" (now or later), "next-exit" or "removed". Raises BadRequest."""
    if condition not in _CONDITIONS:
        raise BadRequest(f'invalid condition: "{condition}"')
    if condition == "removed":
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        container.remove_waiters.append(future)
        if container.removed:
            resolve(container.remove_waiters, container.state.exit_code)
        return future
    future = exit_of(container)
    waits = container.running or container.starting or container.state.restarting
    if condition != "next-exit" and not waits:
        future.set_result(container.state.exit_code)
        container.exit_waiters.remove(future)
    return future
