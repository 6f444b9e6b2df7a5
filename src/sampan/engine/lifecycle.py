"""Runs of a container: how one begins, what its end brings with it, and when the next follows."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time

from sampan.engine import health, keeperlink, killing, launching, machines, removing, waiting
from sampan.engine.container import BEGUN, Container
from sampan.engine.engine import Engine
from sampan.engine.errors import Conflict, EngineError, NotModified
from sampan.engine.model import Status
from sampan.keeper.client import LONGEST, KeeperGone
from sampan.keeper.protocol import End, Start
from sampan.linux.cgroup import Cgroup
from sampan.linux.pidfd import exit_code
from sampan.network.errors import NetworkError
from sampan.runtime.errors import RuntimeFailure
from sampan.vm.errors import VmError
from sampan.vm.protocol import one_line

_RESTART_DELAY, _RESTART_DELAY_MAX = 0.1, 60.0
_FAILURES = (RuntimeFailure, EngineError, NetworkError, VmError, OSError, KeeperGone)


async def start(engine: Engine, container: Container) -> list[str]:
    """Starts a container; returns warnings, of limits that could not be set as asked.

    Raises NotModified when it runs, RuntimeFailure when its program can't.
    """
    async with container.exclusive():
        if container.state.paused:
            raise Conflict("cannot start a paused container, try unpause instead")
        if container.running:
            raise NotModified("already started")
        return await _start(engine, container)


async def _start(engine: Engine, container: Container) -> list[str]:
    """Within the caller's lock. That a start has begun is recorded first, and on disk when its answer is given."""
    directory, began = engine.containers.directory(container), time.monotonic()
    container.stopped_by_user = False
    clear_up(engine, container)
    given: list[int] = []  # descriptors that are ours to close
    try:
        container.start_time = BEGUN
        engine.containers.save(container)
        recorded = engine.store.begin_flush()  # while the process is made
        with engine.gate.starting(container):
            request, shared = await launching.prepare(engine, container, given)
            stdin, log = container.config.open_stdin, launching.log_options(container)
            begin = Start(container.id, request, directory, stdin, log, shared)
            answer = await engine.keeper.call(begin, machines.LONGEST if container.virtual else LONGEST)
    except Exception as error:
        if isinstance(error, KeeperGone):  # and what it has made may live
            await asyncio.to_thread(Cgroup(container.cgroup).end)
        engine.networking.release(container)
        _start_failed(engine, container, error)
        raise
    finally:
        for fd in given:
            os.close(fd)
    container.ports = engine.networking.publishing.records(container)
    keeperlink.keep(container, answer)
    container.start_time = answer.task.start_time
    state = container.state
    state.pid, state.started_at, state.status = answer.task.pid, time.time_ns(), Status.RUNNING
    state.exit_code, state.error, state.oom_killed = 0, "", False
    engine.containers.owe(container)
    health.begin(engine, container)
    engine.starts.add(container.isolation, time.monotonic() - began)
    engine.events.announce(container, "start")
    if not container.own_kernel:
        engine.networking.sandboxes.started(container)
    warnings = [one_line(text) for text in answer.warnings]  # a guest's words may be among them
    for text in warnings:
        print(f"sampand: container {container.id[:12]}: {text}", file=sys.stderr)
    if container.ended_early is not None:
        on_exit(engine, container, container.ended_early)
    try:
        await recorded.ended()
    except EngineError as error:  # it runs, but a power cut now might undo that it was started
        warnings.append(str(error))
    return warnings


def _close_taps(engine: Engine, container: Container) -> None:
    """Closes them in a thread: the last to do so waits for the kernel to forget the interface."""
    taps, container.taps = container.taps, []
    if taps:
        engine.background(asyncio.to_thread(_close_all, taps))


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def _start_failed(engine: Engine, container: Container, error: Exception) -> None:
    engine.starts.fail(container.isolation)
    _close_taps(engine, container)
    code = error.exit_code if isinstance(error, RuntimeFailure) else 128
    state = container.state
    state.exit_code, state.error, state.pid = code, str(error), 0
    container.start_time, container.ended_early = 0, None
    state.status = Status.EXITED if state.started_at else Status.CREATED
    engine.containers.owe(container)
    container.to_clear = Cgroup(container.cgroup)
    clear_up(engine, container)
    if container.host_config.auto_remove and not container.restarts:
        engine.tasks.begin(removing.remove(engine, container, force=True, volumes=True))


def on_exit(engine: Engine, container: Container, end: End) -> None:
    """The keeper says that a process has ended: of this run, of one whose start has not read yet that it began, or of an earlier one,
    whose end is told until somebody has acknowledged it."""
    if container.starting:
        container.ended_early = end
    elif end.start_time == container.start_time:
        exited(engine, container, end.status, end.time)


def exited(engine: Engine, container: Container, status: int, moment: int) -> None:
    """Called once when a container's init has ended, whoever noticed. Those who wait are woken first, whatever the disk says."""
    container.ended_early = None
    if not container.running:
        return
    group, code = Cgroup(container.cgroup), exit_code(status)
    out_of_memory, error = group.oom_kills() > 0, ""
    if container.own_kernel:
        inside, error = engine.machines.ended(container)
        out_of_memory |= inside
    state = container.state
    state.pid, state.exit_code, state.oom_killed = 0, code, out_of_memory
    state.error = error or state.error  # what is known already of an end that nobody saw stands
    state.finished_at = moment or time.time_ns()
    container.ports = []
    container.state.status = Status.EXITED
    restart = _restart_delay(container, code)
    if restart is not None:
        container.state.status = Status.RESTARTING
        container.restart_count += 1
    waited = bool(container.exit_waiters)
    waiting.resolve(container.exit_waiters, code)
    _close_taps(engine, container)
    health.end(container)
    keeperlink.release(container)
    engine.containers.owe(container)
    if waited:
        engine.store.begin_flush()  # what those who wait are told has to be on disk: while they are being woken
    engine.networking.release(container)
    if container.state.oom_killed:
        engine.events.announce(container, "oom")
    engine.events.announce(container, "die", exitCode=str(code))
    # After those who wait have been woken; a start that comes first does it itself.
    container.to_clear = group
    asyncio.get_running_loop().call_soon(clear_up, engine, container)
    if container.host_config.auto_remove and not container.restarts:
        engine.tasks.begin(removing.remove(engine, container, force=True, volumes=True))
    if restart is not None:
        _restart_after(engine, container, restart)


def clear_up(engine: Engine, container: Container) -> None:
    """Removes the control group of a run that has ended."""
    group, container.to_clear = container.to_clear, None
    if group is None:
        return
    try:
        group.remove()
    except OSError:
        engine.background(_remove_group_later(group))


async def _remove_group_later(group: Cgroup) -> None:
    for _ in range(50):
        await asyncio.sleep(0.1)
        try:
            group.remove()
            return
        except OSError:
            continue


# what follows a run


async def restart(engine: Engine, container: Container, timeout: int | None, text: str = "") -> None:
    """Stops it if it runs, and starts it. One that is removed with its end is not, as this is no end."""
    container.check_whole()
    container.restarts += 1
    try:
        with contextlib.suppress(NotModified):
            await killing.stop(engine, container, timeout, text)
        with contextlib.suppress(NotModified):  # somebody else, or its policy, was faster
            await start(engine, container)
    finally:
        container.restarts -= 1
        if container.host_config.auto_remove and not (container.running or container.restarts):
            engine.tasks.begin(removing.remove(engine, container, volumes=True))
    engine.events.announce(container, "restart")


def _restart_delay(container: Container, code: int) -> float | None:
    """Seconds until the restart policy starts it again, or None."""
    policy = container.host_config.restart_policy
    name = policy.name or "no"
    if container.stopped_by_user or name == "no":
        return None
    if name == "on-failure":
        limit = policy.max_retries
        if code == 0 or (limit and container.restart_count >= limit):
            return None
    return float(min(_RESTART_DELAY * 2 ** min(container.restart_count, 10), _RESTART_DELAY_MAX))


def _restart_after(engine: Engine, container: Container, delay: float) -> None:
    task = engine.background(_restart_later(engine, container, delay))
    container.tasks.add(task)
    task.add_done_callback(container.tasks.discard)


async def _restart_later(engine: Engine, container: Container, delay: float) -> None:
    """Only the pause may be cut short, by a removal or the daemon's end: the start, once begun, is not."""
    await asyncio.sleep(delay)
    await engine.ready.wait()
    engine.tasks.begin(_start_again(engine, container))


async def _start_again(engine: Engine, container: Container) -> None:
    async with container.lock:
        if container.removed or not container.state.restarting:
            return
        with contextlib.suppress(*_FAILURES):
            await _start(engine, container)


def resume_policy(engine: Engine, container: Container) -> None:
    """After a start of the daemon: starts again what its restart policy wants running."""
    if container.broken:
        return
    name = container.host_config.restart_policy.name or "no"
    status = container.state.status
    if status == "restarting" or (name == "always" and status == "exited" and not container.stopped_by_user):
        container.state.status = Status.RESTARTING
        _restart_after(engine, container, 0.0)
    elif container.host_config.auto_remove and (status in ("exited", "dead") or container.state.error):
        engine.tasks.begin(removing.remove(engine, container, force=True, volumes=True))
