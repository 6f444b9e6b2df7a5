"""Files with holes."""

from __future__ import annotations

import errno
import os


def copy(path: str, target: int) -> None:
    """Copies a file into the empty one `target`, leaving out its holes. Raises OSError."""
    source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        copy_open(source, target, path)
    finally:
        os.close(source)


def copy_open(source: int, target: int, name: str) -> None:
    """As copy(), of a file that is open; `name` is for errors."""
    size = os.fstat(source).st_size
    os.ftruncate(target, size)
    for begin, end in data(source, size):
        os.lseek(target, begin, os.SEEK_SET)
        while begin < end:
            count = os.sendfile(target, source, begin, end - begin)
            if not count:
                raise OSError(errno.EIO, f"{name} has become shorter")
            begin += count


def data(fd: int, size: int) -> list[tuple[int, int]]:
    """(begin, end) of the parts of a file that are no holes (SEEK_DATA in lseek(2))."""
    found, at = [], 0
    while at < size:
        try:
            begin = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:  # ENXIO: nothing but a hole from here on
            break
        at = os.lseek(fd, begin, os.SEEK_HOLE)
        found.append((begin, at))
    return found
