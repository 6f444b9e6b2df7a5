"""An engine in the test's own process, without a daemon around it, and the loop that it lives in."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Awaitable, Iterator
from typing import Any

import pytest

from sampan.engine.engine import Engine


@pytest.fixture
def engine() -> Iterator[Engine]:
    """An engine that has not looked for containers, with a loop for `run`."""
    with tempfile.TemporaryDirectory(prefix="sampan-gate-") as top:
        yield from _engine(top)


def _engine(top: str) -> Iterator[Engine]:
    os.makedirs(f"{top}/data", 0o700)
    os.makedirs(f"{top}/run", 0o700)
    made: list[Engine] = []

    async def begin() -> None:
        made.append(Engine(f"{top}/data", f"{top}/run"))

    loop = asyncio.new_event_loop()
    loop.run_until_complete(begin())
    asyncio.set_event_loop(loop)
    yield made[0]
    made[0].directories.close()
    loop.run_until_complete(made[0].tasks.close())
    loop.close()


def run(work: Awaitable[Any]) -> Any:
    """Does work in the engine's loop."""
    return asyncio.get_event_loop().run_until_complete(asyncio.ensure_future(work, loop=asyncio.get_event_loop()))
