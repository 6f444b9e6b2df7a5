"""Layers come plain, gzip or zstd: told by their first bytes, never by their name. Unpacking has limits of memory."""

from __future__ import annotations

import contextlib
import importlib
import io
import lzma
import os
import zlib
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any, Protocol, cast

import zstandard

from sampan.images.errors import ImageError, StoreFull

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_gzip: Any
_gzip_error: type[Exception]
try:
    _gzip = importlib.import_module("isal.igzip")
    _gzip_error = importlib.import_module("isal.igzip_lib").IsalError
except ImportError:  # pragma: no cover - other architectures
    _gzip = importlib.import_module("gzip")
    _gzip_error = zlib.error

# A larger window only serves to exhaust memory (S020): 8 MiB is what every reader has to have (RFC 8878), 32 are level 20.
_MAX_WINDOW = 32 << 20
_MAX_XZ = 80 << 20  # what `xz -9` needs is 65 MiB


def decompress(stream: IO[bytes]) -> IO[bytes]:
    """A readable stream of the decompressed bytes. `stream` must be seekable or a buffered reader."""
    head = _peek(stream)
    if head[:2] == b"\x1f\x8b":
        return cast(IO[bytes], _gzip.open(stream, "rb"))
    if head[:4] == b"\x28\xb5\x2f\xfd" or (head[1:4] == b"\x2a\x4d\x18" and 0x50 <= head[0] <= 0x5F):
        reader = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW).stream_reader(
            stream, read_across_frames=True, closefd=False
        )
        return io.BufferedReader(reader, 1 << 20)
    if head[:3] == b"BZh":
        import bz2

        return bz2.open(stream, "rb")
    if head[:6] == b"\xfd7zXZ\x00":
        return io.BufferedReader(_Xz(stream), 1 << 20)
    return stream


class _Xz(io.RawIOBase):
    """As lzma.open, with a limit of memory."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source, self._decoder, self._rest = source, self._new(), b""

    @staticmethod
    def _new() -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_MAX_XZ)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        target = memoryview(buffer)
        while True:
            if self._decoder.eof:
                rest = (self._decoder.unused_data or self._source.read(1 << 16)).lstrip(
                    b"\0"
                )  # padding between streams
                if not rest:
                    return 0
                self._decoder, self._rest = self._new(), rest
            data = b""
            if self._decoder.needs_input and not self._rest:
                self._rest = self._source.read(1 << 16)
                if not self._rest:
                    raise EOFError("the compressed data ends too early")
            data = self._decoder.decompress(self._rest, max_length=len(target))
            self._rest = b""
            if data:
                target[: len(data)] = data
                return len(data)


def unpacked_spool(stream: IO[bytes], directory: str) -> IO[bytes]:
    """`stream` itself when it is plain and seekable, or a file in `directory` with what it unpacks to, which goes with
    its last descriptor. Raises StoreFull before the disk is full.
    """
    import tempfile

    plain = decompress(stream)
    if plain is stream:
        return stream
    spool = tempfile.TemporaryFile(dir=directory)
    try:
        for block in bounded(plain, room(spool.fileno())):
            spool.write(block)
        spool.seek(0)
    except BaseException:
        spool.close()
        raise
    return spool


def room(fd: int) -> int:
    """How many bytes may be unpacked on the file system of `fd`: what is free, less a twentieth (S020)."""
    free = os.fstatvfs(fd)
    return max(free.f_bavail * free.f_frsize * 19 // 20, 1)


def bounded(stream: IO[bytes], limit: int) -> Iterator[bytes]:
    """The blocks of a stream. Raises StoreFull when they are more than `limit` bytes."""
    left = limit
    while block := stream.read(1 << 20):
        left -= len(block)
        if left < 0:
            raise StoreFull(
                f"no space left on device: the archive unpacks to more than {limit} bytes, for which there is room"
            )
        yield block


def kind(stream: IO[bytes]) -> str:
    """ "gzip", "zstd" or "" for plain, as layer media types name it; the stream stays where it is."""
    head = _peek(stream)
    return "gzip" if head[:2] == b"\x1f\x8b" else "zstd" if head[:4] == b"\x28\xb5\x2f\xfd" else ""


class _Gzip(io.RawIOBase):
    """A stream's gzip, made while it is read. Without name and time: equal content gives equal bytes."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source, self._buffer, self._ended = source, b"", False
        self._compressor = _compressor()

    def readable(self) -> bool:
        return True

    def read(self, count: int = -1) -> bytes:
        while not self._ended and (count < 0 or len(self._buffer) < count):
            block = self._source.read(1 << 20)
            self._buffer += self._compressor.compress(block) if block else self._compressor.flush()
            self._ended = not block
        count = len(self._buffer) if count < 0 else count
        data, self._buffer = self._buffer[:count], self._buffer[count:]
        return data


def gzip_stream(source: IO[bytes]) -> IO[bytes]:
    """A readable stream of the gzip of `source`."""
    return cast(IO[bytes], _Gzip(source))


class Writable(Protocol):
    """What bytes can be written to."""

    def write(self, data: bytes, /) -> object:
        """Takes all of them."""


class Compressor(Protocol):
    """A zlib object that compresses."""

    def compress(self, data: bytes, /) -> bytes:
        """What comes out of it so far."""

    def flush(self) -> bytes:
        """The rest."""


@contextlib.contextmanager
def gzip_writer(out: IO[bytes]) -> Iterator[Writable]:
    """Something to write to; its gzip goes to `out`, without name and time."""
    compressor = _compressor()

    class Writer:
        def write(self, data: bytes) -> None:
            out.write(compressor.compress(data))

    yield Writer()
    out.write(compressor.flush())


def _compressor() -> Compressor:
    try:
        fast: Compressor = importlib.import_module("isal.isal_zlib").compressobj(level=2, wbits=31)
        return fast
    except ImportError:  # pragma: no cover - other architectures
        return zlib.compressobj(level=4, wbits=31)


def _peek(stream: IO[bytes]) -> bytes:
    if isinstance(stream, io.BufferedReader):
        return stream.peek(8)[:8]
    position = stream.tell()
    head = stream.read(8)
    stream.seek(position)
    return head


ERRORS = (EOFError, zlib.error, _gzip_error, zstandard.ZstdError, lzma.LZMAError, MemoryError, OSError, ImageError)
