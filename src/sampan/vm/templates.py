"""Templates: for each shape of machine a guest that has booted once, kept by content."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sampan.linux import durable, filetree, memfd
from sampan.vm import bzimage, hypervisor, initramfs, kernel, progress, template_builder
from sampan.vm.disks import Disks
from sampan.vm.errors import VmError
from sampan.vm.hypervisor import Shape

if TYPE_CHECKING:
    from sampan.runtime.requests import Launch

Say = Callable[[str], object]
_TRY = 15.0  # seconds that a guest may take to boot under KVM
_KEPT = 30 * 86400


@dataclass(slots=True)
class Template:
    """A machine that has booted and was stopped: its memory, sealed, and its devices' state, as descriptors."""

    shape: Shape
    memory: int
    state: int
    disk: str  # the path of the empty disk that the guest has mounted


class Templates:
    """The kernel, the initramfs and the templates below one directory.

    `expected`: the request of the container that templates are prepared for, as spawn.start() takes it.
    """

    def __init__(self, cache: str, disks: Disks, expected: Launch) -> None:
        self._cache, self._disks, self._expected = cache, disks, expected
        self._open: dict[str, Template] = {}
        self._shapes: dict[tuple[int, int], Shape] = {}
        os.makedirs(cache, 0o700, exist_ok=True)

    async def shape(self, say: Say, cpus: int = 1, memory: int = 512) -> Shape:
        """A shape with everything it needs on this machine's disk. `memory` in MiB. Raises VmError."""
        known = self._shapes.get((cpus, memory))
        if known is not None:
            return known
        found = await asyncio.to_thread(kernel.find, self._cache)
        if found is None:
            say("fetching a kernel from the distribution's packages")
            found = await asyncio.to_thread(kernel.fetch, self._cache)
        archive = await asyncio.to_thread(initramfs.build, found, self._cache)
        name, _ = await self.accelerator(Shape(found.image, archive, 1, 256))
        image = await asyncio.to_thread(bzimage.unpacked, found.image) if name == "tcg" else found.image
        self._shapes[cpus, memory] = shape = Shape(image, archive, cpus, memory, name)
        return shape

    def ready(self, shape: Shape) -> bool:
        """Whether a shape's template is there."""
        return os.path.exists(f"{self._cache}/templates/{self._key(shape)}/state")

    async def get(self, shape: Shape, say: Say) -> Template:
        """The template of a shape, made now if there is none. Raises VmError."""
        key = self._key(shape)
        if key in self._open:
            return self._open[key]
        target = f"{self._cache}/templates/{key}"
        async with _locked(f"{self._cache}/lock"):
            if not os.path.exists(f"{target}/state"):
                say(f"booting a guest once, with {shape.cpus} CPU and {shape.memory} MiB, under {shape.accelerator}")
                await self._make(shape, target)
        os.utime(target)  # it is still wanted
        for name in os.listdir(target):
            os.chmod(f"{target}/{name}", 0o400)  # the QEMU that has written them is nobody any more
        memory = await asyncio.to_thread(memfd.sealed_copy, f"{target}/memory", "sampan-template")
        state = os.open(f"{target}/state", os.O_RDONLY | os.O_CLOEXEC)
        return self._open.setdefault(key, Template(shape, memory, state, f"{target}/disk"))

    async def _make(self, shape: Shape, target: str) -> None:
        os.makedirs(os.path.dirname(target), 0o700, exist_ok=True)
        await asyncio.to_thread(self._forget_old)
        work = await asyncio.to_thread(tempfile.mkdtemp, dir=os.path.dirname(target))
        try:
            await asyncio.to_thread(lambda: os.close(self._disks.writable(f"{work}/disk")))
            await boot(shape, work, progress.LONGEST, self._expected)
            await asyncio.to_thread(durable.sync_tree, work)  # a template that is there is whole
            os.rename(work, target)
        finally:
            await asyncio.to_thread(filetree.remove, work, True)

    def _forget_old(self) -> None:
        """Deletes templates that nobody has used for a month: of earlier kernels, versions and sizes."""
        for name in os.listdir(f"{self._cache}/templates"):
            path = f"{self._cache}/templates/{name}"
            if time.time() - os.stat(path).st_mtime > _KEPT:
                filetree.remove(path, ignore_errors=True)

    async def accelerator(self, shape: Shape) -> tuple[str, str]:
        """("kvm" or "tcg", why), tried once for each kernel of the host and kept.

        KVM when a guest really boots under it, which an openable /dev/kvm does not promise.
        """
        known = self.known_accelerator()
        if known is not None:
            return known
        path = f"{self._cache}/accelerator-{os.uname().release}"
        name, why = await self._try_kvm(Shape(shape.kernel, shape.initramfs, shape.cpus, shape.memory, "kvm"))
        await asyncio.to_thread(durable.write, path, f"{name}\n{why}", 0o644)
        return name, why

    def known_accelerator(self) -> tuple[str, str] | None:
        """As accelerator(), if it has been tried."""
        try:
            with open(f"{self._cache}/accelerator-{os.uname().release}", encoding="utf-8") as file:
                name, _, why = file.read().partition("\n")
        except FileNotFoundError:
            return None
        return name, why

    async def _try_kvm(self, shape: Shape) -> tuple[str, str]:
        if not os.access("/dev/kvm", os.R_OK | os.W_OK):
            return "tcg", "/dev/kvm can't be opened: guests run under software emulation"
        with tempfile.TemporaryDirectory(dir=self._cache) as work:
            try:
                await boot(shape, work, _TRY, None)
            except VmError as error:
                why = " ".join(str(error).split())[:200]
                return "tcg", f"/dev/kvm opens, but no guest boots under it ({why}): software emulation"
        return "kvm", "guests run under KVM"

    def _key(self, shape: Shape) -> str:
        """What a template depends on: a state of one QEMU is not for another."""
        binary = os.stat(hypervisor.binary())
        parts: list[object] = [
            os.path.basename(shape.kernel),
            os.path.basename(shape.initramfs),
            shape.cpus,
            shape.memory,
            shape.accelerator,
            binary.st_size,
            binary.st_mtime_ns,
            hypervisor.arguments(shape, hypervisor.Parts(0, 0, 0, 0, []), 0, 0, 0, restored=True),
            self._expected,
        ]
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]

    def close(self) -> None:
        """Lets go of the templates' memory."""
        for template in self._open.values():
            os.close(template.memory)
            os.close(template.state)
        self._open.clear()


async def boot(shape: Shape, directory: str, timeout: float, expect: Launch | None) -> None:
    """Boots a guest in a process of its own. Raises VmError."""
    hypervisor.binary()
    source = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    request = {"shape": shape.row(), "directory": directory, "timeout": timeout, "expect": expect}
    process = await asyncio.create_subprocess_exec(
        os.path.realpath(sys.executable), "-I", "-S", "-B", "-c", template_builder.ENTRY, source, json.dumps(request),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    try:
        _, said = await process.communicate()
    except BaseException:
        process.kill()
        raise
    if process.returncode:
        raise VmError(said.decode(errors="replace").strip()[-1000:])


@asynccontextmanager
async def _locked(path: str) -> AsyncIterator[None]:
    """One at a time, over all processes (flock(2))."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(0.05)
        yield
    finally:
        os.close(fd)
