"""What containers use, now: for stats, metrics, the web page and comparisons alike."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, TypedDict

from sampan.engine import machine_shape, pools, stats
from sampan.engine.container import Container
from sampan.engine.errors import EngineError
from sampan.linux import filetree, smaps
from sampan.linux.cgroup import Cgroup
from sampan.runtime import usage
from sampan.runtime.usage import Reading
from sampan.runtime.usage_types import Usage

if TYPE_CHECKING:
    from sampan.engine.engine import Engine


class Held(TypedDict):
    """Bytes of memory and disk, and a number of processes, that are there for one container alone."""

    pss: int
    guest: int
    processes: int
    own: int


class Footprint(Held):
    """`shared`: bytes that are there once for all of its image, or of its kind."""

    shared: dict[str, int]


_PATIENCE = 2.0  # seconds that a guest may take to say what it uses


async def sample(engine: Engine, container: Container, previous: stats.Sample | None) -> stats.Sample:
    """One sample in the shape of the API's `stats`. Raises EngineError when a guest does not answer."""
    found = None
    if container.virtual and container.running:
        try:
            found = await engine.machines.ask(container, "usage")
        except EngineError:
            if container.running:
                raise
    return stats.sample(container, previous, found)


async def readings(engine: Engine) -> dict[str, Reading]:
    """What all containers that run use, by id; those that do not answer in time are left out."""

    async def asked(container: Container) -> Reading | None:
        try:
            async with asyncio.timeout(_PATIENCE):
                return _of_guest(await engine.machines.ask(container, "usage"))
        except (EngineError, OSError, TimeoutError):
            return None

    running = [container for container in engine.containers.values() if container.running]
    guests = [container for container in running if container.virtual]
    others = [container for container in running if not container.virtual]
    answers = asyncio.gather(*(asked(container) for container in guests))
    found = await pools.run("look", _read_all, others)
    return found | {c.id: each for c, each in zip(guests, await answers, strict=True) if each is not None}


def _read_all(containers: list[Container]) -> dict[str, Reading]:
    found = {}
    for container in containers:
        host = container.host_config.network_mode == "host"
        found[container.id] = usage.reading(Cgroup(container.cgroup), 0 if host else container.state.pid)
    return found


def _of_guest(found: Usage) -> Reading:
    memory = found.get("memory_stats") or {}
    return Reading(
        cpu=found["cpu_stats"]["cpu_usage"]["total_usage"],
        memory=memory.get("usage", 0),
        limit=memory.get("limit", 0),
        processes=found["pids_stats"].get("current", 0),
        networks={name: (row["rx_bytes"], row["tx_bytes"]) for name, row in (found.get("networks") or {}).items()},
    )


def footprint(engine: Engine, container: Container) -> Footprint:
    """As held(), with what is there once for all of its image, or of its kind, as "shared". Blocks."""
    return {**held(engine, container), "shared": _shared(engine, container)}


def held(engine: Engine, container: Container) -> Held:
    """Bytes of memory and disk that are there for this container alone, as the host sees it. Blocks.

    "pss" is all its memory; of a machine "guest" is what its guest has touched, the rest is the hypervisor's.
    "own" is on the disk.
    """
    pids = container.pids()
    return {
        "pss": smaps.pss(pids),
        "guest": _guest(container, pids),
        "processes": len(pids),
        "own": allocated(engine.containers.directory(container)),
    }


def _guest(container: Container, pids: list[int]) -> int:
    """Bytes that the guest of a machine has touched of its memory: the only mapping of QEMU's that is as large."""
    if not container.own_kernel:
        return 0
    if container.config.system_vm is not None:
        size = machine_shape.system_memory(container.config.system_vm) << 20
    else:
        size = machine_shape.memory(container.host_config) << 20
    return sum(smaps.pss_of_large(pid, size) for pid in pids)


def _shared(engine: Engine, container: Container) -> dict[str, int]:
    if container.system:
        return {}
    image = engine.images.index.get(container.image)
    if not container.virtual:
        return {"image": sum(allocated(path) for path in engine.images.lower_directories(image))}
    cache = f"{engine.data_root}/vm"
    templates, root = f"{os.path.realpath(cache)}/templates", f"{cache}/roots/{image.id.removeprefix('sha256:')}"
    one = max((allocated(f"{templates}/{name}") for name in _names(templates)), default=0)
    return {"image": _blocks(root), "template": one, "kernel": allocated(f"{os.path.realpath(cache)}/kernel")}


def _names(directory: str) -> list[str]:
    return os.listdir(directory) if os.path.isdir(directory) else []


def _blocks(path: str) -> int:
    try:
        return os.lstat(path).st_blocks * 512
    except OSError:
        return 0


def allocated(path: str) -> int:
    """Bytes that the files below a directory take on the disk; holes take none, and a file of several names counts once."""
    return filetree.measure(path)[1]


async def own_processes(engine: Engine) -> dict[str, dict[str, float]]:
    """What the engine's own processes use, by name: see _process()."""
    pids = {"sampand": os.getpid(), "keeper": await engine.keeper.pid()}
    return {name: await asyncio.to_thread(_process, pid) for name, pid in pids.items()}


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
        "memory": float(smaps.pss([pid])),
        "descriptors": float(descriptors),
    }
