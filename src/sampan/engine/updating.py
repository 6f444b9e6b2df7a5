"""Changing a container that is there: its name, its limits, its restart policy."""

from __future__ import annotations

import msgspec

from sampan.engine import container_record, limits, restart_policy, spec
from sampan.engine.backends.backend import Backends
from sampan.engine.container import Container
from sampan.engine.containers import Containers
from sampan.engine.errors import BadRequest, Conflict, EngineError
from sampan.engine.events import Events
from sampan.engine.model import HostConfig, Limits
from sampan.engine.name_claims import NameClaims
from sampan.engine.network.networking import Networking
from sampan.engine.policy.caller import Caller
from sampan.linux.cgroup_limits import LimitRefused
from sampan.linux.spec_types import Resources

replace = msgspec.structs.replace
_CHANGEABLE = ("memory", "memory_swap", "memory_reservation", "cpu_shares", "cpu_period", "cpu_quota", "cpuset_cpus", "cpuset_mems",
               "nano_cpus", "pids_limit", "blkio_weight", "realtime_period", "realtime_runtime")  # fmt: skip


class Updating:
    """Changes containers."""

    def __init__(
        self, containers: Containers, events: Events, names: NameClaims, networking: Networking, backends: Backends
    ) -> None:
        self._containers, self._events, self._names = containers, events, names
        self._networking, self._backends = networking, backends

    async def rename(self, who: Caller, container: Container, name: str) -> None:
        """Gives a container another name. Raises Conflict, BadRequest."""
        if not name:
            raise BadRequest("Neither old nor new names may be empty")
        if name.removeprefix("/") == container.name:
            raise BadRequest("Renaming a container with the same name as its current name")
        async with container.exclusive():
            old = container.name
            with self._names.claim(who, name, container.id) as claimed:
                container.name = claimed
                try:
                    self._containers.save(container)
                except BaseException:
                    container.name = old
                    raise
                self._networking.networks.rename(container.id, claimed)
                self._networking.resolver.tell_linked(container)
        self._events.announce(container, "rename", oldName=f"/{old}")

    async def update(self, container: Container, changes: HostConfig) -> list[str]:
        """Changes limits and restart policy, of a running container at once; what is not given stays. Returns warnings."""
        wanted = {name: value for name in _CHANGEABLE if (value := getattr(changes.limits, name))}
        policy = changes.restart_policy
        async with container.exclusive():
            before = container.host_config
            self._backends.of(container).check_update(
                container, [*wanted, *(["restart_policy"] if policy.name else [])]
            )
            _check_conflicts(before.limits, Limits(**wanted))
            host = replace(before, limits=replace(before.limits, **wanted))
            if policy.name:
                host = replace(host, restart_policy=policy)
            warnings = limits.check(host)
            restart_policy.check(host)
            container.host_config = host
            try:
                self._record(container)
                if container.running:
                    warnings += await self._apply(container, spec.resources(host))
            except BaseException:
                container.host_config = before
                self._containers.owe(container)
                raise
        self._events.announce(container, "update")
        return warnings

    def _record(self, container: Container) -> None:
        """Raises BadRequest for what could not be read again."""
        try:
            container_record.checked(container)
        except container_record.Unreadable as error:
            raise BadRequest(f"invalid value: {error}") from None
        self._containers.save(container)

    async def _apply(self, container: Container, wanted: Resources) -> list[str]:
        """Brings new limits to the kernels that enforce them, all or none; returns warnings. Raises BadRequest, EngineError."""
        try:
            return await self._backends.of(container).update(container, wanted)
        except LimitRefused as error:
            raise BadRequest(f"Cannot update container {container.id}: {error}") from error
        except OSError as error:
            raise EngineError(f"Cannot update container {container.id}: {error.strerror}") from error


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
