"""The engine's parts together: records, images, volumes, events and the keeper; start-up and shutdown."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from sampan.engine import container_record, identity, keeperlink, leftovers, premises, reconnecting, trouble
from sampan.engine.builds import Builds
from sampan.engine.container import Container
from sampan.engine.directories import Directories
from sampan.engine.durations import Durations
from sampan.engine.errors import BadRequest, NotFound
from sampan.engine.events import Events
from sampan.engine.finding import Finding
from sampan.engine.machines import Machines
from sampan.engine.networking import Networking
from sampan.engine.overview import Overview
from sampan.engine.policy.gate import Gate
from sampan.engine.records import Records
from sampan.engine.registries import Registries
from sampan.engine.roots import Roots
from sampan.engine.system import SystemMachines
from sampan.engine.tasks import Tasks
from sampan.engine.unstarted import Unstarted
from sampan.engine.watch import Watcher
from sampan.images.registry.hosts import Hosts
from sampan.images.store import ImageStore
from sampan.linux import filetree
from sampan.network.hostports import HostPorts
from sampan.volumes.local import LocalVolumes

T = TypeVar("T")
_REMEMBERED = 500  # removals, between two times that they are forgotten


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
        self.gate = Gate(self, policy or f"{data_root}/policy.toml")
        self.store = Records(f"{data_root}/sampan.db", run_root)
        self.finding = Finding(self)
        self.images = ImageStore(f"{data_root}/images", f"{run_root}/images-session")
        self.mountpoints = self.images.mountpoints_directory()
        self.volumes = LocalVolumes(f"{data_root}/volumes")
        self.directories = Directories(f"{data_root}/containers")
        self.events = Events()
        self._buried = 0
        self.containers: dict[str, Container] = {}
        self.claimed_names: dict[str, str] = {}  # of containers that are being made
        self.execs: dict[str, Any] = {}
        self.unstarted = Unstarted()
        self.watcher = Watcher()
        self.networking = Networking(self, obey_host_firewall, host_ports)
        self.keeper = keeperlink.KeeperLink(
            f"{run_root}/keeper.sock", self._on_exit, self._agree, self.store.flush, self.identity.group
        )
        self.roots = Roots(self)
        self.registries = Registries(self, hosts or Hosts())
        self.builds = Builds(self)
        self.machines = Machines(self)
        self.system = SystemMachines(self)
        self.starts = Durations()  # by isolation
        self.overview = Overview(self)
        self.tasks = Tasks()
        self.ready = asyncio.Event()  # records, keeper and kernel say the same

    def directory(self, container: Container) -> str:
        """The container's own directory."""
        return container.place or f"{self.data_root}/containers/{container.id}"

    def discard_directory(self, container: Container) -> None:
        """Takes a container's directory out of the way at once and deletes it when there is time."""
        self.background(self._empty_trash(container, self.trash(self.directory(container))))

    def trash(self, path: str) -> str:
        """Renames what is to be deleted, so that nobody finds it there any more; a full disk may leave it where it is."""
        target = f"{self.data_root}/trash/{os.path.basename(path)}"
        try:
            os.makedirs(os.path.dirname(target), 0o700, exist_ok=True)
            os.rename(path, target)
            return target
        except OSError:
            return path

    @staticmethod
    async def _empty_trash(container: Container, path: str) -> None:
        while container.followers:
            await asyncio.sleep(0.05)
        await asyncio.to_thread(filetree.remove, path, True)

    def save(self, container: Container, text: str = "") -> None:
        """Writes a container's record, which is `text` if it has been made already. Raises DiskError."""
        if not container.removed and not container.broken:  # the row of a broken one stays as it is
            self.store.put("container", container.id, text or container_record.write(container))

    def owe(self, container: Container) -> None:
        """As save, for what has happened whatever the disk says: a record that it refuses is written as soon as it takes it."""
        if not container.removed and not container.broken:
            self.store.owe("container", container.id, container_record.write(container))

    def bury(self, container: Container) -> None:
        """Deletes a container's record, for good. Raises DiskError."""
        if container.place and not container.rowid:
            return  # it has none
        self.store.bury("container", container.id, container.rowid)
        self._buried += 1
        if self._buried % _REMEMBERED == 0:
            self.background(asyncio.to_thread(leftovers.forget_removed, self))

    def find(self, text: str, sees: Callable[[Container], bool] = lambda container: True) -> Container:
        """A container by id, name or unique id prefix, among those that `sees` lets through; a system machine by its whole id only.
        For somebody it is found by `finding`. Raises NotFound, BadRequest when ambiguous."""
        if text in self.containers and sees(self.containers[text]):
            return self.containers[text]
        name = text.removeprefix("/")
        for container in self.containers.values():
            if container.name == name and not container.system and sees(container):
                return container
        matches = [c for c in self.containers.values() if text and c.id.startswith(text) and not c.system and sees(c)]
        if len(matches) > 1:
            raise BadRequest(f"Multiple IDs found with provided prefix: {text}")
        if not matches:
            raise NotFound(f"No such container: {text}")
        return matches[0]

    def overlay(self, container: Container) -> dict[str, Any]:
        """The layers of a container's root, as the keeper mounts them."""
        directory = self.directory(container)
        return {
            "lower": [*self.images.lower_directories(self.images.get(container.image)), self.mountpoints],
            "upper": f"{directory}/upper",
            "work": f"{directory}/work",
        }

    async def image_ready(self, container: Container) -> None:
        """Its image's layers are there and whole; what has to be unpacked again for that, a thread does. A system VM has
        a disk and no image. Raises ImageError.
        """
        if not container.system and not self.images.prepared(container.image):
            await asyncio.to_thread(self.images.lower_directories, self.images.get(container.image))

    def image_user(self, image_id: str) -> str:
        """Names a container that needs an image; "" when there is none. For threads, too."""
        users = [container for container in list(self.containers.values()) if container.image == image_id]
        users.sort(key=lambda container: not container.running)
        return f"{'running ' if users[0].running else ''}container {users[0].id[:12]}" if users else ""

    def _close_images(self) -> None:
        self.builds.cache.close()
        self.images.close()

    def background(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Runs a coroutine beside the requests; it may be cut short by the daemon's end."""
        return self.tasks.beside(coroutine)

    async def carry(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Runs an operation to its end, whatever its caller does; what has begun must not be left half done."""
        return await self.tasks.carry(coroutine)

    def _on_exit(self, record: dict[str, Any]) -> None:
        from sampan.engine import execs, lifecycle

        if self.builds.exited(record["id"], record["status"]):
            return
        container = self.containers.get(record["id"])
        if container is not None:
            if not container.starting and container.start_time != record["start_time"]:
                return  # the end of an earlier run, which we know
            lifecycle.on_exit(self, container, record)
            for identifier in self.unstarted.ended(container.id):
                self.execs.pop(identifier, None)
        else:
            execs.exited(self, record)

    async def open(self) -> None:
        """Loads the records and brings them in line with what the kernel runs."""
        leftovers.load(self)
        await self.keeper.begin()
        await reconnecting.reconnect(self)
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
