"""The kernel inside of a bzImage."""

from __future__ import annotations

import gzip
import lzma
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from sampan.vm import bzimage

ZEROS = bytes(3 << 20)


def elf(notes: list[tuple[bytes, int, bytes]]) -> bytes:
    """One for x86-64 with a segment of zeros and one of notes."""
    note = b"".join(
        struct.pack("<III", len(owner), len(data), kind) + owner.ljust(-(-len(owner) // 4) * 4, b"\0") + data
        for owner, kind, data in notes
    )
    table = 64 + 2 * 56
    head = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 2, 62, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0
    )
    load = struct.pack("<IIQQQQQQ", 1, 5, table + len(note), 0, 0, len(ZEROS), len(ZEROS), 4096)
    return head + load + struct.pack("<IIQQQQQQ", 4, 4, table, 0, 0, len(note), len(note), 4) + note + ZEROS + b"end"


ENTRY = (b"Xen\0", 18, b"\0\0\0\1")
KERNEL = elf([(b"GNU\0", 3, b"1234"), (b"Linux\0", 1, b"abcd"), ENTRY])


def image(packed: bytes, sectors: int = 3, offset: int = 100) -> bytes:
    """A bzImage as far as boot.rst says where its payload is."""
    data = bytearray((sectors + 1) * 512 + offset)
    data[0x1F1] = sectors
    data[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", data, 0x248, offset, len(packed))
    return bytes(data) + packed + b"what is behind it"


def sized(packed: bytes) -> bytes:
    """As the kernel's build packs it: with the unpacked size behind."""
    return packed + struct.pack("<I", len(KERNEL))


@pytest.mark.parametrize(
    "pack",
    [gzip.compress, lambda data: sized(lzma.compress(data)), lambda data: sized(zstandard.compress(data))],
    ids=["gzip", "xz", "zstd"],
)
def test_what_is_packed_is_found(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "vmlinuz-6.1.0"
    path.write_bytes(image(pack(KERNEL)))
    made = Path(bzimage.unpacked(str(path)))
    assert made == tmp_path / "vmlinux-6.1.0"
    assert made.read_bytes() == KERNEL
    assert made.stat().st_blocks * 512 < len(KERNEL), "holes for the zeros"
    before = made.stat()
    assert bzimage.unpacked(str(path)) == str(made)
    assert made.stat().st_mtime_ns == before.st_mtime_ns, "made once"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"MZ" + bytes(4000),
        image(b"a payload of whatever kind"),
        image(sized(lzma.compress(KERNEL))[:-20]),
        image(gzip.compress(elf([(b"Xen\0", 17, b"\0\0\0\1"), (b"GNU\0", 18, b"\0\0\0\1")]))),
        image(gzip.compress(b"no ELF")),
    ],
    ids=["empty", "another format", "unknown packing", "cut short", "no entry", "no ELF"],
)
def test_what_can_not_be_entered_stays_a_bzimage(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "vmlinuz-6.1.0"
    path.write_bytes(data)
    assert bzimage.unpacked(str(path)) == str(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["vmlinuz-6.1.0"]
