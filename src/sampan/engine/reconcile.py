"""Records, keeper and kernel brought in line, both ways: after a start of the daemon and after the death of a keeper.

What a record calls running and does not run gets its end; what runs and no record knows is ended and named. A process is
known by pid and start time. Nothing here waits for clients, and all of it may be cut short and done again.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from typing import Any

from sampan.engine import freezing, health, keeperlink, launching, lifecycle
from sampan.engine.container import Container
from sampan.engine.ends import UNKNOWN
from sampan.engine.engine import Engine
from sampan.engine.keeperlink import Call
from sampan.engine.model import Status
from sampan.keeper import protocol
from sampan.keeper.protocol import End, Handover
from sampan.linux import pidfd
from sampan.linux.cgroup import Cgroup
from sampan.linux.files import regular
from sampan.runtime.errors import RuntimeFailure

_KILLED = int(signal.SIGKILL)  # a wait status
_ID = 64  # letters of an id
_END = 10.0  # seconds that a process may take to end after SIGKILL


async def agree(engine: Engine, call: Call) -> None:
    """Brings all in line with a keeper that has just been connected to. Raises KeeperGone when that ends meanwhile.

    Whatever it started or saw the end of before is in its list or has an exit record; of all later ends it tells us.
    """
    tasks = {task.id: task for task in (await call(protocol.List())).tasks}
    for container in list(engine.containers.values()):
        if container.running and await _take_up(engine, call, container, tasks.get(container.id)):
            tasks.pop(container.id, None)
    for task in tasks.values():
        container_ = engine.containers.get(task.id)
        if not (
            (container_ is not None and (container_.running or container_.broken or _under_way(container_)))
            or engine.builds.runs(task.id)
        ):
            await _end_stranger(engine, call, task)
    groups = {engine.identity.group: set(Cgroup(engine.identity.group).children())}
    for container in list(engine.containers.values()):
        parent, name = os.path.split(container.cgroup)
        if parent not in groups:
            groups[parent] = set(Cgroup(parent).children())
        if not container.running and not container.broken and not container.lock.locked():
            await _put_right(engine, container, Cgroup(container.cgroup) if name in groups[parent] else None)
    for name in groups[engine.identity.group]:
        if len(name) == _ID and name not in engine.containers and not engine.builds.runs(name):
            await asyncio.to_thread(_end_group, Cgroup(f"{engine.identity.group}/{name}"))


def _under_way(container: Container) -> bool:
    """Whether we are starting it, as opposed to a daemon that is dead."""
    return container.starting and container.lock.locked()


async def _take_up(engine: Engine, call: Call, container: Container, task: Handover | None) -> bool:
    """A container whose record says that it runs. Returns whether the keeper's task is it."""
    if task is not None and task.start_time == container.start_time:
        try:
            await _hold(call, container)
        except RuntimeFailure:
            pass  # it has ended since, and we are told of that
        return True
    if (record := _exit_record(engine, container)) is not None:
        lifecycle.exited(engine, container, record["status"], record["time"])
        return False
    if not container.held:
        # In a copy of another engine's data root the process is that engine's.
        process = None if engine.identity.copied else _process(container)
        if process is None:
            container.state.error = "the host or the keeper stopped while the container ran: exit code unknown"
            lifecycle.exited(engine, container, UNKNOWN, 0)
            return False
        # Its pipes went with the keeper that had them; its end at least is seen.
        container.held = {"process": process}
        container.handover = _without_streams(engine, container)
    assert container.handover is not None
    try:
        await call(protocol.Adopt(container.handover, container.held))
    except RuntimeFailure as error:
        print(f"sampand: container {container.name} is not supervised: {error}", file=sys.stderr)
    return False


async def _hold(call: Call, container: Container) -> None:
    if not container.held:
        keeperlink.keep(container, await call(protocol.Hold(container.id)))


def _without_streams(engine: Engine, container: Container) -> Handover:
    return Handover(container.id, container.state.pid, container.start_time, engine.containers.directory(container), False,
                    launching.log_options(container), [], False)  # fmt: skip


def _exit_record(engine: Engine, container: Container) -> dict[str, Any] | None:
    """How this run ended, if a keeper has seen that."""
    try:
        with open(f"{engine.containers.directory(container)}/exit.json", encoding="ascii", opener=regular) as file:
            record: dict[str, Any] = json.load(file)
        same = record.get("start_time") == container.start_time
        return record if same and isinstance(record["status"], int) and isinstance(record["time"], int) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _process(container: Container) -> int | None:
    """A pidfd of it, if it lives."""
    process = pidfd.open_if_same(container.state.pid, container.start_time)
    if process is not None and pidfd.state(container.state.pid) in (None, "Z", "X"):
        os.close(process)
        return None
    return process


async def _end_stranger(engine: Engine, call: Call, task: Handover) -> None:
    """Ends what a daemon that is dead had begun to start, or to remove, and did not record."""
    identifier, container = task.id, engine.containers.get(task.id)
    name = container.name if container is not None else identifier[:12]
    print(f"sampand: {name} runs although no record says so: process {task.pid} is ended", file=sys.stderr)
    try:
        fds = (await call(protocol.Hold(identifier))).descriptors
    except RuntimeFailure:
        return  # it has ended
    try:
        signal.pidfd_send_signal(fds["process"], signal.SIGKILL)
    except ProcessLookupError:
        pass
    finally:
        for fd in fds.values():
            os.close(fd)
    if container is None or not container.starting:  # whose end is told with its record
        engine.events.publish("container", "die", identifier, {"name": name, "exitCode": "137"})
    deadline = time.monotonic() + _END
    while time.monotonic() < deadline:
        if all(other.id != identifier for other in (await call(protocol.List())).tasks):
            if container is not None and container.starting:
                container.ended_early = End(identifier, _KILLED, time.time_ns(), task.start_time)
            return
        await asyncio.sleep(0.01)
    print(f"sampand: process {task.pid} of {name} does not end", file=sys.stderr)


async def _put_right(engine: Engine, container: Container, group: Cgroup | None) -> None:
    """A container that does not run: nothing of it does, and it has what it needs to be started."""
    if group is not None:
        if group.pids():
            print(f"sampand: {container.name} has processes although it does not run: they are ended", file=sys.stderr)
            await asyncio.to_thread(group.end)
        container.to_clear = group
        lifecycle.clear_up(engine, container)
    if container.starting:
        _start_was_cut(engine, container)


def _end_group(group: Cgroup) -> None:
    """A control group of ours that belongs to nothing we know: of a build's step, or of a container that was being removed."""
    if pids := group.pids():
        print(f"sampand: {group.path} has processes {pids} that no record knows: they are ended", file=sys.stderr)
        group.end()
    try:
        group.remove()
    except OSError as error:
        print(f"sampand: {error}", file=sys.stderr)


def _start_was_cut(engine: Engine, container: Container) -> None:
    """Nobody knows whether its client was told that it runs, so it has run: its policy says what follows."""
    end = container.ended_early
    if not container.state.started_at or container.state.status != "created":
        container.state.started_at = time.time_ns()
    container.state.error = "the engine stopped while the container was being started"
    container.start_time = 0
    container.state.status = Status.RUNNING
    engine.events.announce(container, "start")
    lifecycle.exited(engine, container, end.status if end else UNKNOWN, end.time if end else 0)


def settle(engine: Engine) -> None:
    """The last step of a start of the daemon: what runs is watched, and what should run is started."""
    for container in list(engine.containers.values()):
        if container.running:
            engine.background(freezing.agree(engine, container))
            health.begin(engine, container)
        else:
            lifecycle.resume_policy(engine, container)
