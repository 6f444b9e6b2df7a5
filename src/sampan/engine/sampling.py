"""What containers use, now: for stats, metrics, the web page and comparisons alike."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from sampan.engine import machine_shape, stats
from sampan.engine.container import Container
from sampan.engine.errors import EngineError
from sampan.linux import filetree, smaps

if TYPE_CHECKING:
    from sampan.engine.engine import Engine

_PATIENCE = 2.0  # seconds that a guest may take to say what it uses


async def sample(engine: Engine, container: Container, previous: dict[str, Any] | None) -> dict[str, Any]:
    """One sample in the shape of the API's `stats`. Raises EngineError when a guest does not answer."""
    found = None
    if container.virtual and container.running:
        try:
            found = await engine.machines.ask(container, "usage")
        except EngineError:
            if container.running:
                raise
    return stats.sample(container, previous, found)


async def sample_all(engine: Engine) -> dict[str, dict[str, Any]]:
    """Samples of all containers that run, by id; those that do not answer in time are left out."""

    async def one(container: Container) -> dict[str, Any] | None:
        try:
            async with asyncio.timeout(_PATIENCE):
                return await sample(engine, container, None)
        except (EngineError, OSError, TimeoutError):
            return None

    running = [container for container in engine.containers.values() if container.running]
    found = await asyncio.gather(*(one(container) for container in running))
    return {container.id: each for container, each in zip(running, found, strict=True) if each is not None}


def footprint(engine: Engine, container: Container) -> dict[str, Any]:
    """As held(), with what is there once for all of its image, or of its kind, as "shared". Blocks."""
    return {**held(engine, container), "shared": _shared(engine, container)}


def held(engine: Engine, container: Container) -> dict[str, Any]:
    """Bytes of memory and disk that are there for this container alone, as the host sees it. Blocks.

    "pss" is all its memory; of a machine "guest" is what its guest has touched, the rest is the hypervisor's.
    "own" is on the disk.
    """
    pids = container.pids()
    return {
        "pss": smaps.pss(pids),
        "guest": _guest(container, pids),
        "processes": len(pids),
        "own": allocated(engine.directory(container)),
    }


def _guest(container: Container, pids: list[int]) -> int:
    """Bytes that the guest of a machine has touched of its memory: the only mapping of QEMU's that is as large."""
    if not container.own_kernel:
        return 0
    if container.system:
        size = machine_shape.system_memory(container.config["Machine"]) << 20
    else:
        size = machine_shape.memory(container.host_config) << 20
    return sum(smaps.pss_of_large(pid, size) for pid in pids)


def _shared(engine: Engine, container: Container) -> dict[str, int]:
    if container.system:
        return {}
    image = engine.images.get(container.image)
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
