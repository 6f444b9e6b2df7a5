"""What containers use, now: for stats, metrics, the web page and comparisons alike."""

from __future__ import annotations

import asyncio
import os
from typing import TypedDict

from sampan.engine import stats
from sampan.engine.backends.backend import Backends
from sampan.engine.backends.host_usage import allocated
from sampan.engine.container import Container
from sampan.engine.containers import Containers
from sampan.engine.errors import EngineError
from sampan.engine.keeper_link import KeeperLink
from sampan.linux import smaps
from sampan.runtime import usage_types as used
from sampan.runtime.usage import Reading


class Held(TypedDict):
    """Bytes of memory and disk, and a number of processes, that are there for one container alone."""

    pss: int
    guest: int
    processes: int
    own: int


class Footprint(Held):
    """`shared`: bytes that are there once for all of its image, or of its kind."""

    shared: dict[str, int]


class Usage:
    """Asks kernels and guests, by the containers' backends, what they use."""

    def __init__(self, containers: Containers, backends: Backends, keeper: KeeperLink) -> None:
        self._containers, self._backends, self._keeper = containers, backends, keeper

    async def sample(self, container: Container, previous: stats.Sample | None) -> stats.Sample:
        """One sample in the shape of the API's `stats`. Raises EngineError when a guest does not answer."""
        found: used.Usage = {}
        if container.running:
            try:
                found = await self._backends.of(container).usage(container)
            except EngineError:
                if container.running:
                    raise
        return stats.sample(container, previous, found)

    async def readings(self) -> dict[str, Reading]:
        """What all containers that run use, by id; those that do not answer in time are left out."""
        running = [container for container in self._containers.values() if container.running]
        parts = await asyncio.gather(*(backend.readings(some) for backend, some in self._backends.split(running)))
        return {identifier: reading for part in parts for identifier, reading in part.items()}

    def footprint(self, container: Container) -> Footprint:
        """As held(), with what is there once for all of its image, or of its kind, as "shared". Blocks."""
        return {**self.held(container), "shared": self._backends.of(container).shared_footprint(container)}

    def held(self, container: Container) -> Held:
        """Bytes of memory and disk that are there for this container alone, as the host sees it. Blocks.

        "pss" is all its memory; of a machine "guest" is what its guest has touched, the rest is the hypervisor's.
        "own" is on the disk.
        """
        size = self._backends.of(container).guest_memory(container)  # of QEMU's mappings only that one is as large
        return {
            "pss": smaps.pss(container.pids),
            "guest": smaps.pss_of_large(container.pids, size) if size else 0,
            "processes": len(container.pids()),
            "own": allocated(self._containers.directory(container)),
        }

    async def own_processes(self) -> dict[str, dict[str, float]]:
        """What the engine's own processes use, by name: see _process()."""
        found = {"sampand": await asyncio.to_thread(_process, os.getpid())}
        keeper = await self._keeper.pid()
        read = await asyncio.to_thread(_process, keeper)
        # A keeper that has ended meanwhile may have given its number to somebody else.
        found["keeper"] = read if await self._keeper.pid() == keeper else {}
        return found


def _process(pid: int) -> dict[str, float]:
    """CPU seconds, PSS in bytes and descriptors of one of the engine's own processes; empty when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        descriptors = len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return {}
    return {
        "cpu": (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"),
        "memory": float(smaps.pss(lambda: [pid])),
        "descriptors": float(descriptors),
    }
