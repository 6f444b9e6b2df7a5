"""Changing a container that is there: its name, its limits, its restart policy."""

from __future__ import annotations

from typing import Any

from sampan.engine import spec
from sampan.engine.container import Container
from sampan.engine.creation import announce, claim_name
from sampan.engine.engine import Engine
from sampan.engine.errors import BadRequest, EngineError
from sampan.linux.cgroup import Cgroup

_CHANGEABLE = ("Memory", "MemorySwap", "MemoryReservation", "CpuShares", "CpuPeriod", "CpuQuota", "CpusetCpus", "CpusetMems", "NanoCpus",
               "PidsLimit", "BlkioWeight", "RestartPolicy")  # fmt: skip


async def rename(engine: Engine, container: Container, name: str) -> None:
    """Gives a container another name. Raises Conflict, BadRequest."""
    if not name:
        raise BadRequest("Neither old nor new names may be empty")
    async with container.exclusive():
        old = container.name
        with claim_name(engine, name, container.id) as claimed:
            container.name = claimed
            try:
                engine.save(container)
            except BaseException:
                container.name = old
                raise
    announce(engine, container, "rename", oldName=f"/{old}")


async def update(engine: Engine, container: Container, changes: dict[str, Any]) -> list[str]:
    """Changes limits and restart policy, of a running container at once. Returns warnings."""
    wanted = {key: value for key, value in changes.items() if key in _CHANGEABLE and value not in (None, 0, "", {})}
    if wanted.get("RestartPolicy", {}).get("Name") == "":
        del wanted["RestartPolicy"]
    async with container.exclusive():
        host = {**container.host_config, **wanted}
        limits = spec.resources(host)
        warnings: list[str] = []
        if container.running:
            try:
                warnings = await _apply(engine, container, host, limits)
            except OSError as error:
                raise EngineError(f"Cannot update container {container.id}: {error}") from error
        before = dict(container.host_config)
        container.host_config.update(wanted)
        try:
            engine.save(container)
        except BaseException:
            container.host_config = before
            raise
    announce(engine, container, "update")
    return warnings


async def _apply(engine: Engine, container: Container, host: dict[str, Any], limits: dict[str, Any]) -> list[str]:
    """Brings new limits to the kernels that enforce them; returns warnings. Raises OSError, EngineError."""
    if container.virtual:
        return await engine.machines.limit(container, host, limits)
    group = Cgroup(container.cgroup)
    group.apply(limits, devices=False)
    return group.warnings
