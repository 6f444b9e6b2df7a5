"""Waiting for a container's end or removal: futures of its exit code."""

from __future__ import annotations

import asyncio

from sampan.engine.container import Container
from sampan.engine.errors import BadRequest

_CONDITIONS = ("", "not-running", "next-exit", "removed")


def wait(container: Container, condition: str) -> asyncio.Future[int]:
    """A future of the exit code, one's own: "not-running" (now or later), "next-exit" or "removed". Raises BadRequest."""
    if condition not in _CONDITIONS:
        raise BadRequest(f'invalid condition: "{condition}"')
    if condition == "removed":
        return _known(container) if container.removed else container.removals.next()
    waits = container.running or container.starting or container.state.restarting
    return container.exits.next() if waits or condition == "next-exit" else _known(container)


def _known(container: Container) -> asyncio.Future[int]:
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    future.set_result(container.state.exit_code)
    return future
