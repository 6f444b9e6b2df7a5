"""Containers with a kernel of their own: each in a microVM, restored from a template."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Collection
from typing import cast

from sampan.engine import guest_answers, machine_shape, machines, shims, stats
from sampan.engine.backends.backend import JoinRequest, RootFiles, StartRequest
from sampan.engine.backends.guest_files import GuestFiles
from sampan.engine.backends.guests import Guests
from sampan.engine.container import Container
from sampan.engine.errors import EngineError
from sampan.engine.image_roots import ImageRoots
from sampan.engine.machines import Machines
from sampan.engine.network.networking import Networking
from sampan.engine.tasks import Tasks
from sampan.engine.wiring import interface, slot_of
from sampan.linux.spec_types import Resources
from sampan.network import bridge
from sampan.network.model import Endpoint, Network
from sampan.oci.runtime_spec import Process as SpecProcess
from sampan.runtime.requests import Launch
from sampan.runtime.usage import Reading
from sampan.runtime.usage_types import Usage
from sampan.vm import requests
from sampan.vm.hypervisor import SLOTS

_GUEST_SAYS = 2.0  # seconds that a guest may take to say what it uses
_GUEST_BEGINS = 20.0  # seconds that a guest may take to begin an exec


def _reading_of(found: Usage) -> Reading:
    memory = found.get("memory_stats") or {}
    return Reading(
        cpu=found["cpu_stats"]["cpu_usage"]["total_usage"],
        memory=memory.get("usage", 0),
        limit=memory.get("limit", 0),
        processes=found["pids_stats"].get("current", 0),
        networks={name: (row["rx_bytes"], row["tx_bytes"]) for name, row in (found.get("networks") or {}).items()},
    )


class MicroVM(Guests):
    """The backend of containers in microVMs."""

    def __init__(self, machines: Machines, networking: Networking, tasks: Tasks, image_roots: ImageRoots) -> None:
        super().__init__(machines, networking, tasks)
        self._image_roots = image_roots
        self.files: RootFiles = GuestFiles(machines)

    async def prepare(self, container: Container, given: list[int]) -> StartRequest:
        """As Backend.prepare."""
        await self._image_roots.ready(container)
        wiring = await self._wire(container, given, SLOTS)
        request, fds = await self._machines.request(container, wiring, given)
        given += [fds["root"], fds["disk"], fds["state"]]
        return StartRequest(cast(Launch, request), fds, machines.LONGEST)

    async def freeze(self, container: Container, frozen: bool) -> None:
        """As Backend.freeze: the container in the guest is, the guest goes on."""
        await self._machines.ask(container, requests.Freeze(frozen))

    async def kill_inside(self, container: Container) -> bool:
        """As Backend.kill_inside."""
        await self._machines.ask(container, requests.Signal("init", int(signal.SIGKILL)))
        return True

    def check_update(self, container: Container, changes: Collection[str]) -> None:
        """All can; what the machine was made without comes with its next start."""

    async def update(self, container: Container, resources: Resources) -> list[str]:
        """As Backend.update."""
        return await self._machines.limit(container, container.host_config, resources)

    async def plug(self, container: Container, network: Network, endpoint: Endpoint, namespace: int) -> None:
        """As Links.plug: a slot of the machine's becomes the endpoint's."""
        slot = slot_of(endpoint.interface, SLOTS)
        await self._machines.ask(container, requests.TakeTap(slot))
        await asyncio.to_thread(bridge.plug_slot, network, endpoint, namespace, slot)

    async def plugged(
        self, container: Container, network: Network, endpoint: Endpoint, default: bool, names: bool
    ) -> None:
        """The guest gives the interface its addresses."""
        await self._machines.ask(container, requests.Connect(interface(network, endpoint, default), names))

    async def unplug(
        self, container: Container, endpoint: Endpoint, namespace: int, left: tuple[Network, Endpoint] | None
    ) -> None:
        """As Links.unplug."""
        gateways = interface(*left, True)["gateways"] if left else []
        other, slot = left[1].interface if left else "", slot_of(endpoint.interface, SLOTS)
        await self._machines.ask(container, requests.Disconnect(endpoint.interface, slot, other, gateways))
        await asyncio.to_thread(bridge.unplug_slot, endpoint, namespace, slot)

    async def undo_plug(self, container: Container, endpoint: Endpoint) -> None:
        """The slot is free again."""

    def hosts_changed(self, container: Container) -> None:
        """The guest gets copies."""
        self._machines.pass_files(container)

    async def usage(self, container: Container) -> Usage:
        """As Backend.usage, of what is in the guest."""
        return guest_answers.USAGE.of(container.name, await self._machines.ask(container, requests.Usage()))

    async def readings(self, containers: list[Container]) -> dict[str, Reading]:
        """As Backend.readings."""
        answers = await asyncio.gather(*(self._reading(container) for container in containers))
        return {c.id: each for c, each in zip(containers, answers, strict=True) if each is not None}

    async def _reading(self, container: Container) -> Reading | None:
        try:
            async with asyncio.timeout(_GUEST_SAYS):
                return _reading_of(await self.usage(container))
        except (EngineError, OSError, TimeoutError):
            return None

    async def processes(self, container: Container, arguments: str) -> stats.Processes:
        """As Backend.processes, of what is in the guest."""
        rows = guest_answers.PROCESSES.of(container.name, await self._machines.ask(container, requests.Processes()))
        return stats.top_of(rows, arguments)

    def guest_memory(self, container: Container) -> int:
        """As Backend.guest_memory."""
        return machine_shape.memory(container.host_config) << 20

    def shared_footprint(self, container: Container) -> dict[str, int]:
        """As Backend.shared_footprint: the disk of its image, a template of a machine, the kernel."""
        return self._machines.shared_footprint(container.image)

    def exec_request(self, container: Container, process: SpecProcess, seccomp: str | None) -> JoinRequest:
        """As Backend.exec_request."""
        request = self._machines.exec_request(container, process, seccomp)
        return JoinRequest(request, _GUEST_BEGINS, shims.silent(container.name, _GUEST_BEGINS))
