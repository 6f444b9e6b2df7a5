"""Health checks: a probe in the container at intervals, three states and a short log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from sampan.engine.container import Container
from sampan.engine.engine import Engine
from sampan.engine.model import Health, HealthCheck, HealthStatus, Probe

_SECOND = 10**9
_KNOWN = (HealthStatus.HEALTHY, HealthStatus.UNHEALTHY)
_SHELL = ("/bin/sh", "-c")
_LOG_ENTRIES, _LOG_BYTES = 5, 4096


def probe_command(check: HealthCheck | None, shell: Sequence[str] = ()) -> list[str] | None:
    """The probe's arguments, or None when there is no health check."""
    test = check.test if check else ()
    if not test or test[0] == "NONE":
        return None
    if test[0] == "CMD":
        return list(test[1:])
    return [*(shell or _SHELL), *test[1:]]


def begin(engine: Engine, container: Container) -> None:
    """Starts probing a running container."""
    check = container.config.health_check
    args = probe_command(check, container.config.shell)
    if check is None or args is None:
        container.health = None
        return
    if container.health is None or container.health.status not in _KNOWN:
        container.health = Health()
    task = engine.background(_probe_for_ever(engine, container, check, args))
    container.tasks.add(task)
    task.add_done_callback(container.tasks.discard)


def end(container: Container) -> None:
    """Stops probing."""
    for task in list(container.tasks):
        task.cancel()
    if container.health:
        container.health = Health(HealthStatus.UNHEALTHY, 0, container.health.log)


def _seconds(nanoseconds: int, default: float) -> float:
    return nanoseconds / _SECOND if nanoseconds else default


async def _probe_for_ever(engine: Engine, container: Container, check: HealthCheck, args: list[str]) -> None:
    interval = _seconds(check.interval, 30)
    start_period = _seconds(check.start_period, 0)
    start_interval = _seconds(check.start_interval, 5)
    began = time.monotonic()
    while container.running:
        starting = container.health is not None and container.health.status is HealthStatus.STARTING
        in_start_period = starting and time.monotonic() - began < start_period
        await asyncio.sleep(start_interval if in_start_period else interval)
        if container.state.paused:
            continue
        await _probe(engine, container, check, args, began + start_period)


async def _probe(engine: Engine, container: Container, check: HealthCheck, args: list[str], grace_until: float) -> None:
    from sampan.engine import execs

    started = time.time_ns()
    code, output = await execs.run_probe(engine, container, args, _seconds(check.timeout, 30))
    if not container.running or container.health is None:
        return
    health = container.health
    health.log.append(Probe(started, time.time_ns(), code, output[:_LOG_BYTES].decode(errors="replace")))
    del health.log[:-_LOG_ENTRIES]
    before = health.status
    if code == 0:
        health.failing_streak, health.status = 0, HealthStatus.HEALTHY
    elif before is not HealthStatus.STARTING or time.monotonic() >= grace_until:
        health.failing_streak += 1
        if health.failing_streak >= (check.retries or 3):
            health.status = HealthStatus.UNHEALTHY
    engine.containers.owe(container)
    if health.status is not before:
        engine.events.announce(container, f"health_status: {health.status}")
