"""A disk that any hypervisor with a BIOS boots: GRUB, a kernel, and a file system with an image's files.

Made from files only: no loop device, no mount, nothing of the image is run.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import tempfile
from typing import Any

from sampan.linux import mount
from sampan.vm import mounted
from sampan.vm.errors import VmError
from sampan.vm.kernel import Kernel

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


def build(
    target: str, lower: list[str], kernel: Kernel, initramfs: str, settings: dict[str, Any], size: int = 0
) -> None:
    """Writes the raw disk `target`, sparse, of `size` bytes or as large as its files need twice over.

    `lower`: the directories of the image, the topmost first. `settings`: what `appliance` does with it.
    Raises VmError.
    """
    for program, package in (("grub-mkimage", "grub-common"), ("mke2fs", "e2fsprogs")):
        if shutil.which(program) is None:
            raise VmError(f"{program} is missing: apt-get install {package}")
    if not os.path.exists(f"{_GRUB}/boot.img"):
        raise VmError("GRUB for BIOS machines is missing: apt-get install grub-pc-bin")
    with tempfile.TemporaryDirectory(dir=os.path.dirname(target)) as work:
        extra = f"{work}/extra"
        os.makedirs(f"{extra}/boot/grub", 0o755)
        os.chmod(extra, 0o755)
        os.mkdir(f"{work}/tree")
        shutil.copyfile(kernel.image, f"{extra}/boot/vmlinuz")
        shutil.copyfile(initramfs, f"{extra}/boot/initrd")
        _write(f"{extra}/boot/sampan.json", json.dumps(settings))
        _write(f"{extra}/boot/grub/grub.cfg", _CONFIG.format(label=_LABEL))
        for name in ("proc", "sys", "dev", "run", "tmp"):
            os.makedirs(f"{extra}/{name}", 0o1777 if name == "tmp" else 0o755, exist_ok=True)
        os.chmod(f"{extra}/tmp", 0o1777)
        tree = mount.overlay([extra, *lower], None, None)
        try:
            used = int(mounted.run(tree, f"{work}/tree", ["du", "-s", "-B1", "--apparent-size", "."]).split()[0])
            size = max(size, used + used // 4 + (64 << 20)) if size else max(2 * used, 1 << 30)
            size = -(-size // (1 << 20)) * (1 << 20)
            with open(target, "wb") as file:
                file.truncate(size)
            offset = f"offset={_FIRST * _SECTOR},lazy_itable_init=1,nodiscard"
            blocks = (size - _FIRST * _SECTOR) // 1024
            mounted.run(tree, f"{work}/tree", ["mke2fs", "-q", "-t", "ext4", "-O", "^metadata_csum_seed,^orphan_file", "-F", "-L", _LABEL, "-E", offset, "-d", f"{work}/tree",
                                               target, f"{blocks}k"])  # fmt: skip
        finally:
            os.close(tree)
        _install_grub(work, target, size)


def _install_grub(work: str, target: str, size: int) -> None:
    """What grub-bios-setup does: the first stage and the second in front of the partition (boot.S, diskboot.S in GRUB)."""
    _run(["grub-mkimage", "-O", "i386-pc", "-p", "(hd0,msdos1)/boot/grub", "-o", f"{work}/core.img", *_MODULES])
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


def convert(source: str, target: str, form: str, source_form: str = "") -> None:
    """Writes a disk in another format. Raises VmError."""
    options = ["-o", "subformat=streamOptimized"] if form == "vmdk-stream" else []
    form = "vmdk" if form == "vmdk-stream" else form
    given = ["-f", source_form] if source_form else []
    _run(["qemu-img", "convert", *given, "-O", form, *options, source, target])


def detect(path: str) -> tuple[str, int]:
    """(format, bytes that a guest sees) of a disk. Raises VmError for one with another below it: that could be any file."""
    found = json.loads(_run(["qemu-img", "info", "--output=json", path]))
    if found.get("backing-filename") or (found.get("format-specific") or {}).get("data", {}).get("data-file"):
        raise VmError(f"{os.path.basename(path)} refers to another file: convert it to one that stands alone")
    return str(found["format"]), int(found["virtual-size"])


def resize(path: str, size: int) -> None:
    """Makes a qcow2 larger. Raises VmError."""
    _run(["qemu-img", "resize", "-f", "qcow2", path, str(size)])


def snapshot(path: str, flag: str, name: str) -> None:
    """Makes (-c), goes back to (-a) or deletes (-d) a snapshot in a qcow2 that nobody uses. Raises VmError."""
    _run(["qemu-img", "snapshot", flag, name, path])


def snapshots(path: str) -> list[dict[str, Any]]:
    """Name, time (seconds since the epoch) and whether it has memory, of each snapshot in a qcow2."""
    found = json.loads(_run(["qemu-img", "info", "-U", "-f", "qcow2", "--output=json", path]))
    return [
        {"name": row["name"], "time": row["date-sec"], "memory": row["vm-state-size"] > 0}
        for row in found.get("snapshots") or []
    ]


def _run(command: list[str]) -> str:
    if shutil.which(command[0]) is None:
        raise VmError(f"{command[0]} is missing: apt-get install qemu-utils e2fsprogs grub-common")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise VmError(f"{command[0]}: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout
