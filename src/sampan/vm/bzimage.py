"""The kernel inside of a bzImage, as an ELF that a hypervisor enters by itself (PVH).

A bzImage unpacks itself in the guest, which an emulated guest takes ten seconds for; the host does it once in one.
It also puts itself at a random address (KASLR): so under KVM, where unpacking costs nothing, guests boot the bzImage.
Sources: Documentation/arch/x86/boot.rst, elf(5), docs/misc/pvh.pandoc in Xen.
"""

from __future__ import annotations

import lzma
import os
import struct
import zlib
from collections.abc import Callable
from typing import Protocol

import zstandard

from sampan.linux import durable
from sampan.vm.errors import VmError


class _Decoder(Protocol):
    @property
    def eof(self) -> bool: ...

    def decompress(self, data: bytes, /) -> bytes: ...


_PIECE = 1 << 20
# By the first bytes. Without limits of memory: it is the distribution's kernel, for which `xz` takes what it likes.
_DECODERS: dict[bytes, Callable[[], _Decoder]] = {
    b"\x1f\x8b": lambda: zlib.decompressobj(31),
    b"\xfd7zXZ\x00": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ),
    b"\x28\xb5\x2f\xfd": lambda: zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj(),
}
_PT_NOTE, _PHYS32_ENTRY = 4, 18


def unpacked(image: str) -> str:
    """The path of the ELF beside the bzImage `image`, made if there is none yet; `image` where it holds none with a PVH entry.

    Raises VmError.
    """
    target = f"{os.path.dirname(image)}/vmlinux{os.path.basename(image).removeprefix('vmlinuz')}"
    if os.path.exists(target):
        return target
    try:
        with open(image, "rb") as file:
            kernel = payload(file.read())
        if not has_pvh(kernel):
            return image
        _write(target, kernel)
    except OSError as error:
        raise VmError(f"the kernel can't be unpacked: {error}") from None
    return target


def payload(data: bytes) -> bytes:
    """What a bzImage unpacks in memory; nothing where there is none that we can read."""
    if data[0x202:0x206] != b"HdrS" or len(data) < 0x250:
        return b""
    sectors, (offset, size) = data[0x1F1] or 4, struct.unpack_from("<II", data, 0x248)  # payload_offset, payload_length
    begin = (sectors + 1) * 512 + offset
    packed = data[begin : begin + size]  # the unpacked size may follow, which no decoder reads
    decoder = next((make() for magic, make in _DECODERS.items() if packed.startswith(magic)), None)
    if decoder is None:
        return b""
    try:
        found = decoder.decompress(packed)
        return found if decoder.eof else b""
    except (lzma.LZMAError, zlib.error, zstandard.ZstdError):
        return b""


def has_pvh(kernel: bytes) -> bool:
    """Whether an ELF for x86-64 says where a hypervisor enters it: a note of Xen's with the type PHYS32_ENTRY."""
    if kernel[:5] != b"\x7fELF\x02" or len(kernel) < 64:
        return False
    (table,), (width, count) = struct.unpack_from("<Q", kernel, 32), struct.unpack_from("<HH", kernel, 54)
    for number in range(count):
        kind, _, offset, _, _, size = struct.unpack_from("<IIQQQQ", kernel, table + number * width)
        if kind == _PT_NOTE and any(
            note == (b"Xen\0", _PHYS32_ENTRY) for note in _notes(kernel[offset : offset + size])
        ):
            return True
    return False


def _notes(data: bytes) -> list[tuple[bytes, int]]:
    """(owner, type) of each."""
    found, at = [], 0
    while at + 12 <= len(data):
        name, size, kind = struct.unpack_from("<III", data, at)
        found.append((data[at + 12 : at + 12 + name], kind))
        at += 12 + -(-name // 4) * 4 + -(-size // 4) * 4
    return found


def _write(path: str, kernel: bytes) -> None:
    """With holes: a third of it is where the kernel's zeros come to be."""
    with durable.writing(path, 0o644) as file:
        file.truncate(len(kernel))
        for begin in range(0, len(kernel), _PIECE):
            piece = kernel[begin : begin + _PIECE]
            if piece.count(0) != len(piece):
                file.seek(begin)
                file.write(piece)
