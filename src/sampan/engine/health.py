"""Health checks: a probe in the container at intervals, three states and a short log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from sampan.engine import model
from sampan.engine.container import Container
from sampan.engine.containers import Containers
from sampan.engine.events import Events
from sampan.engine.execs import Execs
from sampan.engine.model import HealthCheck, HealthStatus, Probe
from sampan.engine.tasks import Tasks

_SECOND = 10**9
_LOG_ENTRIES, _LOG_BYTES = 5, 4096
_RETRIES = 3  # failures in a row that make it unhealthy, unless the check says otherwise
_KNOWN = (HealthStatus.HEALTHY, HealthStatus.UNHEALTHY)
_SHELL = ("/bin/sh", "-c")


def probe_command(check: HealthCheck | None, shell: Sequence[str] = ()) -> list[str] | None:
    """The probe's arguments, or None when there is no health check."""
    test = check.test if check else ()
    if not test or test[0] == "NONE":
        return None
    if test[0] == "CMD":
        return list(test[1:])
    return [*(shell or _SHELL), *test[1:]]


def initial(before: model.Health | None, same_run: bool) -> model.Health:
    """The health of a container whose probing begins. In the same run, of which another daemon has known it, that stands until the next
    probe; another run is starting, whatever the one before was."""
    if same_run and before is not None and before.status in _KNOWN:
        return before
    return model.Health(log=before.log if before is not None else [])


def judged(health: model.Health, probe: Probe, retries: int, forgiven: bool) -> model.Health:
    """The health after a probe. One that fails and is `forgiven`, as the container is still starting, counts for nothing."""
    status, streak = health.status, health.failing_streak
    if probe.exit_code == 0:
        status, streak = HealthStatus.HEALTHY, 0
    elif not (status is HealthStatus.STARTING and forgiven):
        streak += 1
        if streak >= (retries or _RETRIES):
            status = HealthStatus.UNHEALTHY
    return model.Health(status, streak, [*health.log, probe][-_LOG_ENTRIES:])


def ended(health: model.Health) -> model.Health:
    """The health of a container that has ended."""
    return model.Health(HealthStatus.UNHEALTHY, 0, health.log)


def _seconds(nanoseconds: int, default: float) -> float:
    return nanoseconds / _SECOND if nanoseconds else default


class Health:
    """Probes the containers that run. `failed` is called with one that has become unhealthy."""

    def __init__(
        self, containers: Containers, events: Events, execs: Execs, tasks: Tasks, failed: Callable[[Container], object]
    ) -> None:
        self._containers, self._events, self._execs, self._tasks = containers, events, execs, tasks
        self._failed = failed

    def begin(self, container: Container, same_run: bool = False) -> None:
        """Starts probing a container whose run begins, or goes on under another daemon."""
        check = container.config.health_check
        args = probe_command(check, container.config.shell)
        if check is None or args is None:
            container.health = None
            return
        container.health = initial(container.health, same_run)
        task = self._tasks.beside(self._probe_for_ever(container, check, args))
        container.tasks.add(task)
        task.add_done_callback(container.tasks.discard)

    @staticmethod
    def end(container: Container) -> None:
        """Stops probing."""
        for task in list(container.tasks):
            task.cancel()
        if container.health:
            container.health = ended(container.health)

    async def _probe_for_ever(self, container: Container, check: HealthCheck, args: list[str]) -> None:
        interval = _seconds(check.interval, 30)
        start_period = _seconds(check.start_period, 0)
        start_interval = _seconds(check.start_interval, 5)
        began = time.monotonic()
        while container.running:
            starting = container.health is not None and container.health.status is HealthStatus.STARTING
            in_start_period = starting and time.monotonic() - began < start_period
            await asyncio.sleep(start_interval if in_start_period else interval)
            if not container.state.paused:
                await self._probe(container, check, args, began + start_period)

    async def _probe(self, container: Container, check: HealthCheck, args: list[str], grace_until: float) -> None:
        started = time.time_ns()
        code, output = await self._execs.run_probe(container, args, _seconds(check.timeout, 30))
        if not container.running or container.health is None:
            return
        probe = Probe(started, time.time_ns(), code, output[:_LOG_BYTES].decode(errors="replace"))
        before = container.health.status
        forgiven = time.monotonic() < grace_until
        container.health = judged(container.health, probe, check.retries, forgiven)
        self._containers.owe(container)
        if container.health.status is not before:
            self._events.announce(container, f"health_status: {container.health.status}")
            if container.health.status is HealthStatus.UNHEALTHY:
                self._failed(container)
