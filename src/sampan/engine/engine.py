"""The engine's parts together: records, images, volumes, events and the keeper; start-up and shutdown."""

from __future__ import annotations

import asyncio
import os

from sampan.engine import identity, keeper_link, premises
from sampan.engine.arrivals import Arrivals
from sampan.engine.backends.backend import Backends
from sampan.engine.backends.host_files import HostFiles
from sampan.engine.backends.microvm import MicroVM
from sampan.engine.backends.namespaces import Namespaces
from sampan.engine.backends.system_vm import SystemVM
from sampan.engine.build_steps import BuildSteps
from sampan.engine.builds import Builds
from sampan.engine.containers import Containers
from sampan.engine.creation import Creation, Maker
from sampan.engine.directories import Directories
from sampan.engine.events import Events
from sampan.engine.execs import Execs
from sampan.engine.files import Files
from sampan.engine.finding import Finding
from sampan.engine.forwarding import Forwarding
from sampan.engine.freezing import Freezing
from sampan.engine.health import Health
from sampan.engine.image_roots import ImageRoots
from sampan.engine.image_service import ImageService
from sampan.engine.inotify import Watcher
from sampan.engine.killing import Killing
from sampan.engine.leftovers import Leftovers
from sampan.engine.lifecycle import Lifecycle
from sampan.engine.logs import Logs
from sampan.engine.machines import Machines
from sampan.engine.name_claims import NameClaims
from sampan.engine.network import reconnecting
from sampan.engine.network.networking import Networking
from sampan.engine.overview import Overview
from sampan.engine.owners import Owners
from sampan.engine.policy.gate import Gate
from sampan.engine.policy.source import Source
from sampan.engine.pruning import Pruning
from sampan.engine.reconcile import Reconciliation
from sampan.engine.records import Records
from sampan.engine.registries import Registries
from sampan.engine.removing import Removing
from sampan.engine.requests import Requests
from sampan.engine.roots import Roots
from sampan.engine.runs import Runs
from sampan.engine.starting import Starting
from sampan.engine.system_vms import SystemVMs
from sampan.engine.takings import Takings
from sampan.engine.tasks import Tasks
from sampan.engine.trouble import Trouble
from sampan.engine.updating import Updating
from sampan.engine.usage import Usage
from sampan.engine.volume_service import VolumeService
from sampan.images.registry.hosts import Hosts
from sampan.images.store import ImageStore
from sampan.network.hostports import HostPorts
from sampan.network.networks import Networks
from sampan.volumes.local import LocalVolumes


class Engine:
    """What every operation needs. The operations themselves are functions in the modules beside."""

    execs: Execs  # these two are called by parts that are built before them
    lifecycle: Lifecycle

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
        self.directories = Directories(f"{data_root}/containers")
        self.store = Records(f"{data_root}/sampan.db", run_root, expected=bool(self.directories.names()))
        self.owners = Owners(self.store)
        self.images = ImageStore(f"{data_root}/images", f"{run_root}/images-session")
        self.volumes = LocalVolumes(f"{data_root}/volumes")
        self.events = Events()
        self.tasks = Tasks()
        self.containers = Containers(data_root, self.store, self.directories, self.tasks)
        self.image_roots = ImageRoots(self.images, self.containers)
        self.logs = Logs(self.containers, Watcher())
        self.networks = Networks(self.store, self.identity.owner)
        self.ready = asyncio.Event()  # records, keeper and kernel say the same
        self._build_gate(policy or f"{data_root}/policy.toml")
        self.keeper = keeper_link.KeeperLink(
            f"{run_root}/keeper.sock", self._agree, self.store.flush, self.identity.group
        )
        self._build_shared(hosts or Hosts(), obey_host_firewall, host_ports)
        self._build_containers(isolation)
        self._build_services()

    def _build_gate(self, policy: str) -> None:
        """Who may do what, and the way from names to things."""
        containers, images, networks, owners = self.containers, self.images.index, self.networks, self.owners
        self.gate = Gate(Source(policy), containers, images, networks, owners, self.events)
        self.finding = Finding(
            self.gate,
            owners,
            containers,
            lambda identifier: self.execs.find(identifier),
            images,
            self.volumes,
            networks,
        )
        self.names = NameClaims(containers, self.finding, self.gate)

    def _build_shared(self, hosts: Hosts, obey_host_firewall: bool, host_ports: HostPorts | None) -> None:
        """What containers, builds and system VMs share: machines, networks, images that arrive."""
        containers, images, gate, finding, tasks = self.containers, self.images, self.gate, self.finding, self.tasks
        cache, sockets = f"{self.data_root}/vm", f"{self.run_root}/vm"
        self.machines = Machines(
            cache, sockets, containers, self.volumes, images, self.image_roots, gate, self.keeper, tasks
        )
        self.networking = Networking(
            self.networks, containers, self.store, finding, lambda container: self.backends.of(container), self.keeper,
            self.events, tasks, obey_host_firewall, host_ports,
        )  # fmt: skip
        self.roots = Roots(self.image_roots, self.keeper, self.machines.in_thread)
        self.arrivals = Arrivals(images, self.owners, finding, gate, self.store, self.events)
        self.registries = Registries(hosts, images, self.arrivals, finding, gate, tasks)
        self.volume_service = VolumeService(
            self.volumes, containers, self.owners, gate, finding, self.store, self.events
        )
        self.system_vms = SystemVMs(
            self.data_root, self.identity.group, containers, images, self.image_roots, self.arrivals, gate, finding,
            self.names, self.networking, self.machines, self.events,
        )  # fmt: skip

    def _build_containers(self, isolation: str) -> None:
        """The parts that are about containers, each from those below it."""
        containers, events, gate, finding, tasks = self.containers, self.events, self.gate, self.finding, self.tasks
        networking, resolver, volumes = self.networking, self.networking.resolver, self.volumes
        host_files = HostFiles(containers, self.images, self.image_roots, self.roots)
        self.namespaces = Namespaces(
            containers, self.image_roots, self.roots, volumes, networking, gate, tasks, host_files
        )
        self.backends = Backends(
            self.namespaces,
            MicroVM(self.machines, networking, tasks, self.image_roots),
            SystemVM(self.machines, networking, tasks, self.system_vms),
        )
        self.execs = Execs(self.keeper, self.backends, events, tasks)
        self.health = Health(containers, events, self.execs, tasks, lambda which: self.lifecycle.unhealthy(which))
        self.files = Files(self.backends, self.images, volumes, gate, self.data_root)
        self.freezing = Freezing(containers, events, gate, self.backends)
        self.killing = Killing(containers, events, self.freezing, self.backends)
        self.removing = Removing(containers, events, self.killing, networking, self.volume_service)
        self._starting = Starting(containers, self.backends, self.keeper, gate, networking.port_mappings)
        self.forwarding = Forwarding(containers, self.logs, tasks)
        self.runs = Runs(
            containers, events, Takings(events, networking), self.backends, self._starting, self.execs, self.health, self.forwarding, tasks,
            lambda *run: self.lifecycle.followed(*run),
        )  # fmt: skip
        self.lifecycle = Lifecycle(self.runs, self.killing, self.removing, events, tasks, self.ready)
        self.updating = Updating(containers, events, self.names, networking, self.backends)
        self.requests = Requests(finding, gate, networking, isolation)
        maker = Maker(containers, resolver, self.image_roots, self.backends, volumes, self.volume_service)
        self.creation = Creation(
            self.requests, finding, gate, self.names, self.images, maker, events, self.identity.group
        )

    def _build_services(self) -> None:
        """Builds, what is told of all, and what brings records, keeper and kernel in line."""
        containers, images, gate, finding = self.containers, self.images, self.gate, self.finding
        self.build_steps = BuildSteps(
            self.identity.group,
            gate,
            finding,
            self.registries,
            self.networking,
            self._starting,
            self.logs,
            self.tasks,
        )
        self.builds = Builds(f"{self.data_root}/builds", images, self.arrivals, gate, self.build_steps)
        self.image_service = ImageService(images, self.arrivals, finding, self.events, containers.image_user)
        self.pruning = Pruning(
            containers,
            finding,
            self.owners,
            gate,
            self.image_service,
            self.volume_service,
            self.networking,
            self.removing,
            self.events,
        )
        self.usage = Usage(containers, self.backends, self.keeper)
        self.overview = Overview(containers, self.usage, self.machines, self.tasks)
        self.trouble = Trouble(self.store, containers, self.networks, images, self.volumes)
        self._leftovers = Leftovers(
            containers, self.store, self.directories, self.identity, self.events, self.networking.resolver
        )
        self._reconciliation = Reconciliation(containers, self.runs, self.events, self.identity, self.keeper)

    def _close_images(self) -> None:
        self.builds.cache.close()
        self.images.close()

    async def open(self) -> None:
        """Loads the records and brings them in line with what the kernel runs; then what should run is started."""
        self._leftovers.load()
        self.tasks.beside(asyncio.to_thread(self._empty_trash))
        await self.keeper.begin()
        await reconnecting.reconnect(self.networking, self.containers.values(), self.identity.copied)
        for container in list(self.containers.values()):
            self.forwarding.begin(container)
            if container.running:
                self.tasks.beside(self.freezing.agree(container))
                self.health.begin(container, same_run=True)
            else:
                self.lifecycle.resume(container)
        self.ready.set()
        self.trouble.announce(self.events, self.data_root)

    def _empty_trash(self) -> None:
        self.containers.empty_trash()
        self.volumes.clear()

    async def _agree(self, call: keeper_link.Call) -> None:
        await self._reconciliation.agree(call)

    async def close(self) -> None:
        """Ends our part; containers go on."""
        self.directories.close()
        await self.tasks.close()
        await self.keeper.close()
        self.networking.close()
        self.machines.close()
        self.logs.close()
        await asyncio.to_thread(self._close_images)
        self.store.close()
        self._premises.close()
