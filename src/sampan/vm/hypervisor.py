"""QEMU: one process for each machine, driven over its monitor (QMP)."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from typing import Any

from sampan.vm.errors import VmError
from sampan.vm.kernel import Kernel

_BINARY = {"x86_64": "qemu-system-x86_64", "aarch64": "qemu-system-aarch64"}
_CAPABILITY = {"capability": "x-ignore-shared", "state": True}


@dataclass(frozen=True, slots=True)
class Shape:
    """What a machine is made of, and a template is for. `memory` in MiB."""

    kernel: Kernel
    initramfs: str
    cpus: int = 1
    memory: int = 128
    accelerator: str = "tcg"


@dataclass(slots=True)
class Template:
    """A machine that has booted, was stopped and written to two files: its memory, and the state of its devices."""

    shape: Shape
    memory: str
    state: str


def command(
    shape: Shape, directory: str, memory_file: str, private: bool, disks: list[str], incoming: bool
) -> list[str]:
    """QEMU's arguments for a microvm with our agent's port."""
    share = "off" if private else "on"
    arguments = [
        binary(), "-M", "microvm,x-option-roms=off,rtc=on,pit=on,pic=on,isa-serial=on,memory-backend=ram",
        "-accel", shape.accelerator, "-cpu", "host" if shape.accelerator == "kvm" else "max", "-smp", str(shape.cpus), "-m", f"{shape.memory}M",
        "-object", f"memory-backend-file,id=ram,size={shape.memory}M,mem-path={memory_file},share={share}",
        "-bios", "qboot.rom", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-sandbox", "on,spawn=allow",
        "-kernel", shape.kernel.image, "-initrd", shape.initramfs,
        "-append", f"console=ttyS0 panic=-1 reboot=t random.trust_cpu=on {_clock()}rdinit=/init",
        "-serial", f"file:{directory}/console", "-qmp", f"unix:{directory}/qmp,server=on,wait=off",
        "-device", "virtio-serial-device", "-chardev", f"socket,id=agent,path={directory}/agent,server=on,wait=off",
        "-device", "virtserialport,chardev=agent,name=sampan.agent", "-device", "virtio-rng-device",
    ]  # fmt: skip
    for number, disk in enumerate(disks):
        arguments += [
            "-drive",
            f"if=none,id=disk{number},format=raw,readonly=on,file={disk}",
            "-device",
            f"virtio-blk-device,drive=disk{number}",
        ]
    if incoming:
        arguments += ["-incoming", "defer"]
    return arguments


def _clock() -> str:
    """The rate of the time stamp counter, which an emulated guest reads from the host's, as kernel parameters.

    Measuring it against an emulated timer fails now and then, and a kernel that has no rate hangs.
    """
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            rate = next(float(line.partition(":")[2]) for line in file if line.startswith("cpu MHz"))
    except (OSError, StopIteration, ValueError):
        return ""
    return f"tsc_early_khz={int(rate * 1000)} lpj={int(rate * 4000)} "


@dataclass(slots=True)
class Machine:
    """A running QEMU. `close()` leaves nothing of it."""

    directory: str
    process: asyncio.subprocess.Process
    shape: Shape
    _qmp: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
    _agent: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def qmp(self, name: str, **arguments: Any) -> Any:
        """One command of the monitor. Raises VmError."""
        if self._qmp is None:
            self._qmp = await self._connect(f"{self.directory}/qmp")
            await self._qmp[0].readline()
            await self._send("qmp_capabilities", {})
        return await self._send(name, arguments)

    async def _send(self, name: str, arguments: dict[str, Any]) -> Any:
        assert self._qmp is not None
        reader, writer = self._qmp
        writer.write(json.dumps({"execute": name, "arguments": arguments}).encode() + b"\n")
        while line := await reader.readline():
            answer = json.loads(line)
            if "error" in answer:
                raise VmError(f"qemu: {name}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]
        raise VmError(f"qemu has ended: {await self.why()}")

    async def ask(self, message: dict[str, Any], timeout: float = 60.0) -> dict[str, Any]:
        """A request to the agent. Raises VmError when it fails, the guest has ended, or it takes longer (seconds)."""
        async with self._lock:
            if self._agent is None:
                self._agent = await self._connect(f"{self.directory}/agent")
            reader, writer = self._agent
            writer.write(json.dumps(message).encode() + b"\n")
            try:
                line = await asyncio.wait_for(reader.readline(), timeout)
            except TimeoutError:
                raise VmError(f"the guest's agent does not answer: {await self.why()}") from None
            except ConnectionError:
                line = b""
        if not line:
            raise VmError(f"the guest has ended: {await self.why()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise VmError(f"in the guest: {answer['error']}")
        return answer

    async def _connect(self, path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        for _ in range(500):
            try:
                return await asyncio.open_unix_connection(path, limit=16 << 20)
            except OSError:
                if self.process.returncode is not None:
                    break
                await asyncio.sleep(0.01)
        raise VmError(f"qemu did not start: {await self.why()}")

    async def why(self) -> str:
        """What QEMU and the guest have said last."""
        said = []
        for name in ("qemu.log", "console"):
            try:
                with open(f"{self.directory}/{name}", encoding="utf-8", errors="replace") as file:
                    said.append(file.read()[-600:].strip())
            except OSError:
                continue
        return " | ".join(text for text in said if text) or "it said nothing"

    async def save(self, target: str) -> Template:
        """Stops the machine and writes it down as a template below `target`; the memory is its backing file. Raises VmError."""
        await self.qmp("stop")
        await self.qmp("migrate-set-capabilities", capabilities=[_CAPABILITY])
        await self.qmp("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
        await self.qmp("migrate", uri=f"exec:cat > {target}/state")
        await self._until("completed")
        return Template(self.shape, f"{target}/memory", f"{target}/state")

    async def _until(self, wanted: str) -> None:
        for _ in range(3000):
            status = (await self.qmp("query-migrate")).get("status")
            if status == wanted:
                return
            if status in ("failed", "cancelled"):
                raise VmError(f"qemu: the state could not be moved: {await self.why()}")
            await asyncio.sleep(0.01)
        raise VmError("qemu: the state was not moved in time")

    async def close(self) -> None:
        """Ends it and removes its directory."""
        for pair in (self._qmp, self._agent):
            if pair is not None:
                pair[1].close()
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        await asyncio.to_thread(shutil.rmtree, self.directory, True)


def binary() -> str:
    """QEMU's path. Raises VmError when it is not installed."""
    found = shutil.which(_BINARY.get(os.uname().machine, "none"))
    if found is None:
        raise VmError("QEMU is not installed: apt-get install qemu-system-x86")
    return found


async def _launch(shape: Shape, run: str, memory: str, private: bool, disks: list[str], incoming: bool) -> Machine:
    binary()
    directory = await asyncio.to_thread(tempfile.mkdtemp, dir=run)
    with open(f"{directory}/qemu.log", "wb") as log:
        process = await asyncio.create_subprocess_exec(
            *command(shape, directory, memory or f"{directory}/memory", private, disks, incoming),
            stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    return Machine(directory, process, shape)


async def boot(
    shape: Shape, run: str, memory: str = "", disks: list[str] | None = None, timeout: float = 60.0
) -> Machine:
    """Starts a machine from nothing and waits for its agent. `memory`: the file its memory is kept in. Raises VmError."""
    machine = await _launch(shape, run, memory, False, disks or [], incoming=False)
    try:
        await machine.ask({"op": "ping"}, timeout)
        return machine
    except BaseException:
        await machine.close()
        raise


async def restore(template: Template, run: str, disks: list[str] | None = None) -> Machine:
    """A new machine that goes on where the template was stopped, with memory of its own as far as it writes. Raises VmError.

    Its clock is set and its random numbers are made its own before it does anything else.
    """
    machine = await _launch(template.shape, run, template.memory, True, disks or [], incoming=True)
    try:
        await machine.qmp("migrate-set-capabilities", capabilities=[_CAPABILITY])
        await machine.qmp("migrate-incoming", uri=f"exec:cat {template.state}")
        await machine._until("completed")
        await machine.qmp("cont")
        await machine.ask({"op": "clock", "time": time.time(), "entropy": secrets.token_hex(32)})
        return machine
    except BaseException:
        await machine.close()
        raise


async def accelerator(shape: Shape, run: str) -> tuple[str, str]:
    """("kvm" or "tcg", why): KVM when a guest really boots under it, which an openable /dev/kvm does not promise."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg", "/dev/kvm can't be opened: guests run under software emulation"
    wanted = Shape(shape.kernel, shape.initramfs, shape.cpus, shape.memory, "kvm")
    try:
        machine = await boot(wanted, run, timeout=10.0)
    except VmError as error:
        return "tcg", f"/dev/kvm opens, but no guest boots under it ({str(error)[:200]}): software emulation"
    await machine.close()
    return "kvm", "guests run under KVM"
