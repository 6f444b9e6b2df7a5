"""Everything that runs, at a glance: for the page's picture."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, Any

from sampan.engine import sampling
from sampan.engine.container import Container
from sampan.linux import meminfo

if TYPE_CHECKING:
    from sampan.engine.engine import Engine

_KEPT = 5.0  # seconds that a footprint is good for: it reads each process's memory map and each file's size


class Overview:
    """What the picture shows; what takes long to find out is kept for a while."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._feet: dict[str, tuple[float, dict[str, Any]]] = {}

    async def now(self) -> dict[str, Any]:
        """Host, engine, containers and system machines. CPU times are totals in seconds: two of these give a share."""
        engine = self._engine
        samples = await sampling.sample_all(engine)
        await asyncio.to_thread(self._measure)
        return {
            "time": time.time(),
            "host": await asyncio.to_thread(_host),
            "engine": await sampling.own_processes(engine),
            "accelerator": (engine.machines.templates.known_accelerator() or ("", ""))[0],
            "containers": [self._row(container, samples.get(container.id)) for container in engine.containers.values()],
        }

    def _measure(self) -> None:
        now = time.monotonic()
        for container in list(self._engine.containers.values()):
            at, _ = self._feet.get(container.id, (0.0, {}))
            if now - at > _KEPT:
                try:
                    self._feet[container.id] = (now, sampling.held(self._engine, container))
                except Exception as error:  # it, or its image, is going away just now
                    self._feet[container.id] = (now, {"error": str(error)})
        for identifier in set(self._feet) - set(self._engine.containers):
            del self._feet[identifier]

    def _row(self, container: Container, sample: dict[str, Any] | None) -> dict[str, Any]:
        memory = (sample or {}).get("memory_stats") or {}
        networks = ((sample or {}).get("networks") or {}).values()
        _, foot = self._feet.get(container.id, (0.0, {}))
        return {
            "id": container.id,
            "name": container.name,
            "image": container.image_name,
            "isolation": container.isolation,
            "owner": container.owner,
            "state": container.state["Status"],
            "health": (container.health or {}).get("Status", ""),
            "exit": container.state["ExitCode"],
            "started": container.state["StartedAt"],
            "ports": [f"{row['host_port']}:{row['container_port']}/{row['protocol']}" for row in container.ports],
            "cpu": ((sample or {}).get("cpu_stats") or {}).get("cpu_usage", {}).get("total_usage", 0) / 1e9,
            "memory": memory.get("usage", 0),
            "limit": memory.get("limit", 0),
            "processes": ((sample or {}).get("pids_stats") or {}).get("current", 0),
            "received": sum(row["rx_bytes"] for row in networks),
            "sent": sum(row["tx_bytes"] for row in networks),
            "pss": foot.get("pss", 0),
            "guest": foot.get("guest", 0),
            "disk": foot.get("own", 0),
        }


def _host() -> dict[str, Any]:
    memory = meminfo.read()
    with open("/proc/stat", encoding="ascii") as file:
        fields = [int(field) for field in file.readline().split()[1:9]]
    ticks = os.sysconf("SC_CLK_TCK")
    return {
        "name": os.uname().nodename,
        "kernel": os.uname().release,
        "cpus": os.cpu_count(),
        "memory": memory["MemTotal"],
        "available": memory["MemAvailable"],
        "busy": (sum(fields) - fields[3] - fields[4]) / ticks,
    }
