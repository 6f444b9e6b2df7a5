"""Types of what a machine's process, and its guest, are started with: their part of runtime.requests.Launch or Join.

Type checkers alone import this: at run time these are plain dicts, as they came out of JSON.
"""

from __future__ import annotations

from typing import TypedDict

from sampan.runtime.requests import Common, Launch


class Interface(TypedDict):
    """A network interface that a guest is to have, in the slot of that number (engine.machines.interface)."""

    slot: int
    name: str
    mac: str
    mtu: int
    addresses: list[str]
    gateways: list[str]
    ipv6: bool


class Belongings(TypedDict, total=False):
    """What makes a guest somebody's: its file systems, its network, small files."""

    persistent: bool  # its disk outlives it
    writable: str  # where what the container writes goes: "fresh", "disk" or "memory"
    size: int  # bytes of that, 0: no limit
    new: bool  # nothing has been written yet
    shares: bool  # the host shares files
    files: dict[str, str]
    interfaces: list[Interface]
    names: bool  # it has a name server at 127.0.0.11


class ShareRow(TypedDict, total=False):
    """A directory or file of the host that the guest may mount (jail.Share). `source_fd`: the engine's descriptor of it. `follow`:
    mounts below it come and go in the guest, too."""

    name: str
    path: str
    read_only: bool
    follow: bool
    source_fd: int


class ShapeRow(TypedDict):
    """hypervisor.Shape"""

    kernel: str
    initramfs: str
    cpus: int
    memory: int
    accelerator: str


class PcRow(TypedDict):
    """qemu_pc.Pc"""

    cpus: int
    memory: int
    accelerator: str
    form: str
    bus: str
    interfaces: list[str]


class Inner(Common, total=False):
    """What is asked of the guest: a container to start; or, without a spec, `cwd` to be made in files that are worked on."""

    op: str
    cwd: str


class ExecRequest(Common, total=False):
    """For exec_shim: a further process in the guest behind the socket `control`. `filter`: confine.compiled()."""

    control: str
    filter: str


class MachineRequest(ExecRequest, total=False):
    """For microvm_shim. `console` and `report` are paths of files that it writes."""

    shape: ShapeRow
    shares: list[ShareRow]
    guest: Belongings
    inner: Inner
    console: str
    report: str
    boot: bool  # anew, and not from a template


class SystemRequest(ExecRequest, total=False):
    """For system_vm_shim."""

    pc: PcRow
    console: str
    hostname: str
    interfaces: list[Interface]
    names: bool  # there is a name server of ours
    servers: list[str]


class DiskSettings(TypedDict, total=False):
    """/boot/sampan.json of a disk of ours: what it does when it boots. `mode`: "init", the guest's own at the path `init`; or
    "command", which is `request`, a container on the console."""

    mode: str
    init: str
    request: Launch
