"""The format of logs: frames, each with a checked header, that are found again after damage and from the end of a file.

A header of 32 bytes (magic, CRC-32 of what follows it, salt, time in nanoseconds, length, stream) and the bytes as the process
wrote them. The salt is random and the same in all of a file: a process that knows the format can't write a header into its
output, as the synchronisation marker of Avro's and Hadoop's sequence files is chosen. A reader that meets anything else than
a header looks for the next one: damage costs the frames it is in.

Files of the earlier format (16 bytes without check or salt, named `.log`) are read as well.
"""

from __future__ import annotations

import os
import struct
import zlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Dialect(Protocol):
        """How headers of a file look."""

        size: int

        def parse(self, data: bytes, at: int = 0) -> tuple[int, int, int] | None:
            """(time, length, stream) of the header there, or None when there is none."""
            ...

        def find(self, data: bytes, at: int) -> int:
            """Where the next header begins, from `at` on; -1: nowhere."""
            ...


STDOUT, STDERR = 1, 2
MAX_DATA = 256 << 10  # of a frame we write: what damage to one header can cost
SALT_SIZE = 8
NEW, OLD = ".frames", ".log"
_MAGIC = b"\xf5SF1"
_BODY = struct.Struct("<8sQIB3x")
_HEAD = struct.Struct("<4sI")
SIZE = _HEAD.size + _BODY.size
_OLD = struct.Struct("<QIB3s")
_OLD_MAGIC = b"SMP"
_LONGEST = 64 << 20  # of a frame of any engine's: what is read in one go
_OLD_TIMES = (1_500_000_000 * 10**9, 4_100_000_000 * 10**9)


class Frame:
    """Bytes that a process wrote in one go: when (nanoseconds since the epoch), on which stream.

    No `record`: there are millions.
    """

    __slots__ = ("data", "stream", "time")

    def __init__(self, time: int, stream: int, data: bytes) -> None:
        self.time, self.stream, self.data = time, stream, data

    def __repr__(self) -> str:
        return f"Frame({self.time}, {self.stream}, {self.data!r})"


def header(salt: bytes, time: int, length: int, stream: int) -> bytes:
    """A frame's first 32 bytes."""
    body = _BODY.pack(salt, time, length, stream)
    return _HEAD.pack(_MAGIC, zlib.crc32(body)) + body


class Salted:
    """Headers with one file's salt."""

    size = SIZE

    def __init__(self, salt: bytes) -> None:
        self.salt = salt

    def parse(self, data: bytes, at: int = 0) -> tuple[int, int, int] | None:
        """(time, length, stream) of the header there, or None when there is none."""
        if data[at + 8 : at + 16] != self.salt or len(data) - at < SIZE:
            return None
        magic, check = _HEAD.unpack_from(data, at)
        if magic != _MAGIC or zlib.crc32(data[at + 8 : at + SIZE]) != check:
            return None
        _, time, length, stream = _BODY.unpack_from(data, at + 8)
        return (time, length, stream) if length <= _LONGEST else None

    def find(self, data: bytes, at: int) -> int:
        """Where the next header begins, from `at` on; -1: nowhere."""
        while (found := data.find(self.salt, at + 8)) >= 0:
            if self.parse(data, found - 8):
                return found - 8
            at = found - 7
        return -1


class Old:
    """Headers of the earlier format: no salt, so that finding one is a guess."""

    size = _OLD.size

    def parse(self, data: bytes, at: int = 0) -> tuple[int, int, int] | None:
        """(time, length, stream) of the header there, or None when there is none."""
        if len(data) - at < self.size:
            return None
        time, length, stream, magic = _OLD.unpack_from(data, at)
        likely = magic == _OLD_MAGIC and stream in (STDOUT, STDERR) and 0 < length <= _LONGEST
        return (time, length, stream) if likely and _OLD_TIMES[0] < time < _OLD_TIMES[1] else None

    def find(self, data: bytes, at: int) -> int:
        """Where the next header begins, from `at` on; -1: nowhere."""
        while (found := data.find(_OLD_MAGIC, at + 13)) >= 0:
            if self.parse(data, found - 13):
                return found - 13
            at = found - 12
        return -1


def dialect(fd: int, name: str) -> Dialect | None:
    """How a file is read: by its name, and by the salt of its first good header. None: it has none yet."""
    if name.endswith(OLD):
        return Old()
    head = os.pread(fd, SIZE, 0)
    if Salted(head[8:16]).parse(head):
        return Salted(head[8:16])
    offset = 0  # the first header is damaged: the first good one of any salt counts
    while len(data := os.pread(fd, 1 << 20, offset)) >= SIZE:
        at = -1
        while (at := data.find(_MAGIC, at + 1)) >= 0:
            if Salted(data[at + 8 : at + 16]).parse(data, at):
                return Salted(data[at + 8 : at + 16])
        offset += len(data) - SIZE + 1
    return None


def files(directory: str) -> dict[int, str]:
    """The log files by their numbers, oldest first."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return {}
    split = [(name, *os.path.splitext(name)) for name in names]
    return dict(sorted((int(stem), name) for name, stem, end in split if end in (NEW, OLD) and stem.isdecimal()))


def scan(fd: int, form: Dialect, offset: int, limit: int, final: bool = False) -> tuple[list[Frame], int]:
    """Frames from `offset` on, of about `limit` bytes, and where the next call goes on.

    The frame that is being written is left for later; with `final` nobody writes, and what is there of it counts.
    """
    found: list[Frame] = []
    size, at = form.size, 0
    buffer = os.pread(fd, limit, offset)
    begins = form.parse(buffer)
    while len(buffer) - at >= size:
        if begins is None:
            begins = form.parse(os.pread(fd, size, offset + at))  # once more: it may have been being corrected
        if begins is None:
            following = form.find(buffer, at + 1)
            if following < 0:
                return found, offset + max(at, len(buffer) - size + 1)
            at, begins = following, form.parse(buffer, following)
            continue
        time, length, stream = begins
        start, end = at + size, at + size + length
        if end > len(buffer) and at:
            return found, offset + at
        data = buffer[start:end] if end <= len(buffer) else os.pread(fd, length, offset + start)
        ahead = buffer[end : end + size] if end + size <= len(buffer) else os.pread(fd, size, offset + end)
        begins = form.parse(ahead)
        if begins is None and (len(data) < length or len(ahead) == size):
            # Cut short, or no header where it ends: something may be missing, so that a header is within.
            within = form.find(data + ahead, 0)
            if 0 <= within < len(data):
                data, end, begins = data[:within], start + within, form.parse(data + ahead, within)
            elif len(data) < length and not final:
                return found, offset + at
            else:
                end = start + len(data)
        if data:
            found.append(Frame(time, stream, data))
        at = end
        if end >= len(buffer):
            break
    return found, offset + at
