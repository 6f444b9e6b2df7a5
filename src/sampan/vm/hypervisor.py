"""QEMU: what a machine is made of, and one process that runs it. Standard library only.

Everything it opens is given to it by descriptor, so that it needs no right to any path of the host.
"""

from __future__ import annotations

import os
import socket

from sampan.linux import tsc
from sampan.linux.syscall import ARCH
from sampan.record import field, record
from sampan.vm import jail
from sampan.vm.errors import VmError
from sampan.vm.qmp import Monitor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sampan.vm.machine_types import ShapeRow

    Command = Callable[[int, int, int], list[str]]

ACCELERATORS = ("tcg", "kvm")
SLOTS = 3  # network interfaces that a guest has, plugged in or not
MAC = "52:54:00:5a:00:{:02x}"  # of a slot, until the guest is somebody's: so the guest knows which is which
# A guest reads its disks' sizes when it boots, which is before it is somebody's: all are this large, and sparse.
DISK_SIZE = 64 << 30
# The image's; one with an empty file system that the guest has mounted when it becomes somebody's; one it has not.
DISKS = ("root", "fresh", "disk")


@record
class Shape:
    """What a machine is made of, and a template is for. `memory` in MiB; `kernel` and `initramfs` are paths."""

    kernel: str
    initramfs: str
    cpus: int = 1
    memory: int = 512
    accelerator: str = "tcg"

    def row(self) -> ShapeRow:
        """As a request has it: Shape(**row) is equal to it."""
        return {"kernel": self.kernel, "initramfs": self.initramfs, "cpus": self.cpus, "memory": self.memory,
                "accelerator": self.accelerator}  # fmt: skip


@record
class Parts:
    """The descriptors a machine is started with: memory, disks (-1: not used), a tap for each slot; and the
    directories and files of the host that the guest may mount."""

    memory: int
    root: int
    fresh: int
    disk: int
    taps: list[int]
    shares: list[jail.Share] = field(default_factory=list)


def binary(machine: str = "") -> str:
    """QEMU's path. Raises VmError when it is not installed."""
    name = {"x86_64": "qemu-system-x86_64", "aarch64": "qemu-system-aarch64"}.get(machine or os.uname().machine, "none")
    for directory in ("/usr/bin", "/usr/local/bin"):
        if os.access(f"{directory}/{name}", os.X_OK):
            return f"{directory}/{name}"
    raise VmError("QEMU is not installed: apt-get install qemu-system-x86")


def processor(accelerator: str) -> str:
    """QEMU's -cpu: all that there is but virtualization, so that no guest reaches KVM's (or QEMU's) code for guests of its own.

    The one of the two that the processor does not have is off already. QEMU's own has CPUID's 0x80000008, how many bits an
    address has, only where another leaf needs it, as that of svm does: without it Linux takes 48, also where it uses 57,
    and what reads its memory with care (copy_from_kernel_nofault) reads nothing: paths in /proc/self/mountinfo are "xxx".
    """
    model = "host" if accelerator == "kvm" else "max,min-xlevel=0x80000008"
    return f"{model},svm=off,vmx=off" if ARCH == "x86_64" else model.partition(",")[0]


def arguments(shape: Shape, parts: Parts, console: int, monitor: int, port: int, restored: bool) -> list[str]:
    """QEMU's arguments for a microvm. A restored one needs no kernel: it is in the memory already."""
    if shape.accelerator not in ACCELERATORS:
        raise VmError(f"no accelerator {shape.accelerator!r}")
    share = "off" if restored else "on"
    found = [
        "qemu", "-M", "microvm,x-option-roms=off,rtc=on,pit=on,pic=on,isa-serial=on,ioapic2=on,memory-backend=ram",
        "-accel", "tcg,thread=multi,tb-size=128" if shape.accelerator == "tcg" else shape.accelerator, "-cpu", processor(shape.accelerator),
        "-smp", str(shape.cpus), "-m", f"{shape.memory}M",
        "-object", f"memory-backend-file,id=ram,size={shape.memory}M,mem-path=/proc/self/fd/{parts.memory},share={share}",
        "-bios", "qboot.rom", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        "-chardev", f"socket,id=console,fd={console}", "-serial", "chardev:console",
        "-chardev", f"socket,id=monitor,fd={monitor}", "-mon", "chardev=monitor,mode=control",
        "-device", "virtio-serial-device", "-chardev", f"socket,id=port,fd={port}",
        "-device", "virtserialport,chardev=port,name=sampan.agent", "-device", "virtio-rng-device",
        "-device", "virtio-balloon-device,id=balloon,free-page-reporting=on,deflate-on-oom=on",
        "-fsdev", "local,id=shares,path=/shares,security_model=passthrough,multidevs=remap",
        "-device", "virtio-9p-device,fsdev=shares,mount_tag=shares",
    ]  # fmt: skip
    for number, fd in enumerate((parts.root, parts.fresh, parts.disk)):
        found += ["-drive", f"if=none,id=disk{number},{_backend(number, fd)}"]
        if fd >= 0:
            found += ["-add-fd", f"fd={fd},set={number}"]
        # No discard and no zeroing: both are the fallocate(2) that the jail makes a no-op.
        found += [
            "-device",
            f"virtio-blk-device,drive=disk{number},serial={DISKS[number]},discard=off,write-zeroes=off",
        ]
    for slot, fd in enumerate(parts.taps):
        found += ["-netdev", f"tap,id=net{slot},fd={fd}",
                  "-device", f"virtio-net-device,netdev=net{slot},mac={MAC.format(slot)}"]  # fmt: skip
    if restored:
        return [*found, "-incoming", "defer"]
    emulated = _emulated() if shape.accelerator == "tcg" else ""
    command_line = f"console=ttyS0 panic=-1 reboot=t random.trust_cpu=on quiet {emulated}rdinit=/init"
    return [*found, "-kernel", shape.kernel, "-initrd", shape.initramfs, "-append", command_line]


def _backend(number: int, fd: int) -> str:
    """Where a disk's blocks are. One that is not used reads as zeros and keeps nothing."""
    read_only = "on" if DISKS[number] == "root" else "off"
    if fd < 0:
        return f"driver=null-co,size={DISK_SIZE},read-zeroes=on,readonly={read_only}"
    return f"format=raw,readonly={read_only},auto-read-only=off,file=/dev/fdset/{number}"


def _emulated() -> str:
    """Kernel parameters for a guest of QEMU's own emulation: its counter's rate, and nothing against what it can't meet.

    The counter is the host's. Measuring it against an emulated timer fails now and then, and a kernel that has no rate
    hangs; one that checks it against such a timer finds it wrong on a busy host, and is then left with ticks, 250 a
    second, for its time. Spectre is of the processor that runs QEMU's translation, whatever the guest's kernel does.
    """
    always = "mitigations=off cryptomgr.notests "
    rate = tsc.rate()
    return always if rate is None else f"{always}tsc=nowatchdog tsc_early_khz={rate} lpj={rate * 4} "


class Machine:
    """A QEMU that is our child. Whoever makes one ends it by `end()`."""

    def __init__(self, user: int, command: Command, fds: list[int], shares: list[jail.Share], files: list[str]) -> None:
        """Starts QEMU in its jail with the arguments that `command(console, monitor, port)` gives for these descriptors.

        It also gets `fds`, and sees `shares` and `files` of the host. `user`: confine.identity(). Raises VmError.
        """
        path = binary()
        ours, theirs = socket.socketpair()
        self.port, port = socket.socketpair()
        self.console, console = socket.socketpair()
        self.errors, errors = socket.socketpair()
        errors.setblocking(False)  # a guest can make QEMU say a lot: what nobody has read by then is lost
        words = command(console.fileno(), theirs.fileno(), port.fileno())
        self.pid = os.fork()
        if self.pid == 0:
            try:
                for fd in (console.fileno(), theirs.fileno(), port.fileno(), *fds):
                    os.set_inheritable(fd, True)
                jail.enter(user, errors.fileno(), shares, files)
                os.execve(path, words, {"PATH": "/usr/bin:/bin"})
            except BaseException as error:
                errors.send(f"qemu: {error}\n".encode())
            finally:
                os._exit(127)
        for end in (theirs, port, console, errors):
            end.close()
        self._ended = False
        self._ours = ours
        self._monitor: Monitor | None = None

    @property
    def monitor(self) -> Monitor:
        """The connection to its monitor. Raises VmError."""
        if self._monitor is None:
            self._monitor = Monitor(self._ours)
        return self._monitor

    def wait(self) -> int:
        """The wait status of a QEMU that has closed its ends, and so is ending by itself."""
        self._ended = True
        return os.waitpid(self.pid, 0)[1]

    def end(self) -> None:
        """Kills it."""
        if not self._ended:
            self._ended = True
            os.kill(self.pid, 9)
            os.waitpid(self.pid, 0)
        for end in (self._ours, self.port, self.console, self.errors):
            end.close()


def microvm(user: int, shape: Shape, parts: Parts, restored: bool) -> Machine:
    """Starts a machine for a container: from a template's state, or to boot. Raises VmError."""
    disks = [fd for fd in (parts.root, parts.fresh, parts.disk) if fd >= 0]
    return Machine(
        user,
        lambda console, monitor, port: arguments(shape, parts, console, monitor, port, restored),
        [parts.memory, *disks, *parts.taps],
        parts.shares,
        [] if restored else [shape.kernel, shape.initramfs],
    )
