"""Layers come plain, gzip or zstd: told by their first bytes, never by their name."""

from __future__ import annotations

import importlib
import io
import zlib
from typing import IO, Any, cast

import zstandard

from sampan.images.errors import ImageError

_gzip: Any
try:
    _gzip = importlib.import_module("isal.igzip")
except ImportError:  # pragma: no cover - other architectures
    _gzip = importlib.import_module("gzip")

# A window above 128 MiB only serves to exhaust memory (S020); zstd's own limit without --long.
_MAX_WINDOW = 128 << 20


def decompress(stream: IO[bytes]) -> IO[bytes]:
    """A readable stream of the decompressed bytes. `stream` must be seekable or a buffered reader."""
    head = _peek(stream)
    if head[:2] == b"\x1f\x8b":
        return cast(IO[bytes], _gzip.open(stream, "rb"))
    if head[:4] == b"\x28\xb5\x2f\xfd" or (head[1:4] == b"\x2a\x4d\x18" and 0x50 <= head[0] <= 0x5F):
        reader = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW).stream_reader(stream, read_across_frames=True)
        return io.BufferedReader(reader, 1 << 20)
    if head[:3] == b"BZh":
        import bz2

        return bz2.open(stream, "rb")
    if head[:6] == b"\xfd7zXZ\x00":
        import lzma

        return lzma.open(stream, "rb")
    return stream


def _peek(stream: IO[bytes]) -> bytes:
    if isinstance(stream, io.BufferedReader):
        return stream.peek(8)[:8]
    position = stream.tell()
    head = stream.read(8)
    stream.seek(position)
    return head


ERRORS = (EOFError, zlib.error, zstandard.ZstdError, OSError, ImageError)
