"""Containers with a kernel of their own: what a machine is started with, and what is asked of one that runs."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import TYPE_CHECKING, TypeVar, cast

from sampan.engine import guest_answers, machine_shape, mounts, shims, spec
from sampan.engine.container import Container
from sampan.engine.containers import Containers
from sampan.engine.errors import Conflict, EngineError
from sampan.engine.image_roots import ImageRoots
from sampan.engine.keeper_link import KeeperLink
from sampan.engine.model import HostConfig
from sampan.engine.policy.gate import Gate
from sampan.engine.tasks import Tasks
from sampan.engine.wiring import Wiring, interface
from sampan.images.errors import ImageError
from sampan.images.store import ImageStore
from sampan.keeper import protocol
from sampan.keeper.protocol import Descriptors
from sampan.linux import filetree, netns
from sampan.linux.cgroup import Cgroup
from sampan.linux.files import read_or_empty, regular
from sampan.linux.spec_types import Resources
from sampan.oci.runtime_spec import Namespace, Process
from sampan.runtime.requests import Join, Launch
from sampan.vm import confine, progress, requests
from sampan.vm.disks import Disks
from sampan.vm.hypervisor import Shape
from sampan.vm.machine_types import Belongings, ExecRequest, Inner, MachineRequest, ShareRow
from sampan.vm.templates import Templates
from sampan.volumes.local import LocalVolumes

if TYPE_CHECKING:
    from sampan.vm.requests import Request

T = TypeVar("T")
# The guest's own network is the container's, and there is one container in it.
NAMESPACES = ("pid", "ipc", "uts", "cgroup")
_FILES_PATIENCE = 30.0  # seconds that a machine for files may take to end
# Seconds for what QEMU itself does with all of a machine.
_LONG = {requests.SaveSnapshot: 600.0, requests.LoadSnapshot: 600.0, requests.DeleteSnapshot: 120.0}
GROUP = "/sampan/container"
# Of a machine's process on the host.
OUTER: list[Namespace] = [{"type": "pid"}, {"type": "ipc"}, {"type": "network", "path": "@network"}]
# Seconds that the keeper may take for a start: the machine's own process knows whether its guest does anything.
LONGEST = progress.LONGEST + 60


def ordinary() -> Launch:
    """The request of a container without any option, in its guest: what templates are prepared for."""
    return spec.ordinary("", NAMESPACES) | {"cgroup": GROUP}


class Machines:
    """The virtual machines of an engine's containers."""

    def __init__(
        self,
        cache: str,
        sockets: str,
        containers: Containers,
        volumes: LocalVolumes,
        images: ImageStore,
        image_roots: ImageRoots,
        gate: Gate,
        keeper: KeeperLink,
        tasks: Tasks,
    ) -> None:
        """`cache` is the directory of kernels, templates and image disks, `sockets` that of the machines' shims."""
        self._containers, self._volumes, self._images, self._image_roots = containers, volumes, images, image_roots
        self._gate, self._keeper, self._tasks = gate, keeper, tasks
        self._cache = cache
        self.disks = Disks(cache)
        self.templates = Templates(cache, self.disks, ordinary())
        self._sockets = sockets
        self._loop = asyncio.get_running_loop()
        os.makedirs(self._sockets, 0o700, exist_ok=True)
        for name in os.listdir(self._sockets):
            if name.startswith("files-") and not _listens(f"{self._sockets}/{name}"):
                os.unlink(f"{self._sockets}/{name}")

    # start

    async def shape(self, host: HostConfig, say: Callable[[str], object] = lambda _: None) -> Shape:
        """The machine for a container's limits. Raises VmError."""
        return await self.templates.shape(say, machine_shape.cpus(host), machine_shape.memory(host))

    def control(self, name: str) -> str:
        """The socket of a machine's shim."""
        return f"{self._sockets}/{name[:24]}.sock"

    async def request(
        self, container: Container, wiring: Wiring, given: list[int]
    ) -> tuple[MachineRequest, Descriptors]:
        """What the keeper is asked to start, and the descriptors that go with it, the caller's. Raises VmError.

        `given` gets further descriptors that are the caller's to close, when the machine has been started.
        """
        host, directory = container.host_config, self._containers.directory(container)
        entries = mounts.specification(container, directory, self._volumes, given, self._gate.allowed(container))
        shares = machine_shape.share(entries, directory)
        inner = spec.build(container, entries, dict.fromkeys(NAMESPACES, ""))
        inner["cgroup"] = GROUP
        inner["spec"]["linux"]["resources"] = machine_shape.inner_limits(inner["spec"]["linux"]["resources"])
        guest = self._guest(container, wiring, bool(shares))
        request, fds = await self._machine(container, guest, shares, wiring)
        process, outer = inner["spec"]["process"], request["spec"]
        limits = machine_shape.outer_limits(spec.resources(host), request["shape"]["memory"])
        if shares:
            given.append(mounts.table())
            fds["sources"] = given[-1]
        outer["process"] = {"terminal": process["terminal"]}
        if "consoleSize" in process:
            outer["process"]["consoleSize"] = process["consoleSize"]
        outer["linux"]["resources"] = limits
        request |= {"cgroup": container.cgroup, "inner": cast(Inner, inner), "control": self.control(container.id)}
        return request, fds

    async def _machine(
        self, container: Container, guest: Belongings, shares: list[ShareRow], wiring: Wiring
    ) -> tuple[MachineRequest, Descriptors]:
        """The part of a request that is the machine, whatever it is for."""
        shape = await self.shape(container.host_config)
        template = await self.templates.get(shape, lambda _: None)
        directory = self._containers.directory(container)
        own: Descriptors = {}
        size, path = machine_shape.disk_size(container.host_config), f"{directory}/disk"
        guest["new"] = not os.path.exists(path)
        fresh = guest["new"] and not size
        guest.setdefault("writable", "fresh" if fresh else "disk")
        try:
            own["root"] = await asyncio.to_thread(self._root, container)
            own["disk"] = await asyncio.to_thread(self.disks.writable, path, size, template.disk if fresh else "")
            own["state"] = os.open(
                f"/proc/self/fd/{template.state}", os.O_RDONLY | os.O_CLOEXEC
            )  # an offset of its own
        except BaseException:
            for fd in own.values():
                os.close(fd)
            raise
        request: MachineRequest = {
            "entry": "sampan.vm.microvm_shim:main",
            "spec": {"process": {}, "linux": {"namespaces": OUTER, "resources": {}}},
            "cgroup": None,
            "filter": confine.compiled(resolver=True),
            "shape": shape.row(),
            "shares": shares,
            "guest": guest,
            "console": f"{directory}/console",
            "report": f"{directory}/report",
            "boot": container.host_config.annotations.get("sampan.template") == "none",
        }
        taps = {f"tap{slot}": fd for slot, fd in wiring.taps}
        return request, {"network": wiring.namespace, "memory": template.memory, **own, **taps}

    def _root(self, container: Container) -> int:
        image = self._images.index.get(container.image)

        def tree() -> int:
            self.disks.keep({each.id for each in self._images.index.all()})
            return self._image_roots.open(image)

        return self.disks.root(image.id, tree)

    def _guest(self, container: Container, wiring: Wiring, shares: bool) -> Belongings:
        directory = self._containers.directory(container)
        options = container.host_config.storage_options
        files = {name: read_or_empty(f"{directory}/{name}") for name in machine_shape.FILES}
        found: Belongings = {
            "persistent": not container.host_config.auto_remove,
            "size": machine_shape.disk_size(container.host_config),
            "shares": shares,
            "files": files,
            "interfaces": [interface(network, endpoint, default) for network, endpoint, default in wiring.endpoints],
            "names": "nameserver 127.0.0.11" in files["resolv.conf"],
        }
        if options.get("medium") == "memory":
            found["writable"] = "memory"
        return found

    def exec_request(self, container: Container, process: Process, seccomp: str | None) -> ExecRequest:
        """What the keeper is asked for a further process in the guest."""
        return {"entry": "sampan.vm.exec_shim:main", "spec": {"linux": {"namespaces": []}}, "cgroup": None, "process": process,
                "seccomp": seccomp, "control": self.control(container.id), "filter": confine.compiled(resolver=False)}  # fmt: skip

    def ended(self, container: Container) -> tuple[bool, str]:
        """Called when a machine has ended: as guest_answers.report(); what it left is removed."""
        path, data = f"{self._containers.directory(container)}/report", b""
        with contextlib.suppress(OSError):
            with open(path, "rb", opener=regular) as file:
                data = file.read(1 << 20)
            os.unlink(path)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.control(container.id))
        return guest_answers.report(container.name, data)

    # while it runs

    async def ask(self, container: Container, request: Request) -> object:
        """The result of a request to a running machine, for the guest_answers.Answer that it should be. Raises EngineError."""
        async with shims.connected(self.control(container.id), container.name) as shim:
            answer = await shim.ask(request, limit=_LONG.get(type(request), shims.PATIENCE))
        found: object = answer.get("result")
        return found

    async def limit(self, container: Container, host: HostConfig, limits: Resources) -> list[str]:
        """Changes the limits of a running machine; returns warnings. Raises EngineError, LimitRefused.

        More memory than the machine was made with comes with the next start.
        """
        warnings: list[str] = []
        shape = guest_answers.SHAPE.of(container.name, await self.ask(container, requests.GetShape()))
        made, wanted = shape["memory"], machine_shape.memory(host)
        if wanted > made:
            limits = {**limits, "memory": {**limits["memory"], "limit": 0, "swap": 0}}
            warnings.append(f"the virtual machine has {made} MiB: the new limit holds from its next start")
        group = Cgroup(container.cgroup)
        put_back = group.update({"cpu": limits["cpu"]})
        try:
            said = await self.ask(container, requests.Limits(machine_shape.inner_limits(limits)))
            warnings += guest_answers.WARNINGS.of(container.name, said)
        except BaseException:
            put_back()
            raise
        if wanted <= made:
            await self.ask(container, requests.Balloon(wanted << 20))
        return warnings + group.warnings

    async def job(self, container: Container, job: requests.Job, reader: int = -1, writer: int = -1) -> object:
        """Work on a container's files, in its guest; one that does not run gets a machine for that long.

        What the job reads comes from `reader`, what it writes goes to `writer`; both are closed.
        Raises OSError, ImageError as the job does there, EngineError.
        """
        reader = reader if reader >= 0 else os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        writer = writer if writer >= 0 else os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
        try:
            async with self._reachable(container) as path, shims.connected(path, container.name) as shim:
                await shim.ask(job, {"stdin": reader, "stdout": writer})
                os.close(reader)
                os.close(writer)
                reader = writer = -1
                while (event := await shim.next(shims.PATIENCE)) is None:
                    await shims.check_alive(
                        path, container.name
                    )  # it may take as long as it likes, while the guest lives
        finally:
            for fd in (reader, writer):
                if fd >= 0:
                    os.close(fd)
        answer = event.get("result")
        if not isinstance(answer, dict):
            answer = {"error": "the guest's job has ended without a word", "kind": "other"}
        if "error" not in answer:
            result: object = answer.get("result")
            return result
        failure = guest_answers.failure(container.name, answer)
        if failure.kind == "os":
            raise OSError(failure.errno, failure.error)
        if failure.kind == "image":
            raise ImageError(failure.error)
        raise EngineError(failure.error)

    @contextlib.asynccontextmanager
    async def _reachable(self, container: Container) -> AsyncIterator[str]:
        """The socket of the machine that has the container's files."""
        if container.running:
            yield self.control(container.id)
            return
        async with container.lock:
            if container.running:
                raise Conflict(f"container {container.name} has just been started: try again")
            name = f"files-{secrets.token_hex(8)}"
            path = self.control(name)
            held = await self._open_files(container, name, path)
            try:
                yield path
            finally:
                await self._end_of(held[0])
                for fd in held:
                    os.close(fd)
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)

    async def _end_of(self, process: int) -> None:
        """Waits for the end of a machine for files, which follows that of its last client."""
        over = asyncio.Event()
        self._loop.add_reader(process, over.set)
        try:
            async with asyncio.timeout(_FILES_PATIENCE):
                await over.wait()
        except TimeoutError:  # whatever keeps it: it has written all that it was asked to
            signal.pidfd_send_signal(process, signal.SIGKILL)
            await over.wait()
        finally:
            self._loop.remove_reader(process)

    async def _open_files(self, container: Container, name: str, path: str) -> list[int]:
        """Starts one; its pidfd, and what else the keeper has of it."""
        wiring = Wiring(await asyncio.to_thread(netns.new), [], [])
        guest: Belongings = {"persistent": True}
        new = container.state.status == "created"  # its first start makes its working directory
        cwd = container.config.working_dir or "/" if new else "/"
        null = {name: os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC) for name in protocol.STDIO}
        fds: Descriptors = {}
        try:
            request, fds = await self._machine(container, guest, [], wiring)
            request |= {"inner": {"op": "open", "cwd": cwd}, "control": path, "process": {}}
            begin = protocol.Exec(name, cast(Join, request), {**null, **fds})
            return list((await self._keeper.call(begin, LONGEST)).descriptors.values())
        finally:
            for fd in [
                *null.values(),
                wiring.namespace,
                *(fds[name] for name in ("root", "disk", "state") if name in fds),
            ]:
                os.close(fd)

    def later(self, work: Coroutine[object, None, T]) -> concurrent.futures.Future[T]:
        """Begins a coroutine of ours; for threads."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def in_thread(self, work: Coroutine[object, None, T]) -> T:
        """Does a coroutine of ours; for threads."""
        return self.later(work).result()

    def pass_files(self, container: Container) -> None:
        """Brings /etc/hosts and its like in a running guest up to date."""
        directory = self._containers.directory(container)
        files = {name: read_or_empty(f"{directory}/{name}") for name in machine_shape.FILES}
        self._tasks.beside(self._quietly(container, requests.Files(files)))

    async def _quietly(self, container: Container, request: Request) -> None:
        with contextlib.suppress(EngineError):
            await self.ask(container, request)

    def shared_footprint(self, image: str) -> dict[str, int]:
        """Bytes on the disk that are there once for all containers of an image, or for all. Blocks."""
        cache = os.path.realpath(self._cache)
        templates = f"{cache}/templates"
        names = os.listdir(templates) if os.path.isdir(templates) else []
        one = max((filetree.measure(f"{templates}/{name}")[1] for name in names), default=0)
        root = _blocks(f"{self._cache}/roots/{image.removeprefix('sha256:')}")
        return {"image": root, "template": one, "kernel": filetree.measure(f"{cache}/kernel")[1]}

    def close(self) -> None:
        """Ends our part; machines go on."""
        self.templates.close()


def _blocks(path: str) -> int:
    try:
        return os.lstat(path).st_blocks * 512
    except OSError:
        return 0


def _listens(path: str) -> bool:
    """Whether a socket's owner lives."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.setblocking(False)
        try:
            sock.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True  # it is busy
    return True
