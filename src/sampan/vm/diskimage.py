"""What the first bytes of a disk's file say: its format, and whether it stands alone.

Read before any program sees the file: disks from elsewhere may name files of the host as what lies below them or as where
their content is (T53). Which format a file has is decided here and told to the programs, which then don't guess.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

from sampan.vm.errors import BadDisk

Read = Callable[[int, int], bytes]  # (where, how many bytes)

LARGEST = 16 << 40  # bytes that a guest may see: as large as ext4's largest file
_MOST_TEXT = 64 << 10
_EXTENT = re.compile(r'\s*(?:RW|RDONLY|NOACCESS)\s+\d+\s+(\w+)(?:\s+"([^"]*)")?')
# Formats that QEMU would know and we do not: each can refer to other files, or needs a secret.
_OTHERS = (
    (0, b"QED\0", "QED"),
    (0, b"LUKS\xba\xbe", "LUKS"),
    (0, b"WithoutFreeSpace", "Parallels"),
    (0, b"WithouFreSpacExt", "Parallels"),
    (0, b"COWD", "VMware's COW"),
    (0, b"conectix", "VHD (the old format)"),
    (0, b"Bochs Virtual HD Image", "Bochs"),
    (0, b"#!/bin/sh\n#V2.0 Format", "cloop"),
    (0, b"OOOM\0", "UML COW"),
)


def examine(read: Read, name: str) -> str:
    """The format of a disk ("raw" when it is none that is known). Raises BadDisk for one that refers to another file."""
    head = read(0, 512)
    if head[:4] == b"QFI\xfb":
        _qcow2(head, read, name)
        return "qcow2"
    if head[:4] == b"KDMV":
        _vmdk(head, read, name)
        return "vmdk"
    if head[64:68] == b"\x7f\x10\xda\xbe":
        _vdi(head, name)
        return "vdi"
    if head[:8] == b"vhdxfile":
        return "vhdx"  # one with a parent is refused by qemu-img itself
    if re.match(rb"\s*#\s*Disk Descriptor\s*File", head, re.IGNORECASE):
        raise _refers(name, "it is a description of files that lie beside it: give the whole disk in one file")
    for where, magic, form in _OTHERS:
        if head[where : where + len(magic)] == magic:
            raise BadDisk(f"{name} is a disk in the format {form}: convert it to qcow2, raw, vmdk, vdi or vhdx")
    return "raw"


def check_size(size: int, name: str) -> int:
    """The size that a guest would see. Raises BadDisk when no disk is that large."""
    if not 0 < size <= LARGEST:
        raise BadDisk(f"{name} says that it is a disk of {size} bytes: {LARGEST} at most")
    return size


def _refers(name: str, how: str) -> BadDisk:
    return BadDisk(f"{name} refers to another file, which is not read: {how}")


def _qcow2(head: bytes, read: Read, name: str) -> None:
    """The header of qcow2 (docs/interop/qcow2.txt in QEMU)."""
    if len(head) < 72:
        raise BadDisk(f"{name} is damaged: its qcow2 header is cut short")
    version, backing, backing_size, cluster_bits, size, crypt, l1_size = struct.unpack_from(">IQIIQII", head, 4)
    if version not in (2, 3):
        raise BadDisk(f"{name} is qcow2 of version {version}: 2 and 3 are known")
    if backing or backing_size:
        raise _refers(name, "it has a backing file: convert it to one that stands alone")
    if crypt:
        raise BadDisk(f"{name} is encrypted: decrypt it first, there is nothing here to ask for its key")
    check_size(size, name)
    if not 9 <= cluster_bits <= 21 or l1_size > 32 << 20 >> 3:
        raise BadDisk(f"{name} is damaged: its tables can't be as large as its header says")
    length = 72
    if version == 3:
        if len(head) < 104:
            raise BadDisk(f"{name} is damaged: its qcow2 header is cut short")
        features, length = struct.unpack_from(">Q", head, 72)[0], struct.unpack_from(">I", head, 100)[0]
        if features & 4:
            raise _refers(name, "its content is in an external data file: convert it to one that stands alone")
        if features & ~0x1F:
            raise BadDisk(f"{name} has features that are not known here: {features:#x}")
    _extensions(read, length, name)


def _extensions(read: Read, where: int, name: str) -> None:
    """The header extensions, of which one names an external data file and one has keys."""
    for _ in range(64):
        row = read(where, 8)
        if len(row) < 8:
            return
        kind, size = struct.unpack(">II", row)
        if kind == 0:
            return
        if kind == 0x44415441:
            raise _refers(name, "it names an external data file: convert it to one that stands alone")
        if kind == 0x0537BE77:
            raise BadDisk(f"{name} is encrypted: decrypt it first, there is nothing here to ask for its key")
        if size > _MOST_TEXT:
            raise BadDisk(f"{name} is damaged: a header extension of {size} bytes")
        where += 8 + -(-size // 8) * 8
    raise BadDisk(f"{name} is damaged: it has too many header extensions")


def _vmdk(head: bytes, read: Read, name: str) -> None:
    """The header of a sparse extent and the description in it (Virtual Disk Format 5.0, VMware)."""
    if len(head) < 512:
        raise BadDisk(f"{name} is damaged: its VMDK header is cut short")
    capacity, _, place, count = struct.unpack_from("<QQQQ", head, 12)
    if not capacity:  # then it is read for its description only
        raise _refers(name, "it has nothing but the description of other files")
    check_size(capacity * 512, name)
    if not place or not count:
        return
    if count * 512 > _MOST_TEXT or place > LARGEST // 512:
        raise BadDisk(f"{name} is damaged: its description has {count} sectors")
    text = read(place * 512, count * 512).split(b"\0")[0].decode("latin-1")
    for line in text.splitlines():
        key, _, value = line.partition("=")
        key, value = key.strip().lower(), value.strip().strip('"')
        if key == "createtype" and value.lower() not in ("monolithicsparse", "streamoptimized"):
            raise _refers(
                name, f"it is a VMDK of the type {value[:40]}: give one that is monolithicSparse or streamOptimized"
            )
        if key == "parentfilenamehint" or (key == "parentcid" and value.lower() != "ffffffff"):
            raise _refers(name, "it is the difference to another disk: consolidate it first")
    extents = [match for line in text.splitlines() if (match := _EXTENT.match(line))]
    if len(extents) > 1 or any(match[1].upper() != "SPARSE" for match in extents):
        raise _refers(name, "its description names extents in other files")


def _vdi(head: bytes, name: str) -> None:
    """The header of VDI (block/vdi.c in QEMU)."""
    if len(head) < 456:
        raise BadDisk(f"{name} is damaged: its VDI header is cut short")
    kind, size = struct.unpack_from("<I", head, 76)[0], struct.unpack_from("<Q", head, 368)[0]
    if kind not in (1, 2):
        raise _refers(name, "it is the difference to another disk (VDI of a type other than dynamic or fixed)")
    if head[424:456].strip(b"\0"):  # uuid_link, uuid_parent
        raise _refers(name, "it has a parent: give one that stands alone")
    check_size(size, name)
