"""Virtual machines with a disk and an operating system of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import IO, cast

from sampan.engine import machine_shape, pools, stats
from sampan.engine.backends import host_usage
from sampan.engine.backends.backend import JoinRequest, RootFiles, StartRequest
from sampan.engine.backends.guests import Guests
from sampan.engine.container import Container
from sampan.engine.errors import BadRequest, Conflict
from sampan.engine.machines import Machines
from sampan.engine.network.networking import Networking
from sampan.engine.system_vms import SystemVMs, hardware_of
from sampan.engine.tasks import Tasks
from sampan.engine.wiring import UNBOUNDED
from sampan.images.root_fs import Stat
from sampan.linux.spec_types import Resources
from sampan.network import bridge
from sampan.network.model import Endpoint, Network
from sampan.oci.runtime_spec import Process as SpecProcess
from sampan.runtime.requests import Launch
from sampan.runtime.usage import Reading
from sampan.runtime.usage_types import Usage
from sampan.vm import requests


class NoFiles:
    """The files of system VMs: they are on file systems of the guest's own, which nobody else may mount."""

    def stat(self, container: Container, path: str) -> Stat:
        """Refuses."""
        raise self._refusal(container, "cp")

    def get(self, container: Container, path: str, out: IO[bytes], top: str) -> None:
        """Refuses."""
        raise self._refusal(container, "cp")

    def put(
        self, container: Container, path: str, stream: IO[bytes], keep_type: bool, user: str, read_only: bool
    ) -> None:
        """Refuses."""
        raise self._refusal(container, "cp")

    def export(self, container: Container, out: IO[bytes]) -> None:
        """Refuses."""
        raise self._refusal(container, "export")

    def changes(self, container: Container) -> list[tuple[str, int]]:
        """Refuses."""
        raise self._refusal(container, "diff")

    def layer(self, container: Container, out: IO[bytes]) -> None:
        """Refuses."""
        raise self._refusal(container, "commit")

    @staticmethod
    def _refusal(container: Container, what: str) -> BadRequest:
        return BadRequest(
            f"{what} is not possible with the system VM {container.name}: its files are on a disk of its own; "
            "use scp or sampan exec while it runs, sampan vm export when it does not"
        )


class SystemVM(Guests):
    """The backend of system VMs."""

    def __init__(self, machines: Machines, networking: Networking, tasks: Tasks, system: SystemVMs) -> None:
        super().__init__(machines, networking, tasks)
        self._system = system
        self.files: RootFiles = NoFiles()

    async def prepare(self, container: Container, given: list[int]) -> StartRequest:
        """As Backend.prepare."""
        wiring = await self._wire(container, given, UNBOUNDED)
        request, fds = await self._system.request(container, wiring)
        given += [fds["disk"], fds["seed"]]
        return StartRequest(cast(Launch, request), fds)

    async def freeze(self, container: Container, frozen: bool) -> None:
        """As Backend.freeze: QEMU stops all of the machine."""
        await self._machines.ask(container, requests.Pause() if frozen else requests.Resume())

    async def kill_inside(self, container: Container) -> bool:
        """There is no such thing: the plug is pulled."""
        return False

    def check_update(self, container: Container, changes: Collection[str]) -> None:
        """Its restart policy can be changed. Its memory and CPUs are what its system was installed on."""
        for name in sorted(set(changes) - {"restart_policy"}):
            raise BadRequest(
                f"{name} of the system VM {container.name} can't be changed: its memory and CPUs are those it was made with"
            )

    async def update(self, container: Container, resources: Resources) -> list[str]:
        """There are no limits that could have been changed."""
        return []

    async def plug(self, container: Container, network: Network, endpoint: Endpoint, namespace: int) -> None:
        """Refuses: its network cards are those that it was started with."""
        raise Conflict(f"the system VM {container.name} is running: stop it before it is connected to {network.name}")

    async def plugged(
        self, container: Container, network: Network, endpoint: Endpoint, default: bool, names: bool
    ) -> None:
        """There is nothing left to do."""

    async def unplug(
        self, container: Container, endpoint: Endpoint, namespace: int, left: tuple[Network, Endpoint] | None
    ) -> None:
        """As Links.unplug: the card stays, and its cable is pulled."""
        await asyncio.to_thread(bridge.unplug, endpoint.host_interface)

    async def undo_plug(self, container: Container, endpoint: Endpoint) -> None:
        """There is nothing."""

    def hosts_changed(self, container: Container) -> None:
        """Its files are its own: names are served by its name server."""

    async def usage(self, container: Container) -> Usage:
        """As Backend.usage, of its QEMU."""
        return host_usage.sample(container)

    async def readings(self, containers: list[Container]) -> dict[str, Reading]:
        """As Backend.readings."""
        return await host_usage.readings(containers)

    async def processes(self, container: Container, arguments: str) -> stats.Processes:
        """As Backend.processes, of the host's that are the machine: what is in the guest it tells nobody."""
        return await pools.run("look", stats.top, container, arguments)

    def guest_memory(self, container: Container) -> int:
        """As Backend.guest_memory."""
        return machine_shape.system_memory(hardware_of(container)) << 20

    def shared_footprint(self, container: Container) -> dict[str, int]:
        """Its disk is its own."""
        return {}

    def exec_request(self, container: Container, process: SpecProcess, seccomp: str | None) -> JoinRequest:
        """As Backend.exec_request."""
        return JoinRequest(self._machines.exec_request(container, process, seccomp))
