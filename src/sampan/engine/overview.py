"""Everything that runs, at a glance: for the page's picture."""

from __future__ import annotations

import asyncio
import os
import time

import msgspec

from sampan.engine import pools
from sampan.engine.container import Container, moment_text
from sampan.engine.containers import Containers
from sampan.engine.machines import Machines
from sampan.engine.tasks import Tasks
from sampan.engine.usage import Held, Usage
from sampan.linux import meminfo
from sampan.runtime.usage import Reading

_KEPT = 5.0  # seconds that a footprint is good for, at least: it reads each process's memory map and each file's size
_REST = 10  # times as long as measuring all took, they are good for
_PATIENCE = 0.2  # seconds to wait for them


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """The machine; memory in bytes, `busy` in seconds of all its processors."""

    name: str
    kernel: str
    cpus: int
    memory: int
    available: int
    busy: float


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A container or system machine: processor time in seconds, all else of size in bytes."""

    id: str
    name: str
    image: str
    isolation: str
    owner: str
    state: str
    health: str
    exit: int
    started: str
    ports: list[str]  # HOST:CONTAINER/PROTOCOL
    cpu: float
    memory: int
    limit: int
    processes: int
    received: int
    sent: int
    pss: int
    guest: int
    disk: int


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """All of it at one moment. Processor times are totals: two of these give a share."""

    time: float
    host: Host
    engine: dict[str, dict[str, float]]  # its own processes, by name
    accelerator: str
    containers: list[Row]


class Overview:
    """What the picture shows; what takes long to find out is kept for a while."""

    def __init__(self, containers: Containers, usage: Usage, machines: Machines, tasks: Tasks) -> None:
        self._containers, self._usage, self._machines, self._tasks = containers, usage, machines, tasks
        self._feet: dict[str, tuple[float, Held | None]] = {}
        self._kept = _KEPT
        self._measuring: asyncio.Task[None] | None = None

    async def now(self, shown: list[Container]) -> Picture:
        """Host, engine, and these containers and system machines."""
        readings = await self._usage.readings()
        await self._refresh()
        return Picture(
            time=time.time(),
            host=await asyncio.to_thread(_host),
            engine=await self._usage.own_processes(),
            accelerator=(self._machines.templates.known_accelerator() or ("", ""))[0],
            containers=[self._row(container, readings.get(container.id)) for container in shown],
        )

    async def _refresh(self) -> None:
        """Has footprints measured that are old; those of a thousand containers go on being measured while the old ones are shown."""
        if self._measuring is None or self._measuring.done():
            self._measuring = self._tasks.beside(pools.run("look", self._measure))
        await asyncio.wait((self._measuring,), timeout=_PATIENCE)

    def _measure(self) -> None:
        began = time.monotonic()
        for container in list(self._containers.values()):
            now = time.monotonic()
            at, _ = self._feet.get(container.id, (0.0, None))
            if now - at > self._kept:
                try:
                    self._feet[container.id] = (now, self._usage.held(container))
                except Exception:  # it, or its image, is going away just now
                    self._feet[container.id] = (now, None)
        for identifier in set(self._feet) - set(self._containers):
            del self._feet[identifier]
        self._kept = max(_KEPT, _REST * (time.monotonic() - began))

    def _row(self, container: Container, reading: Reading | None) -> Row:
        networks = reading.networks.values() if reading else ()
        _, foot = self._feet.get(container.id, (0.0, None))
        return Row(
            id=container.id,
            name=container.name,
            image=container.image_name,
            isolation=container.isolation,
            owner=container.owner,
            state=container.state.status,
            health=container.health.status if container.health else "",
            exit=container.state.exit_code,
            started=moment_text(container.state.started_at),
            ports=[f"{row.host_port}:{row.container_port}/{row.protocol}" for row in container.ports],
            cpu=reading.cpu / 1e9 if reading else 0.0,
            memory=reading.memory if reading else 0,
            limit=reading.limit if reading else 0,
            processes=reading.processes if reading else 0,
            received=sum(received for received, _ in networks),
            sent=sum(sent for _, sent in networks),
            pss=foot["pss"] if foot else 0,
            guest=foot["guest"] if foot else 0,
            disk=foot["own"] if foot else 0,
        )


def _host() -> Host:
    memory = meminfo.read()
    with open("/proc/stat", encoding="ascii") as file:
        fields = [int(field) for field in file.readline().split()[1:9]]
    ticks = os.sysconf("SC_CLK_TCK")
    return Host(
        name=os.uname().nodename,
        kernel=os.uname().release,
        cpus=os.cpu_count() or 1,
        memory=memory["MemTotal"],
        available=memory["MemAvailable"],
        busy=(sum(fields) - fields[3] - fields[4]) / ticks,
    )
