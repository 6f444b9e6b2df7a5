"""Health checks: a probe in the container at intervals, three states and a short log."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from sampan.engine.container import Container, timestamp
from sampan.engine.engine import Engine

_SECOND = 10**9
_LOG_ENTRIES, _LOG_BYTES = 5, 4096


def probe_command(check: dict[str, Any] | None, shell: list[str] | None = None) -> list[str] | None:
    """The probe's arguments, or None when there is no health check."""
    test = (check or {}).get("Test") or []
    if not test or test[0] == "NONE":
        return None
    if test[0] == "CMD":
        return list(test[1:])
    return [*(shell or ["/bin/sh", "-c"]), *test[1:]]


def begin(engine: Engine, container: Container) -> None:
    """Starts probing a running container."""
    check = container.config.get("Healthcheck")
    args = probe_command(check, container.config.get("Shell"))
    if args is None:
        container.health = None
        return
    if container.health is None or container.health["Status"] not in ("healthy", "unhealthy"):
        container.health = {"Status": "starting", "FailingStreak": 0, "Log": []}
    task = engine.background(_probe_for_ever(engine, container, check or {}, args))
    container.tasks.add(task)
    task.add_done_callback(container.tasks.discard)


def end(container: Container) -> None:
    """Stops probing."""
    for task in list(container.tasks):
        task.cancel()
    if container.health:
        container.health = {"Status": "unhealthy", "FailingStreak": 0, "Log": container.health["Log"]}


def _seconds(check: dict[str, Any], key: str, default: float) -> float:
    value = check.get(key) or 0
    return value / _SECOND if value else default


async def _probe_for_ever(engine: Engine, container: Container, check: dict[str, Any], args: list[str]) -> None:
    interval = _seconds(check, "Interval", 30)
    start_period = _seconds(check, "StartPeriod", 0)
    start_interval = _seconds(check, "StartInterval", 5)
    began = time.monotonic()
    while container.running:
        starting = container.health is not None and container.health["Status"] == "starting"
        in_start_period = starting and time.monotonic() - began < start_period
        await asyncio.sleep(start_interval if in_start_period else interval)
        if container.state["Paused"]:
            continue
        await _probe(engine, container, check, args, began + start_period)


async def _probe(
    engine: Engine, container: Container, check: dict[str, Any], args: list[str], grace_until: float
) -> None:
    from sampan.engine import execs

    started = time.time_ns()
    code, output = await execs.run_probe(engine, container, args, _seconds(check, "Timeout", 30))
    if not container.running or container.health is None:
        return
    health = container.health
    health["Log"].append(
        {
            "Start": timestamp(started),
            "End": timestamp(time.time_ns()),
            "ExitCode": code,
            "Output": output[:_LOG_BYTES].decode(errors="replace"),
        }
    )
    del health["Log"][:-_LOG_ENTRIES]
    before = health["Status"]
    if code == 0:
        health["FailingStreak"], health["Status"] = 0, "healthy"
    elif before != "starting" or time.monotonic() >= grace_until:
        health["FailingStreak"] += 1
        if health["FailingStreak"] >= (check.get("Retries") or 3):
            health["Status"] = "unhealthy"
    engine.containers.owe(container)
    if health["Status"] != before:
        engine.events.announce(container, f"health_status: {health['Status']}")
