"""An ordinary PC in QEMU, for operating systems that have a boot loader and drivers of their own. Standard library only."""

from __future__ import annotations

import os
import socket

from sampan.record import record
from sampan.vm.errors import VmError
from sampan.vm.hypervisor import ACCELERATORS, Machine, processor

BUSES = ("virtio", "sata", "ide")
_FORMS = ("qcow2",)


@record
class Pc:
    """What it is made of. `memory` in MiB; `interfaces`: the MACs of the network interfaces, in order."""

    cpus: int
    memory: int
    accelerator: str
    form: str
    bus: str
    interfaces: list[str]


def arguments(pc: Pc, disk: int, seed: int, taps: list[int], qga: int, ends: tuple[int, int, int]) -> list[str]:
    """QEMU's arguments. `disk` and `seed`: descriptors of the disk and of the CD with what the guest is to be.

    `qga`: our end's other end for QEMU's guest agent; `ends`: those of console, monitor and Sampan's agent.
    """
    if pc.bus not in BUSES or pc.form not in _FORMS or pc.accelerator not in ACCELERATORS:
        raise VmError(f"no machine with {pc.bus} for its disk, {pc.form} and {pc.accelerator}")
    console, monitor, port = ends
    device = {"virtio": "virtio-blk-pci", "sata": "ide-hd", "ide": "ide-hd"}[pc.bus]
    found = [
        "qemu", "-M", "pc" if pc.bus == "ide" else "q35", "-accel", "tcg,thread=multi,tb-size=256" if pc.accelerator == "tcg" else pc.accelerator,
        "-cpu", processor(pc.accelerator), "-smp", str(pc.cpus), "-m", f"{pc.memory}M",
        "-nodefaults", "-no-user-config", "-display", "none", "-device", "VGA,vgamem_mb=8",
        "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny", "-rtc", "base=utc,clock=host",
        "-chardev", f"socket,id=console,fd={console}", "-serial", "chardev:console",
        "-chardev", f"socket,id=monitor,fd={monitor}", "-mon", "chardev=monitor,mode=control",
        "-device", "virtio-serial-pci", "-chardev", f"socket,id=port,fd={port}", "-device", "virtserialport,chardev=port,name=sampan.agent",
        "-chardev", f"socket,id=qga,fd={qga}", "-device", "virtserialport,chardev=qga,name=org.qemu.guest_agent.0",
        "-device", "virtio-rng-pci",
        "-add-fd", f"fd={disk},set=0", "-drive", f"if=none,id=disk,format={pc.form},auto-read-only=off,file=/dev/fdset/0",
        "-device", f"{device},drive=disk,bootindex=0",
        "-add-fd", f"fd={seed},set=1", "-drive", "if=none,id=seed,format=raw,readonly=on,media=cdrom,auto-read-only=off,file=/dev/fdset/1",
        # A SATA disk has a bus to itself; of an IDE bus the CD is the second device.
        "-device", "ide-cd,drive=seed,bus=ide.1" if pc.bus == "sata" else "ide-cd,drive=seed",
    ]  # fmt: skip
    for number, (fd, mac) in enumerate(zip(taps, pc.interfaces, strict=True)):
        if not is_mac(mac):
            raise VmError(f"{mac!r} is no MAC address")
        found += [
            "-netdev",
            f"tap,id=net{number},fd={fd}",
            "-device",
            f"virtio-net-pci,netdev=net{number},mac={mac},romfile=",
        ]
    return found


def is_mac(text: str) -> bool:
    """Whether it is six pairs of hexadecimal digits: an option of QEMU's ends at a comma."""
    pairs = text.split(":")
    return len(pairs) == 6 and all(len(pair) == 2 and set(pair) <= set("0123456789abcdefABCDEF") for pair in pairs)


def start(user: int, pc: Pc, disk: int, seed: int, taps: list[int]) -> tuple[Machine, socket.socket]:
    """Starts one; the socket leads to QEMU's guest agent. `user`: confine.identity(). Raises VmError."""
    ours, theirs = socket.socketpair()
    with theirs:
        qga = theirs.fileno()
        machine = Machine(
            user,
            lambda *ends: arguments(pc, disk, seed, taps, qga, ends),
            [disk, seed, qga, *taps],
            [],
            [path for path in ("/usr/share/seabios", "/usr/share/qemu") if os.path.isdir(path)],
        )
    return machine, ours
