"""Changing a container that is there: its name, its limits, its restart policy."""

from __future__ import annotations

import msgspec

from sampan.engine import container_record, limits, spec
from sampan.engine.container import Container
from sampan.engine.creation import check_restart, claim_name
from sampan.engine.engine import Engine
from sampan.engine.errors import BadRequest, Conflict, EngineError
from sampan.engine.model import HostConfig, Limits
from sampan.engine.policy.caller import Caller
from sampan.linux.cgroup import Cgroup
from sampan.linux.cgroup_limits import LimitRefused
from sampan.linux.spec_types import Resources

replace = msgspec.structs.replace
_CHANGEABLE = ("memory", "memory_swap", "memory_reservation", "cpu_shares", "cpu_period", "cpu_quota", "cpuset_cpus", "cpuset_mems",
               "nano_cpus", "pids_limit", "blkio_weight")  # fmt: skip


async def rename(engine: Engine, who: Caller, container: Container, name: str) -> None:
    """Gives a container another name. Raises Conflict, BadRequest."""
    if not name:
        raise BadRequest("Neither old nor new names may be empty")
    async with container.exclusive():
        old = container.name
        with claim_name(engine, name, container.id, who) as claimed:
            container.name = claimed
            try:
                engine.containers.save(container)
            except BaseException:
                container.name = old
                raise
            engine.networking.networks.rename(container.id, claimed)
            engine.networking.names.tell_linked(container)
    engine.events.announce(container, "rename", oldName=f"/{old}")


async def update(engine: Engine, container: Container, changes: HostConfig) -> list[str]:
    """Changes limits and restart policy, of a running container at once; what is not given stays. Returns warnings."""
    wanted = {name: value for name in _CHANGEABLE if (value := getattr(changes.limits, name))}
    policy = changes.restart_policy
    async with container.exclusive():
        before = container.host_config
        _check_conflicts(before.limits, Limits(**wanted))
        host = replace(before, limits=replace(before.limits, **wanted))
        if policy.name:
            host = replace(host, restart_policy=policy)
        warnings = limits.check(host)
        check_restart(host)
        container.host_config = host
        try:
            _record(engine, container)
            if container.running:
                warnings += await _apply(engine, container, spec.resources(host))
        except BaseException:
            container.host_config = before
            engine.containers.owe(container)
            raise
    engine.events.announce(container, "update")
    return warnings


def _check_conflicts(has: Limits, wanted: Limits) -> None:
    """Raises Conflict for what can't be beside what the container has."""
    for one, other, name, is_set in (
        (wanted.cpu_period, has.nano_cpus, "CPU Period", "NanoCPUs"),
        (wanted.cpu_quota, has.nano_cpus, "CPU Quota", "NanoCPUs"),
        (wanted.nano_cpus, has.cpu_period, "NanoCPUs", "CPU Period"),
        (wanted.nano_cpus, has.cpu_quota, "NanoCPUs", "CPU Quota"),
    ):
        if one and other:
            raise Conflict(f"Conflicting options: {name} cannot be updated as {is_set} has already been set")
    if wanted.memory > has.memory_swap > 0 and not wanted.memory_swap:
        raise Conflict(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time"
        )


def _record(engine: Engine, container: Container) -> None:
    """Raises BadRequest for what could not be read again."""
    try:
        container_record.checked(container)
    except container_record.Unreadable as error:
        raise BadRequest(f"invalid value: {error}") from None
    engine.containers.save(container)


async def _apply(engine: Engine, container: Container, wanted: Resources) -> list[str]:
    """Brings new limits to the kernels that enforce them, all or none; returns warnings. Raises BadRequest, EngineError."""
    try:
        if container.virtual:
            return await engine.machines.limit(container, container.host_config, wanted)
        group = Cgroup(container.cgroup)
        group.update(wanted)
        return group.warnings
    except LimitRefused as error:
        raise BadRequest(f"Cannot update container {container.id}: {error}") from error
    except OSError as error:
        raise EngineError(f"Cannot update container {container.id}: {error.strerror}") from error
