"""Pausing: every process of a container stopped where it is, by its control group or by its machine."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from sampan.engine.backends.backend import Backends
from sampan.engine.container import Container
from sampan.engine.containers import Containers
from sampan.engine.errors import Conflict, EngineError
from sampan.engine.events import Events
from sampan.engine.model import Status
from sampan.engine.policy.gate import Gate

_TOLD = 1.0  # seconds for the news of an end that is why nobody answered


class Freezing:
    """Pauses containers and lets them go on."""

    def __init__(self, containers: Containers, events: Events, gate: Gate, backends: Backends) -> None:
        self._containers, self._events, self._gate, self._backends = containers, events, gate, backends

    async def pause(self, container: Container) -> None:
        """Freezes every process of the container. Raises Conflict, EngineError."""
        async with container.exclusive():
            if not container.running:
                raise Conflict(f"Container {container.id} is not running")
            if container.state.paused:
                raise Conflict(f"Container {container.id} is already paused")
            if not await self._pause(container):
                raise Conflict(f"Container {container.id} is not running")
            self._containers.owe(container)

    async def unpause(self, container: Container) -> None:
        """Lets a paused container go on. Raises Conflict, EngineError."""
        async with container.exclusive():
            if not container.state.paused:
                raise Conflict(f"Container {container.id} is not paused")
            with self._gate.starting(container):
                await self.thaw(container)
            self._containers.owe(container)

    async def thaw(self, container: Container) -> None:
        """Lets it go on if it is paused: signals reach nobody who is frozen. The lock is the caller's."""
        if container.state.paused:
            try:
                await self._backends.of(container).freeze(container, False)
            except (OSError, EngineError):
                if not await self._ended(container):
                    raise
            if container.running:  # it may have ended as soon as it could
                container.state.status = Status.RUNNING
                self._events.announce(container, "unpause")

    @contextlib.asynccontextmanager
    async def still(self, container: Container) -> AsyncIterator[None]:
        """Nothing of a container that runs moves while this lasts, unless somebody ends it.

        That is not recorded: an engine that dies meanwhile finds it running and frozen, and lets it go on (`reconcile`).
        """
        async with container.exclusive():
            ours = container.running and not container.state.paused
            ours = ours and await self._pause(container)
            run = container.start_time
        try:
            yield
        finally:
            async with container.lock:
                if ours and container.start_time == run:
                    await self.thaw(container)

    async def _pause(self, container: Container) -> bool:
        """Freezes what runs; returns False when it has ended meanwhile, of which nothing is left to be stopped. Raises EngineError."""
        failure: OSError | EngineError | None = None
        try:
            await self._backends.of(container).freeze(container, True)
        except (OSError, EngineError) as error:
            failure = error
        if failure is None and container.running:
            container.state.status = Status.PAUSED
            self._events.announce(container, "pause")
            return True
        with contextlib.suppress(OSError, EngineError):  # half frozen is neither
            await self._backends.of(container).freeze(container, False)
        if failure is None or await self._ended(container):
            return False
        raise (
            failure if isinstance(failure, EngineError) else EngineError(f"cannot pause {container.id}: {failure}")
        ) from None

    async def _ended(self, container: Container) -> bool:
        """Whether it has ended, as far as the news of that has come or is about to."""
        if container.running and self._backends.of(container).may_have_ended(container):
            await asyncio.wait({container.exits.next()}, timeout=_TOLD)
        return not container.running

    async def agree(self, container: Container) -> None:
        """After a start of the daemon: kernel and record say the same of a container that runs.

        What is recorded as paused and is not, runs; what is frozen and was not to be, goes on: a pause or a commit was cut short.
        """
        with contextlib.suppress(OSError, EngineError):  # it has just ended, or does not answer
            async with container.exclusive():
                recorded = container.state.paused
                paused = await self._backends.of(container).settle_pause(container, recorded)
                if recorded and not paused and container.running:
                    container.state.status = Status.RUNNING
                    self._containers.owe(container)
