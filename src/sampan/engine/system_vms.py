"""System VMs: virtual machines with a disk and an operating system of their own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import tempfile
import time
from collections.abc import Callable

import msgspec

from sampan.engine import hostpaths, image_config, limits, machine_shape, mounts, spec
from sampan.engine.arrivals import Arrivals
from sampan.engine.container import Container
from sampan.engine.containers import Containers
from sampan.engine.errors import BadRequest, Conflict, NotFound
from sampan.engine.events import Events
from sampan.engine.finding import Finding
from sampan.engine.image_roots import ImageRoots
from sampan.engine.machines import GROUP, NAMESPACES, OUTER, Machines
from sampan.engine.model import (
    Asked,
    Config,
    HostConfig,
    Isolation,
    LogConfig,
    Mount,
    MountType,
    SystemVm,
    SystemVmRequest,
)
from sampan.engine.name_claims import NameClaims
from sampan.engine.network.networking import Networking
from sampan.engine.policy import facts as facts_of
from sampan.engine.policy.caller import Caller, Owner
from sampan.engine.policy.gate import Gate
from sampan.engine.policy.model import VM
from sampan.engine.policy.operation import Kind, Verb
from sampan.engine.wiring import Wiring, interface
from sampan.images import bootstrap
from sampan.images.errors import ImageError
from sampan.images.image import Image
from sampan.images.index import Check
from sampan.images.store import ImageStore
from sampan.keeper.protocol import Descriptors
from sampan.linux import filetree, openat2, sparse
from sampan.linux.spec_types import Resources
from sampan.vm import bootdisk, confine, initramfs, iso, kernel, ovf, qemu_pc, requests, seed
from sampan.vm.errors import VmError
from sampan.vm.machine_types import DiskSettings, PcRow, SystemRequest

Say = Callable[[str], object]
replace = msgspec.structs.replace
_SNAPSHOT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")  # a word of QEMU's monitor, and no option
_INITS = ("/sbin/init", "/lib/systemd/systemd", "/usr/lib/systemd/systemd")
_GUEST_PACKAGES = [
    "systemd-sysv",
    "udev",
    "iproute2",
    "iputils-ping",
    "cloud-init",
    "openssh-server",
    "sudo",
    "qemu-guest-agent",
]


_SNAPSHOTS: dict[str, type[requests.SaveSnapshot | requests.LoadSnapshot | requests.DeleteSnapshot]] = {
    "create": requests.SaveSnapshot,
    "restore": requests.LoadSnapshot,
    "delete": requests.DeleteSnapshot,
}


class SystemVMs:
    """The system VMs of an engine. Their records are containers with the isolation "machine"."""

    def __init__(
        self,
        data_root: str,
        group: str,
        containers: Containers,
        images: ImageStore,
        image_roots: ImageRoots,
        arrivals: Arrivals,
        gate: Gate,
        finding: Finding,
        names: NameClaims,
        networking: Networking,
        machines: Machines,
        events: Events,
    ) -> None:
        """`group` is the control group that theirs are in."""
        self._data_root, self._cache, self._group = data_root, f"{data_root}/vm", group
        self._containers, self._images, self._image_roots, self._arrivals = containers, images, image_roots, arrivals
        self._gate, self._finding, self._networking, self._machines = gate, finding, networking, machines
        self._names, self._events = names, events

    # creation

    async def create(
        self, who: Caller, wanted: SystemVmRequest, say: Say, disk: int = -1, place: str = ""
    ) -> Container:
        """Makes one for somebody; `disk` is a descriptor of the disk that is wanted, opened as who asks, and `place` where it is on the
        host. Raises BadRequest, NotFound, Conflict, VmError.
        """

        hardware = wanted.hardware
        limits.check_system_vm(hardware, wanted.disk_size)
        if wanted.bootstrap:
            self._gate.ask_engine(who, Verb.BOOTSTRAP)
        if len(list(filter(None, (wanted.disk, wanted.image, wanted.bootstrap)))) != 1:
            raise BadRequest(
                "a virtual machine is made of one thing: --disk FILE, --from IMAGE or --bootstrap DISTRIBUTION:SUITE"
            )
        if hardware.bus and hardware.bus not in qemu_pc.BUSES:
            raise BadRequest(f"unknown bus {hardware.bus}: one of {', '.join(qemu_pc.BUSES)}")
        identifier = secrets.token_hex(32)
        image = self._finding.image(who, wanted.image, Verb.USE, usable=True) if wanted.image else None
        host = HostConfig(isolation=Isolation.MACHINE, network_mode=wanted.network or "default", port_bindings=wanted.ports,
                          log_config=LogConfig("json-file", {"max-size": "4m", "max-file": "2"}))  # fmt: skip
        mode, planned, _ = self._networking.plan(who, host, {}, "")
        host = replace(host, network_mode=mode)
        tags = self._gate.names(who, image) if image is not None else []
        signers = self._gate.signers(image) if image is not None else []
        source = [Mount(kind=MountType.BIND, destination="", source=place)] if place else []
        facts = facts_of.make(who.owner, image.id if image else "", tags, signers, {}, host, planned, source, VM)
        with (
            self._gate.admitted(who, identifier, facts, Kind.MACHINE),
            self._names.claim(who, wanted.name, identifier) as name,
        ):
            config = Config(
                tty=True, open_stdin=True, hostname=name.replace("_", "-"), stop_timeout=30, system_vm=hardware
            )
            container = Container(identifier, name, time.time_ns(), "", wanted.disk or wanted.image or wanted.bootstrap, config, host,
                                  networks=planned, owner=who.user, asked=Asked(labels={}, names=tuple(tags)),
                                  group=self._group)  # fmt: skip
            return await self._make(who, container, wanted, image, say, disk)

    async def _make(
        self, who: Caller, container: Container, wanted: SystemVmRequest, image: Image | None, say: Say, disk: int
    ) -> Container:
        directory = self._containers.directory(container)
        os.makedirs(f"{directory}/log", 0o700)
        try:
            await self._make_disk(who, container, wanted, image, directory, say, disk)
            self._networking.resolver.write_all_files(container)
        except BaseException:
            await asyncio.to_thread(filetree.remove, directory, True)
            raise
        self._containers.add(container)
        self._containers.save(container)
        self._events.announce(container, "create")
        self.announce(container, "create")
        return container

    def announce(self, container: Container, action: str) -> None:
        """Publishes a machine's event."""
        owners = (Owner(container.owner, container.claim),)
        self._events.publish("machine", action, container.id, {"name": container.name}, owners)

    async def _make_disk(
        self, who: Caller, container: Container, wanted: SystemVmRequest, image: Image | None, directory: str, say: Say,
        disk: int,
    ) -> None:  # fmt: skip
        size = wanted.disk_size
        target = f"{directory}/disk.qcow2"
        if wanted.disk:
            await asyncio.to_thread(self._take_disk, container, wanted.disk, disk, directory, size)
            return
        if wanted.bootstrap:
            say(f"making {wanted.bootstrap} from the distribution's packages")
            coming = self._arrivals.of(who)
            image = await asyncio.to_thread(self._bootstrap, wanted.bootstrap, coming.check)
        assert image is not None
        say("making the disk")
        await self.build_disk(image, f"{directory}/disk.raw", size, say)
        await asyncio.to_thread(bootdisk.convert, f"{directory}/disk.raw", target, "qcow2", "raw")
        os.unlink(f"{directory}/disk.raw")

    def _take_disk(self, container: Container, path: str, file: int, directory: str, size: int) -> None:
        """Copies a disk, or what an OVA has, in whatever format it is."""
        name, taken = os.path.basename(path), f"{directory}/taken"
        with open(taken, "w+b") as copy:
            os.fchmod(copy.fileno(), 0o600)
            if path.endswith(".ova"):
                appliance = ovf.unpack(file, name, copy.fileno())
                own = hardware_of(container)
                given = replace(own, cpus=own.cpus or appliance.cpus, memory=own.memory or appliance.memory << 20)
                container.config = replace(container.config, system_vm=given)
                file, name = copy.fileno(), appliance.disk
                copy.flush()
            elif not hostpaths.here(file) or not os.fstat(file).st_nlink:
                # On a file system that only its owner has, or nameless by now: no other process can be given it.
                sparse.copy_open(file, copy.fileno(), name)
                file = copy.fileno()
            capacity = bootdisk.take(file, name, f"{directory}/disk.qcow2")
        os.unlink(taken)
        if size and size < capacity:
            raise BadRequest(f"the disk has {capacity} bytes: it can't be made smaller")
        if size:
            bootdisk.resize(f"{directory}/disk.qcow2", size)

    def _bootstrap(self, name: str, check: Check) -> Image:
        try:
            return bootstrap.bootstrap(self._images, name, _GUEST_PACKAGES, check)
        except ImageError as error:
            raise BadRequest(str(error)) from error

    async def build_disk(self, image: Image, target: str, size: int, say: Say) -> None:
        """Writes a bootable raw disk of an image. Raises VmError."""
        found = await asyncio.to_thread(kernel.find, self._cache)
        if found is None:
            say("fetching a kernel from the distribution's packages")
            found = await asyncio.to_thread(kernel.fetch, self._cache)
        archive = await asyncio.to_thread(initramfs.build, found, self._cache, True)
        lower = await asyncio.to_thread(self._images.lower_directories, image)
        settings = await asyncio.to_thread(self._settings, image)
        await asyncio.to_thread(bootdisk.build, target, lower, found, archive, settings, size)

    def _settings(self, image: Image) -> DiskSettings:
        """What the disk does when it boots: the image's own init, or its command."""
        rootfd = self._image_roots.open(image)
        try:
            for path in _INITS:
                with contextlib.suppress(OSError):
                    os.close(openat2.open_in_root(rootfd, path))
                    return {"mode": "init", "init": path}
        finally:
            os.close(rootfd)
        config = image_config.read(image.config.execution)
        if not config.cmd and not config.entrypoint:
            raise VmError("the image has neither an init (/sbin/init) nor a command")
        container = Container("image", "", 0, "", "", config, HostConfig())
        entries = [*mounts.standard(False), mounts.shared_memory(mounts.DEFAULT_SHM)]
        request = spec.build(container, entries, {**dict.fromkeys(NAMESPACES, ""), "uts": "host"})
        request["cgroup"] = GROUP
        return {"mode": "command", "request": request}

    # start

    async def request(self, container: Container, wiring: Wiring) -> tuple[SystemRequest, Descriptors]:
        """What the keeper is asked to start, and the descriptors that go with it; "disk" and "seed" are the caller's."""
        directory, settings = self._containers.directory(container), hardware_of(container)
        memory = machine_shape.system_memory(settings)
        accelerator = (await self._machines.shape(HostConfig())).accelerator
        machine: PcRow = {"cpus": settings.cpus or 1, "memory": memory, "accelerator": accelerator, "form": "qcow2",
                   "bus": settings.bus or "virtio", "interfaces": [endpoint.mac for _, endpoint, _ in wiring.endpoints]}  # fmt: skip
        servers = self._networking.resolver.forwarders
        guest = seed.Guest(settings.user, settings.password, settings.ssh_keys, settings.user_data)
        files = seed.files(
            container.id, container.config.hostname, guest, [seed.place(*row) for row in wiring.endpoints], servers
        )
        with open(f"{directory}/seed.iso", "wb") as file:
            os.fchmod(file.fileno(), 0o600)  # passwords are in it, as memory may be in the disk
            file.write(iso.seed(files))
        own = {"disk": os.open(f"{directory}/disk.qcow2", os.O_RDWR | os.O_CLOEXEC)}
        os.fchmod(own["disk"], 0o600)
        own["seed"] = os.open(f"{directory}/seed.iso", os.O_RDONLY | os.O_CLOEXEC)
        limits: Resources = {"memory": {"limit": memory + machine_shape.HOST_OVERHEAD << 20}}
        request: SystemRequest = {
            "entry": "sampan.vm.system_vm_shim:main",
            "spec": {"process": {"terminal": True}, "linux": {"namespaces": OUTER, "resources": limits}},
            "cgroup": container.cgroup,
            "filter": confine.compiled(resolver=True),
            "pc": machine,
            "control": self._machines.control(container.id),
            "console": f"{directory}/console",
            "hostname": container.config.hostname,
            "interfaces": [interface(*row) for row in wiring.endpoints],
            "names": self._networking.resolver.serves(container),
            "servers": servers,
        }
        return request, {"network": wiring.namespace, **own, **{f"tap{slot}": fd for slot, fd in wiring.taps}}

    # snapshots

    async def snapshot(self, container: Container, action: str, name: str) -> None:
        """Makes ("create"), goes back to ("restore") or deletes ("delete") a snapshot: of disk and memory of one that runs,
        of the disk of one that does not. Raises NotFound, Conflict, EngineError.
        """
        if not _SNAPSHOT.fullmatch(name):
            raise BadRequest(f"invalid snapshot name {name!r}: letters, digits, dots, dashes and underscores")
        known = {row["name"]: row for row in await self.snapshots(container)}
        if action == "create" and name in known:
            raise Conflict(f"virtual machine {container.name} has a snapshot {name} already")
        if action != "create" and name not in known:
            raise NotFound(f"virtual machine {container.name} has no snapshot {name}")
        if container.running:
            if action == "restore" and not known[name]["memory"]:
                raise Conflict(f"snapshot {name} is of the disk only: stop the virtual machine first")
            await self._machines.ask(container, _SNAPSHOTS[action](name))
        else:
            flag = {"create": "-c", "restore": "-a", "delete": "-d"}[action]
            await asyncio.to_thread(
                bootdisk.snapshot, f"{self._containers.directory(container)}/disk.qcow2", flag, name
            )
        self.announce(container, f"snapshot-{action}")

    async def snapshots(self, container: Container) -> list[bootdisk.Snapshot]:
        """Name, time (seconds) and whether there is memory, of each."""
        return await asyncio.to_thread(bootdisk.snapshots, f"{self._containers.directory(container)}/disk.qcow2")

    # export

    async def export(self, who: Caller, source: str, form: str, size: int, target: str, say: Say) -> None:
        """Writes an image, or a machine that does not run, as a disk for other hypervisors. Raises BadRequest, NotFound, VmError."""
        if form not in bootdisk.FORMATS:
            raise BadRequest(f"unknown format {form!r}: one of {', '.join(bootdisk.FORMATS)}")
        with tempfile.TemporaryDirectory(dir=self._data_root) as work:
            known = self._finding.machines(who)
            machine = next((c for c in known if source in (c.name, c.id)), None)
            if machine is not None:
                self._gate.ask_container(who, Verb.EXPORT, machine)
                if machine.running:
                    raise Conflict(f"virtual machine {machine.name} is running: stop it before it is exported")
                disk, disk_form = f"{self._containers.directory(machine)}/disk.qcow2", "qcow2"
                settings = hardware_of(machine)
            else:
                disk, disk_form, settings = f"{work}/disk.raw", "raw", SystemVm()
                image = self._finding.image(who, source, Verb.EXPORT, usable=True)
                await self.build_disk(image, disk, size, say)
            if form == "ova":
                await asyncio.to_thread(_pack, work, disk, disk_form, source, settings, target)
            else:
                await asyncio.to_thread(bootdisk.convert, disk, target, form, disk_form)


def hardware_of(container: Container) -> SystemVm:
    """What a system VM is made of."""
    return container.config.system_vm or SystemVm()


def _pack(work: str, disk: str, form: str, source: str, settings: SystemVm, target: str) -> None:
    name = "".join(letter if letter.isalnum() or letter in "-." else "-" for letter in source)
    bootdisk.convert(disk, f"{work}/{name}-disk1.vmdk", "vmdk-stream", form)
    capacity = bootdisk.capacity(disk, form, name)
    memory = machine_shape.system_memory(settings)
    appliance = ovf.Appliance(name, settings.cpus or 1, memory, f"{name}-disk1.vmdk", capacity)
    ovf.pack(target, appliance, f"{work}/{name}-disk1.vmdk")
