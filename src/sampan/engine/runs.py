"""Runs of a container: how one begins, and what its end brings with it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from sampan.engine import restart_policy
from sampan.engine.backends.backend import Backends
from sampan.engine.container import BEGUN, Container
from sampan.engine.containers import Containers
from sampan.engine.durations import Durations
from sampan.engine.errors import EngineError
from sampan.engine.events import Events
from sampan.engine.execs import Execs
from sampan.engine.forwarding import Forwarding
from sampan.engine.health import Health
from sampan.engine.model import Status
from sampan.engine.process import Exit, Process
from sampan.engine.starting import Starting
from sampan.engine.takings import Takings
from sampan.engine.tasks import Tasks
from sampan.linux.cgroup import Cgroup
from sampan.linux.pidfd import exit_code
from sampan.runtime.errors import RuntimeFailure
from sampan.vm.protocol import one_line

_log = logging.getLogger(__name__)

Followed = Callable[[Container, float | None], None]


class Runs:
    """Begins runs and notes their ends. `followed(container, delay)` is called after each: with the seconds until the next
    run that its restart policy wants, or None."""

    def __init__(
        self, containers: Containers, events: Events, takings: Takings, backends: Backends, starting: Starting, execs: Execs,
        health: Health, forwarding: Forwarding, tasks: Tasks, followed: Followed,
    ) -> None:  # fmt: skip
        self._containers, self._events, self._takings, self._backends = containers, events, takings, backends
        self._starting, self._execs, self._health, self._forwarding = starting, execs, health, forwarding
        self._tasks, self._followed = tasks, followed
        self.durations = Durations()  # of starts, by isolation

    async def begin(self, container: Container) -> list[str]:
        """Begins a run, within the caller's lock; returns warnings. That it has begun is recorded first, and on disk when this
        returns. Raises what Starting.start() does."""
        began = time.monotonic()
        container.stopped_by_user = False
        self.clear_up(container)
        try:
            container.start_time = BEGUN
            self._containers.save(container)
            recorded = self._containers.begin_flush()  # while the process is made
            process = await self._starting.start(container)
        except Exception as error:
            self._failed(container, error)
            raise
        container.start_time, container.process = process.start_time, process
        state = container.state
        state.pid, state.started_at, state.status = process.pid, time.time_ns(), Status.RUNNING
        state.exit_code, state.error, state.oom_killed = 0, "", False
        self._containers.owe(container)
        self._health.begin(container)
        self._forwarding.begin(container)
        self.durations.add(container.isolation, time.monotonic() - began)
        self._takings.taken(container)
        self._events.announce(container, "start")
        self._backends.of(container).started(container)
        warnings = [one_line(text) for text in process.warnings]  # a guest's words may be among them
        for text in warnings:
            _log.warning(f"container {container.id[:12]}: {text}")
        self.watch(container, process)
        try:
            await recorded.ended()
        except EngineError as error:  # it runs, but a power cut now might undo that it was started
            warnings.append(str(error))
        return warnings

    def _failed(self, container: Container, error: Exception) -> None:
        self.durations.fail(container.isolation)
        code = error.exit_code if isinstance(error, RuntimeFailure) else 128
        state = container.state
        state.exit_code, state.error, state.pid = code, str(error), 0
        container.start_time = 0
        state.status = Status.EXITED if state.started_at else Status.CREATED
        self._containers.owe(container)
        container.to_clear = Cgroup(container.cgroup)
        self.clear_up(container)
        self._followed(container, None)

    def watch(self, container: Container, process: Process) -> None:
        """Notes the end of a run when that comes. The end of the daemon ends the watching: what is not acknowledged then, the
        next one is told again."""
        self._tasks.beside(self._watch(container, process))

    async def _watch(self, container: Container, process: Process) -> None:
        exit = await process.wait()
        if container.process is process:
            self.ended(container, exit)
        process.acknowledge()

    def ended(self, container: Container, exit: Exit) -> None:
        """Called once when a container's init has ended, whoever noticed.
        Those who wait are woken first, whatever the disk says."""
        if not container.running:
            return
        backend, code = self._backends.of(container), exit_code(exit.status)
        details = backend.exit_details(container)
        state = container.state
        state.pid, state.exit_code, state.oom_killed = 0, code, details.out_of_memory
        state.error = details.error or state.error  # what is known already of an end that nobody saw stands
        state.finished_at = exit.time or time.time_ns()
        container.ports = []
        container.state.status = Status.EXITED
        restart = restart_policy.delay(container.host_config, code, container.restart_count, container.stopped_by_user)
        if restart is not None:
            container.state.status = Status.RESTARTING
            container.restart_count += 1
        waited = container.exits.awaited
        container.exits.send(code)
        self._execs.container_ended(container)
        self._health.end(container)
        if container.process is not None:
            container.process.close()
            container.process = None
        self._containers.owe(container)
        if waited:
            self._containers.begin_flush()  # what those who wait are told has to be on disk: while they are being woken
        backend.release(container)
        if container.state.oom_killed:
            self._events.announce(container, "oom")
        self._takings.given_back(container)
        lasted = max(state.finished_at - state.started_at, 0) // 10**9
        self._events.announce(container, "die", execDuration=str(lasted), exitCode=str(code))
        # After those who wait have been woken, two turns of the event loop from now; a start that comes first does it itself.
        container.to_clear = Cgroup(container.cgroup)
        loop = asyncio.get_running_loop()
        loop.call_soon(loop.call_soon, self.clear_up, container)
        self._followed(container, restart)

    def clear_up(self, container: Container) -> None:
        """Removes the control group of a run that has ended."""
        group, container.to_clear = container.to_clear, None
        if group is None:
            return
        try:
            group.remove()
        except OSError:
            self._tasks.beside(_remove_group_later(group))


async def _remove_group_later(group: Cgroup) -> None:
    for _ in range(50):
        await asyncio.sleep(0.1)
        try:
            group.remove()
            return
        except OSError:
            continue
