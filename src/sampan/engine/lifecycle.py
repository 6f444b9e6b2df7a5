"""Start, stop, kill, pause, wait, remove: the states of a container and the ways between them."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from typing import Any

from sampan.engine import health, keeperlink, launching, spec
from sampan.engine.container import ZERO_TIME, Container, timestamp
from sampan.engine.creation import announce
from sampan.engine.engine import Engine
from sampan.engine.errors import BadRequest, Conflict, EngineError, NotFound, NotModified
from sampan.keeper.client import KeeperGone
from sampan.linux import signals
from sampan.linux.cgroup import Cgroup, hierarchies
from sampan.linux.pidfd import exit_code
from sampan.network.errors import NetworkError
from sampan.runtime.errors import RuntimeFailure
from sampan.vm.errors import VmError

_GUEST_END = 10.0  # seconds that a guest may take to end its container and write everything
_RESTART_DELAY, _RESTART_DELAY_MAX, _STEADY_SECONDS = 0.1, 60.0, 10.0


async def start(engine: Engine, container: Container) -> list[str]:
    """Starts a container; returns warnings, of limits that could not be set as asked.

    Raises NotModified when it runs, RuntimeFailure when its program can't.
    """
    async with container.lock:
        if container.removed:
            raise NotFound(f"No such container: {container.id}")
        if container.state["Paused"]:
            raise Conflict("cannot start a paused container, try unpause instead")
        if container.running:
            raise NotModified("already started")
        return await _start(engine, container)


async def _start(engine: Engine, container: Container) -> list[str]:
    directory, began = engine.directory(container), time.monotonic()
    container.stopped_by_user = False
    _clear_up(engine, container)
    given: list[int] = []  # descriptors that are ours to close
    try:
        with engine.guard.starting(container):
            request, shared = await launching.prepare(engine, container, given)
            reply, fds = await engine.keeper.call(
                "start",
                shared,
                id=container.id,
                request=request,
                directory=directory,
                stdin=bool(container.config.get("OpenStdin")),
                log=launching.log_options(container),
            )
    except (RuntimeFailure, EngineError, NetworkError, VmError, OSError, KeeperGone) as error:
        engine.networking.release(container)
        _start_failed(engine, container, error)
        raise
    finally:
        for fd in given:
            os.close(fd)
    container.ports = engine.networking.publishing.records(container)
    keeperlink.KeeperLink.keep(container, reply, fds)
    container.start_time = reply["start_time"]
    container.state |= {"Pid": reply["pid"], "StartedAt": timestamp(time.time_ns()), "ExitCode": 0, "Error": "",
                        "OOMKilled": False}  # fmt: skip
    container.set_status("running")
    engine.save(container)
    health.begin(engine, container)
    engine.starts.add(container.isolation, time.monotonic() - began)
    announce(engine, container, "start")
    if not container.own_kernel:
        engine.networking.sandboxes.started(container)
    warnings: list[str] = reply["warnings"]
    for text in warnings:
        print(f"sampand: container {container.id[:12]}: {text}", file=sys.stderr)
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
    container.state |= {"ExitCode": code, "Error": str(error), "Pid": 0}
    container.set_status("created" if container.state["StartedAt"] == ZERO_TIME else "exited")
    engine.save(container)
    Cgroup(container.cgroup).remove()
    if container.host_config.get("AutoRemove"):
        engine.background(remove(engine, container, force=True, volumes=True))


def exited(engine: Engine, container: Container, status: int, moment: int) -> None:
    """Called once when a container's init has ended, whoever noticed."""
    if not container.running:
        return
    group = Cgroup(container.cgroup)
    code = exit_code(status)
    out_of_memory = group.oom_kills() > 0
    if container.own_kernel:
        out_of_memory |= bool(engine.machines.ended(container).get("oom"))
    container.state |= {
        "Pid": 0,
        "ExitCode": code,
        "OOMKilled": out_of_memory,
        "FinishedAt": timestamp(moment or time.time_ns()),
    }
    container.ports = []
    _close_taps(engine, container)
    container.set_status("exited")
    health.end(container)
    keeperlink.release(container)
    engine.networking.release(container)
    restart = _restart_delay(container, code)
    if restart is not None:
        container.set_status("restarting")
        container.restart_count += 1
    engine.save(container)
    if container.state["OOMKilled"]:
        announce(engine, container, "oom")
    announce(engine, container, "die", exitCode=str(code))
    _resolve(container.exit_waiters, code)
    # After those who wait have been woken; a start that comes first does it itself.
    container.to_clear = group
    asyncio.get_running_loop().call_soon(_clear_up, engine, container)
    if container.host_config.get("AutoRemove"):
        engine.background(remove(engine, container, force=True, volumes=True))
    if restart is not None:
        task = engine.background(_restart_later(engine, container, restart))
        container.tasks.add(task)
        task.add_done_callback(container.tasks.discard)


def _clear_up(engine: Engine, container: Container) -> None:
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


def _resolve(waiters: list[asyncio.Future[int]], code: int) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(code)
    waiters.clear()


def _restart_delay(container: Container, code: int) -> float | None:
    """Seconds until the restart policy starts it again, or None."""
    policy = container.host_config.get("RestartPolicy") or {}
    name = policy.get("Name") or "no"
    if container.stopped_by_user or name == "no":
        return None
    if name == "on-failure":
        limit = policy.get("MaximumRetryCount") or 0
        if code == 0 or (limit and container.restart_count >= limit):
            return None
    return float(min(_RESTART_DELAY * 2 ** min(container.restart_count, 10), _RESTART_DELAY_MAX))


async def _restart_later(engine: Engine, container: Container, delay: float) -> None:
    await asyncio.sleep(delay)
    async with container.lock:
        if container.removed or container.state["Status"] != "restarting":
            return
        try:
            await _start(engine, container)
        except (RuntimeFailure, EngineError, NetworkError, VmError, OSError, KeeperGone):
            return


def resume_policy(engine: Engine, container: Container) -> None:
    """After a start of the daemon: starts again what its restart policy wants running."""
    name = (container.host_config.get("RestartPolicy") or {}).get("Name") or "no"
    status = container.state["Status"]
    if status == "restarting" or (name == "always" and status == "exited" and not container.stopped_by_user):
        container.set_status("restarting")
        engine.background(_restart_later(engine, container, 0.0))
    elif container.host_config.get("AutoRemove") and (status in ("exited", "dead") or container.state["Error"]):
        engine.background(remove(engine, container, force=True, volumes=True))


def signal_number(text: str) -> int:
    """A signal by name or number: "TERM", "SIGRTMIN+3", "9". Raises BadRequest."""
    try:
        return signals.number(text)
    except ValueError as error:
        raise BadRequest(str(error)) from None


def _signal(container: Container, number: int) -> None:
    descriptor = container.held[0] if container.held else os.pidfd_open(container.state["Pid"])
    try:
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        pass
    finally:
        if not container.held:
            os.close(descriptor)


async def _end(engine: Engine, container: Container, keep: bool = True) -> None:
    """Kills the container's init: a guest's in the guest first, so that its disk is left in order if it is to be kept."""
    if container.virtual and keep:
        try:
            async with asyncio.timeout(_GUEST_END):
                await engine.machines.ask(container, "signal", id="init", number=int(signal.SIGKILL))
                await _exit_future(container)
                return
        except (EngineError, OSError, TimeoutError):
            pass
    if container.running:
        _signal(container, signal.SIGKILL)


async def kill(engine: Engine, container: Container, text: str, keep: bool = True) -> None:
    """Sends a signal to the container's init; without `keep` its files need not survive. Raises Conflict when it does not run."""
    number = signal_number(text or "KILL")
    if not container.running:
        raise Conflict(f"cannot kill container: {container.id}: container {container.id} is not running")
    if number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        container.stopped_by_user = True
    waiter = _exit_future(container) if number == signal.SIGKILL else None
    if number == signal.SIGKILL and container.state["Paused"]:
        await unpause(engine, container)
    if number == signal.SIGKILL:
        await _end(engine, container, keep)
    else:
        _signal(container, number)
    announce(engine, container, "kill", signal=str(number))
    if waiter is not None:
        try:
            await asyncio.wait_for(waiter, 30)
        except TimeoutError:
            raise EngineError(
                f"cannot kill container: {container.id}: its process did not end within 30 s of SIGKILL"
            ) from None


def _exit_future(container: Container) -> asyncio.Future[int]:
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    container.exit_waiters.append(future)
    return future


async def stop(engine: Engine, container: Container, timeout: int | None, text: str = "") -> None:
    """Asks with the stop signal, then kills after `timeout` seconds (negative: waits for ever)."""
    if container.state["Status"] == "restarting":
        container.stopped_by_user = True
        container.set_status("exited")
        engine.save(container)
        return
    if not container.running:
        raise NotModified("already stopped")
    number = signal_number(text or container.config.get("StopSignal") or "TERM")
    if timeout is None:
        given = container.config.get("StopTimeout")
        timeout = 10 if given is None else int(given)
    container.stopped_by_user = True
    waiter = _exit_future(container)
    if container.state["Paused"]:
        await unpause(engine, container)
    _signal(container, number)
    announce(engine, container, "kill", signal=str(number))
    try:
        await asyncio.wait_for(asyncio.shield(waiter), None if timeout < 0 else timeout)
    except TimeoutError:
        if container.running:
            await _end(engine, container)
            announce(engine, container, "kill", signal=str(int(signal.SIGKILL)))
        await waiter
    announce(engine, container, "stop")
    engine.save(container)


async def restart(engine: Engine, container: Container, timeout: int | None, text: str = "") -> None:
    """Stops it if it runs, and starts it."""
    try:
        await stop(engine, container, timeout, text)
    except NotModified:
        pass
    await start(engine, container)
    announce(engine, container, "restart")


async def pause(engine: Engine, container: Container) -> None:
    """Freezes every process of the container."""
    if not container.running:
        raise Conflict(f"Container {container.id} is not running")
    if container.state["Paused"]:
        raise Conflict(f"Container {container.id} is already paused")
    if container.system:
        await engine.machines.ask(container, "pause")
    elif container.virtual:
        await engine.machines.ask(container, "freeze", frozen=True)
    elif not hierarchies().v1 and not hierarchies().v2:
        raise Conflict("pausing needs control groups, which an engine without root doesn't have here")
    else:
        await asyncio.to_thread(Cgroup(container.cgroup).freeze, True)
    container.set_status("paused")
    engine.save(container)
    announce(engine, container, "pause")


async def unpause(engine: Engine, container: Container) -> None:
    """Lets a paused container go on."""
    if not container.state["Paused"]:
        raise Conflict(f"Container {container.id} is not paused")
    if container.system:
        await engine.machines.ask(container, "resume")
    elif container.virtual:
        await engine.machines.ask(container, "freeze", frozen=False)
    else:
        await asyncio.to_thread(Cgroup(container.cgroup).freeze, False)
    container.set_status("running")
    engine.save(container)
    announce(engine, container, "unpause")


def wait(engine: Engine, container: Container, condition: str) -> asyncio.Future[int]:
    """A future of the exit code: "not-running" (now or later), "next-exit" or "removed"."""
    if condition not in ("", "not-running", "next-exit", "removed"):
        raise BadRequest(f'invalid condition: "{condition}"')
    if condition == "removed":
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        container.remove_waiters.append(future)
        return future
    future = _exit_future(container)
    if condition != "next-exit" and not container.running and container.state["Status"] != "restarting":
        _resolve([future], container.state["ExitCode"])
    return future


async def remove(engine: Engine, container: Container, force: bool = False, volumes: bool = False) -> None:
    """Deletes a container, its writable layer and logs; with `volumes` its anonymous volumes too."""
    if container.running and not force:
        raise Conflict(
            f'cannot remove container "/{container.name}": container is running: stop the container before removing or force remove'
        )
    if container.removed:
        return
    container.stopped_by_user = True
    for task in list(container.tasks):
        task.cancel()
    if container.running:
        await kill(engine, container, "KILL", keep=False)
    async with container.lock:
        if container.removed:
            return
        container.removed = True
        engine.containers.pop(container.id, None)
        engine.store.delete("container", container.id)
        engine.discard_directory(container)
        if volumes:
            _remove_volumes(engine, container)
    announce(engine, container, "destroy")
    _resolve(container.remove_waiters, container.state["ExitCode"])
    _resolve(container.exit_waiters, container.state["ExitCode"])


def _remove_volumes(engine: Engine, container: Container) -> None:
    used = {row.get("Name") for other in engine.containers.values() for row in other.mounts}
    for row in container.mounts:
        name = row.get("Name")
        if name and name not in used and engine.volumes.get(name).anonymous:
            engine.volumes.remove(name)


def rename(engine: Engine, container: Container, name: str) -> None:
    """Gives a container another name. Raises Conflict, BadRequest."""
    from sampan.engine.creation import claim_name

    if not name:
        raise BadRequest("Neither old nor new names may be empty")
    old = container.name
    container.name = claim_name(engine, name)
    engine.save(container)
    announce(engine, container, "rename", oldName=f"/{old}")


async def update(engine: Engine, container: Container, changes: dict[str, Any]) -> list[str]:
    """Changes limits and restart policy, of a running container at once. Returns warnings."""
    known = ("Memory", "MemorySwap", "MemoryReservation", "CpuShares", "CpuPeriod", "CpuQuota", "CpusetCpus",
             "CpusetMems", "NanoCpus", "PidsLimit", "BlkioWeight", "RestartPolicy")  # fmt: skip
    wanted = {key: value for key, value in changes.items() if key in known and value not in (None, 0, "", {})}
    if wanted.get("RestartPolicy", {}).get("Name") == "":
        del wanted["RestartPolicy"]
    host = {**container.host_config, **wanted}
    limits = spec.resources(host)
    warnings: list[str] = []
    if container.running:
        try:
            warnings = await _apply(engine, container, host, limits)
        except OSError as error:
            raise EngineError(f"Cannot update container {container.id}: {error}") from error
    container.host_config.update(wanted)
    engine.save(container)
    announce(engine, container, "update")
    return warnings


async def _apply(engine: Engine, container: Container, host: dict[str, Any], limits: dict[str, Any]) -> list[str]:
    """Brings new limits to the kernels that enforce them; returns warnings. Raises OSError, EngineError."""
    if container.virtual:
        return await engine.machines.limit(container, host, limits)
    group = Cgroup(container.cgroup)
    group.apply(limits, devices=False)
    return group.warnings
