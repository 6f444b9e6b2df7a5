"""Files in memory that nobody can change any more (memfd_create(2), F_ADD_SEALS in fcntl(2))."""

from __future__ import annotations

import fcntl
import os

from sampan.linux import sparse

_F_ADD_SEALS = 1033
_SEAL_SEAL, _SEAL_SHRINK, _SEAL_GROW, _SEAL_WRITE = 1, 2, 4, 8


def sealed_copy(path: str, name: str) -> int:
    """A descriptor of a sealed copy of a file; its holes take no memory. It can still be mapped privately."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        sparse.copy(path, fd)
        fcntl.fcntl(fd, _F_ADD_SEALS, _SEAL_SEAL | _SEAL_SHRINK | _SEAL_GROW | _SEAL_WRITE)
    except BaseException:
        os.close(fd)
        raise
    return fd
