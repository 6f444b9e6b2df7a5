"""The engine's parts together: records, images, volumes, events and the keeper; start-up and shutdown."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from typing import Any, TypeVar

from sampan.engine import identity, keeperlink, leftovers, premises, reconnecting, trouble
from sampan.engine.builds import Builds
from sampan.engine.containers import Containers
from sampan.engine.directories import Directories
from sampan.engine.durations import Durations
from sampan.engine.events import Events
from sampan.engine.finding import Finding
from sampan.engine.image_roots import ImageRoots
from sampan.engine.machines import Machines
from sampan.engine.networking import Networking
from sampan.engine.overview import Overview
from sampan.engine.owners import Owners
from sampan.engine.policy.gate import Gate
from sampan.engine.policy.source import Source
from sampan.engine.records import Records
from sampan.engine.registries import Registries
from sampan.engine.roots import Roots
from sampan.engine.system import SystemMachines
from sampan.engine.tasks import Tasks
from sampan.engine.unstarted import Unstarted
from sampan.engine.watch import Watcher
from sampan.images.registry.hosts import Hosts
from sampan.images.store import ImageStore
from sampan.keeper.protocol import End
from sampan.network.hostports import HostPorts
from sampan.network.networks import Networks
from sampan.volumes.local import LocalVolumes

T = TypeVar("T")


class Engine:
    """What every operation needs. The operations themselves are functions in the modules beside."""

    def __init__(
        self,
        data_root: str,
        run_root: str,
        obey_host_firewall: bool = False,
        host_ports: HostPorts | None = None,
        hosts: Hosts | None = None,
        isolation: str = "",
        policy: str = "",
    ) -> None:
        os.umask(0o022)
        self._premises = premises.Premises(data_root, run_root)
        premises.make(f"{data_root}/containers")
        self.data_root, self.run_root = data_root, run_root
        self.identity = identity.load(data_root)
        self.isolation = isolation  # of containers that do not say: "", "vm" or "auto"
        self.store = Records(f"{data_root}/sampan.db", run_root)
        self.owners = Owners(self.store)
        self.images = ImageStore(f"{data_root}/images", f"{run_root}/images-session")
        self.volumes = LocalVolumes(f"{data_root}/volumes")
        self.directories = Directories(f"{data_root}/containers")
        self.events = Events()
        self.tasks = Tasks()
        self.containers = Containers(data_root, self.store, self.directories, self.tasks)
        self.image_roots = ImageRoots(self.images, self.containers)
        self.execs: dict[str, Any] = {}
        self.unstarted = Unstarted()
        self.watcher = Watcher()
        networks = Networks(self.store, self.identity.owner)
        self.gate = Gate(
            Source(policy or f"{data_root}/policy.toml"),
            self.containers,
            self.images.index,
            networks,
            self.owners,
            self.events,
        )
        self.finding = Finding(
            self.gate,
            self.owners,
            self.containers,
            self._find_exec,
            self.images.index,
            self.volumes,
            networks,
            self.store,
        )
        self.keeper = keeperlink.KeeperLink(
            f"{run_root}/keeper.sock", self._on_exit, self._agree, self.store.flush, self.identity.group
        )
        self.machines = Machines(self)
        self.networking = Networking(
            networks, self.containers, self.store, self.finding, self.machines, self.keeper, self.events,
            self.tasks, obey_host_firewall, host_ports,
        )  # fmt: skip
        self.roots = Roots(self)
        self.registries = Registries(self, hosts or Hosts())
        self.builds = Builds(self)
        self.system = SystemMachines(self)
        self.starts = Durations()  # by isolation
        self.overview = Overview(self)
        self.ready = asyncio.Event()  # records, keeper and kernel say the same

    def _close_images(self) -> None:
        self.builds.cache.close()
        self.images.close()

    def background(self, coroutine: Coroutine[object, None, T]) -> asyncio.Task[T]:
        """Runs a coroutine beside the requests; it may be cut short by the daemon's end."""
        return self.tasks.beside(coroutine)

    async def carry(self, coroutine: Coroutine[object, None, T]) -> T:
        """Runs an operation to its end, whatever its caller does; what has begun must not be left half done."""
        return await self.tasks.carry(coroutine)

    def _on_exit(self, end: End) -> None:
        from sampan.engine import execs, lifecycle

        if self.builds.exited(end.id, end.status):
            return
        container = self.containers.get(end.id)
        if container is not None:
            if not container.starting and container.start_time != end.start_time:
                return  # the end of an earlier run, which we know
            lifecycle.on_exit(self, container, end)
            for identifier in self.unstarted.ended(container.id):
                self.execs.pop(identifier, None)
        else:
            execs.exited(self, end)

    def _find_exec(self, identifier: str) -> Any:
        from sampan.engine import execs

        return execs.find(self, identifier)

    async def open(self) -> None:
        """Loads the records and brings them in line with what the kernel runs."""
        leftovers.load(self)
        await self.keeper.begin()
        await reconnecting.reconnect(self.networking, self.containers.values(), self.identity.copied)
        from sampan.engine import reconcile

        reconcile.settle(self)
        self.ready.set()
        trouble.announce(self)

    async def _agree(self, call: keeperlink.Call) -> None:
        from sampan.engine import reconcile

        await reconcile.agree(self, call)

    async def close(self) -> None:
        """Ends our part; containers go on."""
        self.directories.close()
        await self.tasks.close()
        await self.keeper.close()
        self.networking.close()
        self.machines.close()
        self.watcher.close()
        await asyncio.to_thread(self._close_images)
        self.store.close()
        self._premises.close()
