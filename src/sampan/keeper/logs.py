"""The log store: append-only files of frames, one frame per read, rotated by size.

A frame is a 16-byte header (time in nanoseconds, length, stream, magic) and the bytes as the process
wrote them. From a pipe the bytes move with splice(2), so they leave the pipe only as they reach the
file: a keeper killed in the middle loses none, and the next one continues after trimming the header
of the last frame to what arrived.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator

from sampan.record import record

HEADER = struct.Struct("<QIB3s")
MAGIC = b"SMP"
STDOUT, STDERR = 1, 2
_CHUNK = 1 << 20


@record
class Frame:
    """Bytes that a process wrote in one go: when (nanoseconds since the epoch), on which stream."""

    time: int
    stream: int
    data: bytes


def files(directory: str) -> list[int]:
    """The sequence numbers of the log files, oldest first."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    return sorted(int(name[:-4]) for name in names if name.endswith(".log") and name[:-4].isdecimal())


def path(directory: str, number: int) -> str:
    """The file of a sequence number."""
    return f"{directory}/{number:08}.log"


class Writer:
    """Appends frames for one container. `max_size` in bytes (0: no limit), `max_files` at least 1."""

    def __init__(self, directory: str, max_size: int = 0, max_files: int = 1) -> None:
        os.makedirs(directory, 0o700, exist_ok=True)
        self._directory = directory
        self._max_size = max_size
        self._max_files = max(1, max_files)
        existing = files(directory)
        self._number = existing[-1] if existing else 1
        self._fd = self._open()
        self._size = _repair(self._fd)
        self.failed = 0

    def _open(self) -> int:
        return os.open(path(self._directory, self._number), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def splice(self, pipe: int, available: int, stream: int) -> int:
        """Moves up to `available` bytes from a pipe into one frame. Returns the number moved."""
        length = min(available, _CHUNK)
        start = self._size
        os.pwrite(self._fd, HEADER.pack(time.time_ns(), length, stream, MAGIC), start)
        done = 0
        try:
            while done < length:
                moved = os.splice(pipe, self._fd, length - done, None, start + HEADER.size + done)
                if moved == 0:
                    break
                done += moved
        except BlockingIOError:
            pass
        finally:
            self._end_frame(start, done, length)
        return done

    def append(self, data: bytes, stream: int) -> None:
        """Writes one frame."""
        start = self._size
        written = os.pwritev(self._fd, [HEADER.pack(time.time_ns(), len(data), stream, MAGIC), data], start)
        self._end_frame(start, max(0, written - HEADER.size), len(data))

    def _end_frame(self, start: int, done: int, length: int) -> None:
        if done == 0:
            os.ftruncate(self._fd, start)
            return
        if done < length:
            os.pwrite(self._fd, struct.pack("<I", done), start + 8)
        self._size = start + HEADER.size + done
        if self._max_size and self._size >= self._max_size:
            self._rotate()

    def _rotate(self) -> None:
        os.close(self._fd)
        self._number += 1
        self._fd = self._open()
        self._size = 0
        for number in files(self._directory):
            if number <= self._number - self._max_files:
                os.unlink(path(self._directory, number))

    def close(self) -> None:
        """Closes the current file."""
        os.close(self._fd)


def _repair(fd: int) -> int:
    """Trims the last frame to the bytes that are there. Returns the end of the last good frame."""
    size = os.fstat(fd).st_size
    position = 0
    while position + HEADER.size <= size:
        _, length, _, magic = HEADER.unpack(os.pread(fd, HEADER.size, position))
        if magic != MAGIC:
            break
        present = min(length, size - position - HEADER.size)
        if present == 0:
            break
        if present < length:
            os.pwrite(fd, struct.pack("<I", present), position + 8)
        position += HEADER.size + present
    os.ftruncate(fd, position)
    return position


@record
class Position:
    """Where a reader stands: file number and offset of the next frame."""

    number: int = 0
    offset: int = 0


def end(directory: str) -> Position:
    """The position after everything written so far."""
    numbers = files(directory)
    if not numbers:
        return Position(1, 0)
    return Position(numbers[-1], os.stat(path(directory, numbers[-1])).st_size)


def read(directory: str, position: Position, limit: int = 4 << 20) -> Iterator[Frame]:
    """Complete frames from `position` on, which moves along; stops after about `limit` bytes."""
    taken = 0
    numbers = files(directory)
    if not numbers:
        return
    if position.number < numbers[0]:
        position.number, position.offset = numbers[0], 0
    for number in numbers:
        if number < position.number:
            continue
        if number > position.number:
            position.number, position.offset = number, 0
        try:
            fd = os.open(path(directory, number), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            size = os.fstat(fd).st_size
            while position.offset + HEADER.size < size:
                header = os.pread(fd, HEADER.size, position.offset)
                stamp, length, stream, magic = HEADER.unpack(header)
                if magic != MAGIC or position.offset + HEADER.size + length > size:
                    break
                data = os.pread(fd, length, position.offset + HEADER.size)
                position.offset += HEADER.size + length
                taken += length
                yield Frame(stamp, stream, data)
                if taken >= limit:
                    return
        finally:
            os.close(fd)
