"""Templates: for each shape of machine a guest that has booted once, kept by content."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from sampan.vm import hypervisor, initramfs, kernel
from sampan.vm.hypervisor import Machine, Shape, Template

Say = Callable[[str], object]
# The guest reads its disk's size when it boots, which is before it is somebody's: all disks are this large, and sparse.
ROOT_SIZE = 64 << 30


class Templates:
    """The kernel, the initramfs and the templates below one directory. `run`: for what running machines need."""

    def __init__(self, cache: str, run: str) -> None:
        self._cache, self._run = cache, run
        for path in (cache, run):
            os.makedirs(path, 0o700, exist_ok=True)

    async def shape(self, say: Say, cpus: int = 1, memory: int = 128) -> Shape:
        """A shape with everything it needs on this machine's disk. Raises VmError."""
        found = await asyncio.to_thread(kernel.find, self._cache)
        if found is None:
            say("fetching a kernel from the distribution's packages")
            found = await asyncio.to_thread(kernel.fetch, self._cache)
        archive = await asyncio.to_thread(initramfs.build, found, self._cache)
        return Shape(found, archive, cpus, memory)

    async def get(self, shape: Shape, say: Say) -> Template:
        """The template of a shape, made now if there is none. Raises VmError."""
        target = f"{self._cache}/templates/{await _key(shape)}"
        async with _locked(f"{self._cache}/lock"):
            if not os.path.exists(f"{target}/state"):
                say(f"booting a guest once, with {shape.cpus} CPU and {shape.memory} MiB, under {shape.accelerator}")
                await self._make(shape, target)
        return Template(shape, f"{target}/memory", f"{target}/state")

    async def _make(self, shape: Shape, target: str) -> None:
        os.makedirs(os.path.dirname(target), 0o700, exist_ok=True)
        work = await asyncio.to_thread(tempfile.mkdtemp, dir=os.path.dirname(target))
        try:
            # Any root disk: machines get theirs, of the same size, when they are made from the template.
            with open(f"{work}/root", "wb") as file:
                file.truncate(ROOT_SIZE)
            machine = await hypervisor.boot(shape, self._run, f"{work}/memory", [f"{work}/root"])
            try:
                await machine.save(work)
            finally:
                await machine.close()
            os.rename(work, target)
        except BaseException:
            await asyncio.to_thread(shutil.rmtree, work, True)
            raise

    async def start(self, shape: Shape, root: str, say: Say) -> Machine:
        """A new machine from the shape's template with a root disk: an image of ROOT_SIZE bytes, most of them a hole.

        Raises VmError.
        """
        return await hypervisor.restore(await self.get(shape, say), self._run, [root])

    async def accelerator(self, shape: Shape) -> tuple[str, str]:
        """As hypervisor.accelerator(), tried once for each kernel of the host and kept."""
        path = f"{self._cache}/accelerator-{os.uname().release}"
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                name, _, why = file.read().partition("\n")
            return name, why
        name, why = await hypervisor.accelerator(shape, self._run)
        with open(path, "w", encoding="utf-8") as file:
            file.write(f"{name}\n{why}")
        return name, why


async def _key(shape: Shape) -> str:
    """What a template depends on: a state of one QEMU is not for another."""
    process = await asyncio.create_subprocess_exec(hypervisor.binary(), "--version", stdout=asyncio.subprocess.PIPE)
    version, _ = await process.communicate()
    parts: list[Any] = [
        shape.kernel.release,
        os.path.basename(shape.initramfs),
        shape.cpus,
        shape.memory,
        shape.accelerator,
        version,
    ]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


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
