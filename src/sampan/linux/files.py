"""Small text files, and files of our own that may have become something else."""

from __future__ import annotations

import errno
import os
import stat


def read_or_empty(path: str) -> str:
    """The text of a file, or "" when it can't be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def is_strange(path: str) -> bool:
    """Whether something stands at `path` that is no regular file: where a file of ours should be."""
    try:
        return not stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def regular(path: str, flags: int = os.O_RDONLY, dir_fd: int | None = None) -> int:
    """An opener for files of our own: what has become a fifo or a device would keep us waiting. Raises OSError, EINVAL for those."""
    fd = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=dir_fd)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "is no regular file", path)
    return fd
