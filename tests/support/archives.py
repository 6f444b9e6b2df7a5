"""Tar archives byte by byte, as somebody writes them who does not mean well; small ones that unpack to much."""

from __future__ import annotations

import gzip
import lzma

import zstandard


def header(
    name: bytes = b"x", size: bytes = b"00000000000", kind: bytes = b"0", extra: dict[int, bytes] | None = None
) -> bytes:
    """A header as somebody writes it who does not mean well."""
    block = bytearray(512)
    block[0 : len(name)] = name
    block[100:108] = b"0000644\0"
    block[108:116] = block[116:124] = b"0000000\0"
    block[124 : 124 + len(size)] = size
    block[136:147] = b"00000000000"
    block[156:157] = kind
    block[257:265] = b"ustar\x0000"
    for at, data in (extra or {}).items():
        block[at : at + len(data)] = data
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def base256(value: int, length: int = 12) -> bytes:
    """A number as GNU tar writes those that octal digits have no room for."""
    return bytes([0x80 if value >= 0 else 0xFF]) + value.to_bytes(length - 1, "big", signed=True)


def record(key: str, value: bytes) -> bytes:
    """A record of a pax header."""
    body = b" " + key.encode() + b"=" + value + b"\n"
    length = len(body)
    while len(str(length)) + len(body) != length:
        length = len(str(length)) + len(body)
    return str(length).encode() + body


def pax(*records: bytes) -> bytes:
    """A pax header of these records, for the entry that follows."""
    data = b"".join(records)
    return header(b"pax", b"%011o" % len(data), b"x") + data + bytes(-len(data) % 512)


END = bytes(1024)


def bomb(kind: str) -> bytes:
    """The begin of 64 GiB of zeros in a tar, in some kilobytes."""
    plain = header(b"zeros", base256(64 << 30))
    block = bytes(4 << 20)
    if kind == "gzip":
        return gzip.compress(plain + block * 4, 1)
    if kind == "zstd":
        return zstandard.ZstdCompressor(level=3).compress(plain + block * 4)
    if kind == "zstd window":
        return b"\x28\xb5\x2f\xfd\x00\xa8" + bytes(100)  # RFC 8878, 3.1.1.1.2: 2^31
    return lzma.compress(plain + block * 4, preset=0)


def many_directories(count: int, length: int) -> bytes:
    """Directories in a directory of a long name: small when compressed, and much to remember."""
    top = "/".join(["d" * 250] * (length // 251))
    rows = [header(b"l", b"%011o" % (len(top) + 9), b"L") + f"{top}/{number:07}\0".encode().ljust(-(-(len(top) + 9) // 512) * 512, b"\0")
            + header(b"x", kind=b"5") for number in range(count)]  # fmt: skip
    return b"".join(rows) + END
