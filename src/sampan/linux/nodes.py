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

from sampan.linux import openat2
from sampan.linux.syscall import check, libc

_AT_EMPTY_PATH = 0x1000


def hold(parent: int, name: str) -> int:
    """An O_PATH descriptor of what is called `name` in a directory, a link itself if it is one. Raises OSError."""
    return os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)


def reopen(fd: int, flags: int) -> int:
    """Opens what is held, which the caller has looked at. Raises OSError."""
    return os.open(_name(fd), flags | os.O_CLOEXEC)


def open_regular(parent: int, name: str, flags: int = os.O_RDONLY) -> int:
    """Opens a regular file; anything else is not opened at all. Raises OSError: EINVAL, ELOOP for a link."""
    fd = hold(parent, name)
    try:
        return reopen_regular(fd, name, flags)
    finally:
        os.close(fd)


def open_regular_in_root(rootfd: int, path: str) -> int:
    """As open_regular(), of a path in a foreign root, by its links. Raises OSError."""
    fd = openat2.open_in_root(rootfd, path)
    try:
        return reopen_regular(fd, path)
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
    """Gives what is held to somebody, a link itself too. Raises OSError, ValueError for what is no id: -1 leaves it root's."""
    if not (0 <= uid < 0xFFFFFFFF and 0 <= gid < 0xFFFFFFFF):
        raise ValueError(f"{uid}:{gid} is no owner")
    result = libc.fchownat(
        ctypes.c_int(fd), b"", ctypes.c_uint32(uid), ctypes.c_uint32(gid), ctypes.c_int(_AT_EMPTY_PATH)
    )
    check(result, "chown")


def chmod(fd: int, mode: int) -> None:
    """Changes the mode of what is held or open. Raises OSError, for a link too."""
    try:
        os.fchmod(fd, mode)
    except OSError as error:
        if error.errno != errno.EBADF:  # O_PATH
            raise
        os.chmod(_name(fd), mode)


def utime(fd: int, moment: int) -> None:
    """Sets the times of what is held or open, a link itself too, to nanoseconds. Raises OSError."""
    try:
        os.utime(fd, ns=(moment, moment))
    except OSError as error:
        if error.errno != errno.EBADF:
            raise
        os.utime(_name(fd), ns=(moment, moment))


def set_xattr(fd: int, name: str, value: bytes) -> None:
    """Sets an extended attribute of what is held or open, a link itself too. Raises OSError."""
    try:
        os.setxattr(fd, name, value)
    except OSError as error:
        if error.errno != errno.EBADF:
            raise
        os.setxattr(_name(fd), name, value)


def xattrs(fd: int) -> dict[str, bytes]:
    """The extended attributes of what is held or open; none where there are none to be had. Raises OSError."""
    where: int | str = fd
    try:
        try:
            names = os.listxattr(where)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            where = _name(fd)
            names = os.listxattr(where)
        return {name: os.getxattr(where, name) for name in names}
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.EPERM):
            return {}
        raise


def _name(fd: int) -> str:
    """A path that leads to what is held and is followed no further, whatever that is (proc_pid_fd(5))."""
    return f"/proc/self/fd/{fd}"


def is_device(fd: int, kind: int, number: int) -> bool:
    """Whether what is held is this device: S_IFCHR or S_IFBLK and its number."""
    info = os.fstat(fd)
    return stat.S_IFMT(info.st_mode) == kind and info.st_rdev == number
