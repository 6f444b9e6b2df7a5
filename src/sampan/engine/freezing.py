"""Pausing: every process of a container stopped where it is, by its control group or by its machine."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from sampan.engine import waiting
from sampan.engine.container import Container
from sampan.engine.engine import Engine
from sampan.engine.errors import Conflict, EngineError
from sampan.engine.model import Status
from sampan.linux import polling
from sampan.linux.cgroup import Cgroup, hierarchies

_TOLD = 1.0  # seconds for the news of an end that is why nobody answered


async def pause(engine: Engine, container: Container) -> None:
    """Freezes every process of the container. Raises Conflict, EngineError."""
    async with container.exclusive():
        if not container.running:
            raise Conflict(f"Container {container.id} is not running")
        if container.state.paused:
            raise Conflict(f"Container {container.id} is already paused")
        if not await _pause(engine, container):
            raise Conflict(f"Container {container.id} is not running")
        engine.containers.owe(container)


async def unpause(engine: Engine, container: Container) -> None:
    """Lets a paused container go on. Raises Conflict, EngineError."""
    async with container.exclusive():
        if not container.state.paused:
            raise Conflict(f"Container {container.id} is not paused")
        with engine.gate.starting(container):
            await thaw(engine, container)
        engine.containers.owe(container)


async def thaw(engine: Engine, container: Container) -> None:
    """Lets it go on if it is paused: signals reach nobody who is frozen. The lock is the caller's."""
    if container.state.paused:
        try:
            await _freeze(engine, container, False)
        except (OSError, EngineError):
            if not await _ended(container):
                raise
        if container.running:  # it may have ended as soon as it could
            container.state.status = Status.RUNNING
            engine.events.announce(container, "unpause")


@contextlib.asynccontextmanager
async def still(engine: Engine, container: Container) -> AsyncIterator[None]:
    """Nothing of a container that runs moves while this lasts, unless somebody ends it.

    That is not recorded: an engine that dies meanwhile finds it running and frozen, and lets it go on (`reconcile`).
    """
    async with container.exclusive():
        ours = container.running and not container.state.paused
        ours = ours and await _pause(engine, container)
        run = container.start_time
    try:
        yield
    finally:
        async with container.lock:
            if ours and container.start_time == run:
                await thaw(engine, container)


async def _pause(engine: Engine, container: Container) -> bool:
    """Freezes what runs; returns False when it has ended meanwhile, of which nothing is left to be stopped. Raises EngineError."""
    failure: OSError | EngineError | None = None
    try:
        await _freeze(engine, container, True)
    except (OSError, EngineError) as error:
        failure = error
    if failure is None and container.running:
        container.state.status = Status.PAUSED
        engine.events.announce(container, "pause")
        return True
    with contextlib.suppress(OSError, EngineError):  # half frozen is neither
        await _freeze(engine, container, False)
    if failure is None or await _ended(container):
        return False
    raise (
        failure if isinstance(failure, EngineError) else EngineError(f"cannot pause {container.id}: {failure}")
    ) from None


async def _ended(container: Container) -> bool:
    """Whether it has ended, as far as the news of that has come or is about to."""
    if container.running and (container.own_kernel or (container.held and polling.readable(container.held["process"]))):
        await asyncio.wait({waiting.exit_of(container)}, timeout=_TOLD)
    return not container.running


async def _freeze(engine: Engine, container: Container, frozen: bool) -> None:
    """Asks whoever can. Raises OSError, EngineError."""
    if container.system:
        await engine.machines.ask(container, "pause" if frozen else "resume")
    elif container.virtual:
        await engine.machines.ask(container, "freeze", frozen=frozen)
    elif hierarchies().v1 or hierarchies().v2:
        await asyncio.to_thread(Cgroup(container.cgroup).freeze, frozen)
    else:
        raise Conflict("pausing needs control groups, which an engine without root doesn't have here")


async def agree(engine: Engine, container: Container) -> None:
    """After a start of the daemon: kernel and record say the same of a container that runs.

    What is recorded as paused and is not, runs; what is frozen and was not to be, goes on: a pause or a commit was cut short.
    """
    with contextlib.suppress(OSError, EngineError):  # it has just ended, or does not answer
        async with container.exclusive():
            if container.own_kernel:
                if not container.state.paused:
                    await _freeze(engine, container, False)
            elif hierarchies().v1 or hierarchies().v2:
                frozen = Cgroup(container.cgroup).frozen()
                if frozen and not container.state.paused:
                    await _freeze(engine, container, False)
                elif container.state.paused and not frozen and container.running:
                    container.state.status = Status.RUNNING
                    engine.containers.owe(container)
