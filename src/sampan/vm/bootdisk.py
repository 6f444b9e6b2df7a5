"""A disk that any hypervisor with a BIOS boots: GRUB, a kernel, and a file system with an image's files.

Made from files only: no loop device, no mount, nothing of the image is run.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import tempfile
from typing import TYPE_CHECKING, TypedDict

from sampan.linux import mount
from sampan.vm import diskimage, tools
from sampan.vm.errors import BadDisk, VmError
from sampan.vm.kernel import Kernel

if TYPE_CHECKING:
    from sampan.vm.machine_types import DiskSettings

_GRUB = "/usr/lib/grub/i386-pc"
_SECTOR, _FIRST = 512, 2048  # where the partition begins, in sectors: GRUB's second stage is in front of it
_LABEL = "sampan-root"
_MODULES = ["biosdisk", "part_msdos", "ext2", "normal", "linux", "serial", "terminal", "configfile"]
_CONFIG = """\
serial --unit=0 --speed=115200
terminal_output serial console
linux /boot/vmlinuz console=tty0 console=ttyS0,115200 quiet panic=10 sampan.root={label}
initrd /boot/initrd
boot
"""
FORMATS = ("raw", "qcow2", "vmdk", "vdi", "vhdx", "ova")


def build(target: str, lower: list[str], kernel: Kernel, initramfs: str, settings: DiskSettings, size: int = 0) -> None:
    """Writes the raw disk `target`, sparse, of `size` bytes or as large as its files need twice over.

    `lower`: the directories of the image, the topmost first. `settings`: what `appliance` does with it.
    Raises VmError.
    """
    for program in ("grub-mkimage", "mke2fs"):
        tools.need(program)
    if not os.path.exists(f"{_GRUB}/boot.img"):
        raise VmError("GRUB for BIOS machines is missing: apt-get install grub-pc-bin")
    with tempfile.TemporaryDirectory(dir=os.path.dirname(target)) as work:
        extra = f"{work}/extra"
        os.makedirs(f"{extra}/boot/grub", 0o755)
        os.chmod(extra, 0o755)
        shutil.copyfile(kernel.image, f"{extra}/boot/vmlinuz")
        shutil.copyfile(initramfs, f"{extra}/boot/initrd")
        _write(f"{extra}/boot/sampan.json", json.dumps(settings))
        _write(f"{extra}/boot/grub/grub.cfg", _CONFIG.format(label=_LABEL))
        for name in ("proc", "sys", "dev", "run", "tmp"):
            os.makedirs(f"{extra}/{name}", 0o1777 if name == "tmp" else 0o755, exist_ok=True)
        os.chmod(f"{extra}/tmp", 0o1777)
        tree = mount.overlay([extra, *lower], None, None)
        try:
            used = int(tools.run(["du", "-s", "-B1", "--apparent-size", "/tree"], tree=tree).split()[0])
            size = max(size, used + used // 4 + (64 << 20)) if size else max(2 * used, 1 << 30)
            size = -(-diskimage.check_size(size, "the disk") // (1 << 20)) * (1 << 20)
            _empty(target, size)
            offset = f"offset={_FIRST * _SECTOR},lazy_itable_init=1,nodiscard"
            blocks = (size - _FIRST * _SECTOR) // 1024
            tools.run(["mke2fs", "-q", "-t", "ext4", "-O", "^metadata_csum_seed,^orphan_file", "-F", "-L", _LABEL, "-E", offset, "-d", "/tree",
                       "/disk", f"{blocks}k"], writable={"/disk": target}, tree=tree, limit=tools.seconds(2 * used))  # fmt: skip
        finally:
            os.close(tree)
        _install_grub(work, target, size)


def _install_grub(work: str, target: str, size: int) -> None:
    """What grub-bios-setup does: the first stage and the second in front of the partition (boot.S, diskboot.S in GRUB)."""
    _empty(f"{work}/core.img")
    make = ["grub-mkimage", "-O", "i386-pc", "-p", "(hd0,msdos1)/boot/grub", "-o", "/core.img", *_MODULES]
    tools.run(make, writable={"/core.img": f"{work}/core.img"})
    with open(f"{_GRUB}/boot.img", "rb") as file:
        boot = bytearray(file.read(_SECTOR).ljust(_SECTOR, b"\0"))
    with open(f"{work}/core.img", "rb") as file:
        core = bytearray(file.read())
    sectors = -(-len(core) // _SECTOR)
    if sectors >= _FIRST:
        raise VmError("GRUB's second stage does not fit in front of the partition")
    struct.pack_into("<Q", boot, 0x5C, 1)  # the second stage's first sector
    boot[0x66:0x68] = b"\x90\x90"  # whatever drive the BIOS says that it is
    struct.pack_into("<QHH", core, 0x1F4, 2, sectors - 1, 0x820)  # the second stage's other sectors
    boot[0x1BE:0x1FE] = bytes(64)  # where the first stage has code for floppies
    rest = size // _SECTOR - _FIRST
    struct.pack_into(
        "<B3sB3sII", boot, 0x1BE, 0x80, b"\xfe\xff\xff", 0x83, b"\xfe\xff\xff", _FIRST, min(rest, 0xFFFFFFFF)
    )
    struct.pack_into("<I", boot, 0x1B8, int.from_bytes(os.urandom(4), "little"))
    boot[0x1FE:] = b"\x55\xaa"
    with open(target, "r+b") as file:
        file.write(boot)
        file.write(core)


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def _empty(path: str, size: int = 0) -> None:
    """A new file for nobody but us, for a program to write."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(fd, size)
    finally:
        os.close(fd)


def convert(source: str | int, target: str, form: str, source_form: str) -> None:
    """Writes a disk in another format. `source`: a path of the engine's own, or a descriptor. Raises VmError."""
    options = ["-o", "subformat=streamOptimized"] if form == "vmdk-stream" else []
    form = "vmdk" if form == "vmdk-stream" else form
    _empty(target)
    size = (os.stat(source) if isinstance(source, str) else os.fstat(source)).st_size
    seen = 0
    if form == "raw":  # the only format whose files are as large as what a guest sees, whatever they take of the disk
        seen = size if source_form == "raw" else capacity(source, source_form, "the disk")
    command = ["qemu-img", "convert", "-f", source_form, "-O", form, *options, "/source", "/target"]
    limit = tools.seconds(2 * size)
    tools.run(command, {"/source": source}, {"/target": target}, limit=limit, largest=seen)


def take(source: int, name: str, target: str) -> int:
    """Makes a qcow2 of a disk in whatever format, which need not be what it says. Returns the bytes that a guest sees.

    Raises BadDisk for one that refers to another file, and for what is none.
    """
    form = diskimage.examine(lambda where, count: os.pread(source, count, where), name)
    size = os.fstat(source).st_size if form == "raw" else capacity(source, form, name)
    diskimage.check_size(size, name)
    convert(source, target, "qcow2", form)
    return size


def capacity(source: str | int, form: str, name: str) -> int:
    """The bytes that a guest sees of a disk that stands alone. Raises BadDisk."""
    try:
        text = tools.run(["qemu-img", "info", "-f", form, "--output=json", "/source"], {"/source": source})
    except VmError as error:
        raise BadDisk(f"{name} can't be read as a disk in the format {form}: {error}") from None
    found = json.loads(text)
    specific = (found.get("format-specific") or {}).get("data", {})
    extents = [row.get("filename", "/source") for row in specific.get("extents") or []]
    if found.get("backing-filename") or specific.get("data-file") or any(each != "/source" for each in extents):
        raise BadDisk(f"{name} refers to another file, which is not read: convert it to one that stands alone")
    if found.get("encrypted"):
        raise BadDisk(f"{name} is encrypted: decrypt it first, there is nothing here to ask for its key")
    return int(found["virtual-size"])


def resize(path: str, size: int) -> None:
    """Makes a qcow2 larger. Raises VmError."""
    command = ["qemu-img", "resize", "-f", "qcow2", "/disk", str(diskimage.check_size(size, "the disk"))]
    tools.run(command, writable={"/disk": path})


def snapshot(path: str, flag: str, name: str) -> None:
    """Makes (-c), goes back to (-a) or deletes (-d) a snapshot in a qcow2 that nobody uses. Raises VmError."""
    limit = tools.seconds(os.stat(path).st_size)
    tools.run(["qemu-img", "snapshot", flag, name, "/disk"], writable={"/disk": path}, limit=limit)


class Snapshot(TypedDict):
    """One of a disk: `time` in seconds since 1970; whether it has memory, too."""

    name: str
    time: int
    memory: bool


def snapshots(path: str) -> list[Snapshot]:
    """The snapshots in a qcow2."""
    found = json.loads(tools.run(["qemu-img", "info", "-U", "-f", "qcow2", "--output=json", "/disk"], {"/disk": path}))
    return [
        {"name": row["name"], "time": row["date-sec"], "memory": row["vm-state-size"] > 0}
        for row in found.get("snapshots") or []
    ]
