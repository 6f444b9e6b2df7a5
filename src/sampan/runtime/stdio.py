"""Standard streams belong to who uses them, or a program that is not root could not open /dev/stdout again.

As runc does it: the null device stays as it is, the group too (a terminal's is "tty"), and a stream that the
kernel does not let us give away is used as it came.
"""

from __future__ import annotations

import errno
import os
import stat

from sampan.runtime import idmap
from sampan.runtime.channel import Stdio

_NULL = os.makedev(1, 3)
_LEFT = (errno.EINVAL, errno.EPERM, errno.EROFS)  # an id that is not mapped here; a read-only /dev


def give(uid: int) -> None:
    """Makes `uid`, an id of our own user namespace, the owner of our standard streams. Raises OSError."""
    for fd in range(3):
        info = os.fstat(fd)
        if info.st_uid == uid or (stat.S_ISCHR(info.st_mode) and info.st_rdev == _NULL):
            continue
        _change(fd, uid, -1)


def _change(fd: int, uid: int, gid: int) -> None:
    try:
        os.fchown(fd, uid, gid)
    except OSError as error:
        if error.errno not in _LEFT:
            raise


def bring(stdio: Stdio | None, pid: int) -> None:
    """Pipes made out here are nobody's in the user namespace of `pid`, which could not pass them on: its root gets them."""
    pipes = [fd for fd in stdio or () if stat.S_ISFIFO(os.fstat(fd).st_mode)]
    root = idmap.root_of(pid) if pipes else None
    if root is not None:
        for fd in pipes:
            _change(fd, *root)  # the group too: the kernel wants both to be known inside
