"""Broken containers: what is there of a container whose record can't be read, or is missing.

Nothing of theirs is deleted or overwritten but by a person (`rm -f`): the record stays in its row byte for byte, the files stay
where they are. They are listed as dead and say why; their files can be copied and exported; they do not start.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import time
from collections.abc import Mapping

import msgspec

from sampan.engine import container_record as records
from sampan.engine.container import Container
from sampan.engine.directories import SKELETON
from sampan.engine.errors import Conflict, EngineError, NotModified
from sampan.engine.model import Config, HostConfig, Isolation, RestartPolicy, State, Status, SystemVm
from sampan.engine.records import Row
from sampan.linux.cgroup import Cgroup, hierarchies

_KEPT = (
    "name",
    "created",
    "image",
    "image_name",
    "mounts",
    "networks",
    "restart_count",
    "owner",
    "claim",
    "decision",
    "group",
)
replace = msgspec.structs.replace
_END = 10.0  # seconds that processes may take to end after SIGKILL


def of_row(row: Row, why: str, group: str) -> Container:
    """The container of a record that can't be read, with what is good of it."""
    found = records.salvage(row.body)
    identifier = row.key if records.ID.fullmatch(row.key) else _made_up(row.key)
    container = _make(identifier, why, found, group)
    container.rowid = row.rowid
    return container


def of_directory(path: str, group: str) -> Container | None:
    """The container of a directory that no record speaks of; None when nothing is in it."""
    name = os.path.basename(path)
    identifier = name if records.ID.fullmatch(name) else _made_up(name)
    created = int(os.stat(path, follow_symlinks=False).st_mtime * 1e9)
    container = _make(identifier, "it has files and no record", {"created": max(created, 0)}, group)
    container.place = path
    return container if _holds_anything(path) or processes(container) else None


def _made_up(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def _make(identifier: str, why: str, found: Mapping[str, object], group: str) -> Container:
    """A container with all that readers rely on, of whatever was found. `group`: where the engine's control groups are."""
    host = found.get("host_config") or HostConfig(network_mode="none", restart_policy=RestartPolicy("no"))
    assert isinstance(host, HostConfig)
    if not host.log_config.driver:
        host = replace(host, log_config=replace(host.log_config, driver="json-file"))
    config = found.get("config") or Config()
    assert isinstance(config, Config)
    if host.isolation == Isolation.MACHINE and config.system_vm is None:
        config = replace(config, system_vm=SystemVm())
    container = Container(identifier, f"broken-{identifier[:12]}", 0, "", "", config, host, group=group)
    for name in _KEPT:
        if name in found:
            setattr(container, name, found[name])
    state = found.get("state")
    if isinstance(state, State):
        container.state = state
    container.broken = why
    container.state.status, container.state.pid = Status.DEAD, 0
    container.state.error = f"the container is broken: {why}; its files are kept until `rm -f`"
    return container


def _holds_anything(path: str) -> bool:
    """Whether somebody may miss it. On doubt, yes."""
    try:
        if not os.path.isdir(path) or os.path.islink(path) or set(os.listdir(path)) - SKELETON:
            return True
        if os.path.isdir(f"{path}/upper") and os.listdir(f"{path}/upper"):
            return True
        return any(os.stat(f"{path}/log/{name}").st_size for name in _names(f"{path}/log"))
    except OSError:
        return True


def _names(path: str) -> list[str]:
    return os.listdir(path) if os.path.isdir(path) else []


def processes(container: Container) -> list[int]:
    """Its processes that are known without doubt: those in its control group, which is named after its id."""
    if not hierarchies().usable or not records.ID.fullmatch(container.id):
        return []
    try:
        return Cgroup(container.cgroup).pids()
    except (OSError, ValueError):
        return []


async def kill(container: Container, number: int) -> None:
    """Signals its processes; after SIGKILL waits for their end. Raises Conflict when none are known, EngineError."""
    if not processes(container):
        raise Conflict(f"cannot kill container: {container.id}: it is broken, and no process is known to be its")
    if number == signal.SIGKILL:
        await end(container)
    else:
        _signal(container, number)


async def stop(container: Container, number: int, timeout: int) -> None:
    """Asks with the signal, then kills after `timeout` seconds. Raises NotModified when no process is known, EngineError."""
    if not processes(container):
        raise NotModified("already stopped")
    await end(container, number, timeout if timeout >= 0 else float("inf"))


async def end(container: Container, first: int = signal.SIGKILL, patience: float = 0.0) -> None:
    """Ends its processes: by the signal `first` if it does it in `patience` seconds, then by SIGKILL. Raises EngineError."""
    if first != signal.SIGKILL:
        _signal(container, first)
        deadline = time.monotonic() + patience
        while processes(container) and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
    deadline = time.monotonic() + _END
    while pids := processes(container):
        _signal(container, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise EngineError(
                f"processes {', '.join(map(str, pids))} of the broken container {container.id} do not end"
            )
        await asyncio.sleep(0.02)


def _signal(container: Container, number: int) -> None:
    for pid in processes(container):
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            if pid in processes(container):  # it is that process which is open now
                signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            pass
        finally:
            os.close(descriptor)
