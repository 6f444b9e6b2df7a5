"""A container's lifecycle as its users and its restart policy drive it: start, restart, and what follows an end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine

from sampan.engine import restart_policy
from sampan.engine.container import Container
from sampan.engine.errors import Conflict, EngineError, NotModified
from sampan.engine.events import Events
from sampan.engine.killing import Killing
from sampan.engine.model import Status
from sampan.engine.removing import Removing
from sampan.engine.runs import Runs
from sampan.engine.tasks import Tasks
from sampan.keeper.client import KeeperGone
from sampan.network.errors import NetworkError
from sampan.runtime.errors import RuntimeFailure
from sampan.vm.errors import VmError

_FAILURES = (RuntimeFailure, EngineError, NetworkError, VmError, OSError, KeeperGone)


class Lifecycle:
    """Starts containers. `ready` is set when records, keeper and kernel say the same: no policy starts anything before."""

    def __init__(
        self, runs: Runs, killing: Killing, removing: Removing, events: Events, tasks: Tasks, ready: asyncio.Event
    ) -> None:
        self._runs, self._killing, self._removing = runs, killing, removing
        self._events, self._tasks, self._ready = events, tasks, ready

    async def start(self, container: Container) -> list[str]:
        """Starts a container; returns warnings, of limits that could not be set as asked.

        Raises NotModified when it runs, RuntimeFailure when its program can't.
        """
        async with container.exclusive():
            if container.state.paused:
                raise Conflict("cannot start a paused container, try unpause instead")
            if container.running:
                raise NotModified("already started")
            return await self._runs.begin(container)

    async def restart(self, container: Container, timeout: int | None, text: str = "") -> None:
        """Stops it if it runs, and starts it. One that is removed with its end is not, as this is no end."""
        container.check_whole()
        container.restarts += 1
        try:
            with contextlib.suppress(NotModified):
                await self._killing.stop(container, timeout, text)
            with contextlib.suppress(NotModified):  # somebody else, or its policy, was faster
                await self.start(container)
        finally:
            container.restarts -= 1
            if container.host_config.auto_remove and not (container.running or container.restarts):
                self._tasks.begin(self._removing.remove(container, volumes=True))
        self._events.announce(container, "restart")

    def unhealthy(self, container: Container) -> None:
        """A health check has failed for good: what was asked for then is done."""
        act = {
            "restart": lambda: self.restart(container, None),
            "stop": lambda: self._killing.stop(container, None),
            "kill": lambda: self._killing.kill(container, "KILL"),
        }.get(container.host_config.health_on_failure)
        if act is not None:
            self._tasks.begin(self._try(act()))

    async def _try(self, act: Coroutine[object, object, object]) -> None:
        with contextlib.suppress(NotModified, *_FAILURES):  # it has ended by itself
            await act

    # what follows a run

    def followed(self, container: Container, delay: float | None) -> None:
        """A run has ended, or did not begin: the container is removed with it, or started again after `delay` seconds."""
        if container.host_config.auto_remove and not container.restarts:
            self._tasks.begin(self._removing.remove(container, force=True, volumes=True))
        if delay is not None:
            self._restart_after(container, delay)

    def resume(self, container: Container) -> None:
        """After a start of the daemon: starts again what its restart policy wants running."""
        if container.broken:
            return
        host, status = container.host_config, container.state.status
        if restart_policy.wants_at_boot(host, status, container.stopped_by_user):
            container.state.status = Status.RESTARTING
            self._restart_after(container, 0.0)
        elif host.auto_remove and (status in ("exited", "dead") or container.state.error):
            self._tasks.begin(self._removing.remove(container, force=True, volumes=True))

    def _restart_after(self, container: Container, delay: float) -> None:
        task = self._tasks.beside(self._restart_later(container, delay))
        container.tasks.add(task)
        task.add_done_callback(container.tasks.discard)

    async def _restart_later(self, container: Container, delay: float) -> None:
        """Only the pause may be cut short, by a removal or the daemon's end: the start, once begun, is not."""
        await asyncio.sleep(delay)
        await self._ready.wait()
        self._tasks.begin(self._start_again(container))

    async def _start_again(self, container: Container) -> None:
        async with container.lock:
            if container.removed or not container.state.restarting:
                return
            with contextlib.suppress(*_FAILURES):
                await self._runs.begin(container)
