"""Nodes of trees that somebody else writes, each held by a descriptor: what was looked at can't become another thing.

A name is looked up once, its link not followed, as an O_PATH descriptor: nothing is opened by that, so a device or a fifo does
no harm. What is done then is done to the descriptor. /proc has to be the host's: this is for us, not for a process that is
in a container already.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat

from sampan.linux.syscall import check, libc

_AT_EMPTY_PATH = 0x1000


def hold(parent: int, name: str) -> int:
    """An O_PATH descriptor of what is called `name` in a directory, a link itself if it is one. Raises OSError."""
    return os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)


def reopen(fd: int, flags: int) -> int:
    """Opens what is held, which the caller has looked at. Raises OSError."""
    return os.open(f"/proc/self/fd/{fd}", flags | os.O_CLOEXEC)


def open_regular(parent: int, name: str, flags: int = os.O_RDONLY) -> int:
    """Opens a regular file; anything else is not opened at all. Raises OSError: EINVAL, ELOOP for a link."""
    fd = hold(parent, name)
    try:
        return reopen_regular(fd, name, flags)
    finally:
        os.close(fd)


def reopen_regular(fd: int, name: str = "", flags: int = os.O_RDONLY) -> int:
    """As reopen(), of a regular file. Raises OSError: EINVAL, ELOOP for a link."""
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode):
        number = errno.ELOOP if stat.S_ISLNK(mode) else errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(number, "is no regular file", name)
    return reopen(fd, flags)


def chown(fd: int, uid: int, gid: int) -> None:
    """Gives what is held to somebody, a link itself too. Raises OSError."""
    result = libc.fchownat(
        ctypes.c_int(fd), b"", ctypes.c_uint32(uid), ctypes.c_uint32(gid), ctypes.c_int(_AT_EMPTY_PATH)
    )
    check(result, "chown")


def chmod(fd: int, mode: int) -> None:
    """Changes the mode of what is held. Raises OSError, for a link too."""
    os.chmod(f"/proc/self/fd/{fd}", mode)


def is_device(fd: int, kind: int, number: int) -> bool:
    """Whether what is held is this device: S_IFCHR or S_IFBLK and its number."""
    info = os.fstat(fd)
    return stat.S_IFMT(info.st_mode) == kind and info.st_rdev == number
