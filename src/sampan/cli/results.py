"""Results into files: a regular file is the old one or the whole new one; to anything else the result is written."""

from __future__ import annotations

import contextlib
import os
import stat
from typing import IO

from sampan.linux import durable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def result(path: str) -> Iterator[IO[bytes]]:
    """A file to write a result to, which has it at the end of the block. Raises OSError.

    Links are followed: what they lead to is replaced, not they. A device, a pipe and a descriptor of ours (/dev/stdout,
    /dev/fd/3) are never replaced, nor is a file in a directory that can't be written to.
    """
    real = os.path.realpath(path)
    try:
        info = os.stat(path)
    except FileNotFoundError:
        info = None
    in_place = info is not None and not stat.S_ISREG(info.st_mode)
    if info is not None and not in_place:
        if not os.access(path, os.W_OK):
            raise PermissionError(13, os.strerror(13), path)
        in_place = _is_ours(info) or not os.access(os.path.dirname(real), os.W_OK | os.X_OK)
    if in_place:
        with open(path, "wb") as file:
            yield file
        return
    mode = stat.S_IMODE(info.st_mode) if info is not None else 0o666 & ~_umask()
    with durable.writing(real, mode) as file:
        yield file


def is_seekable(file: IO[bytes]) -> bool:
    """Whether holes can be left in it: a regular file, and no device."""
    return stat.S_ISREG(os.fstat(file.fileno()).st_mode)


def _is_ours(info: os.stat_result) -> bool:
    """Whether a descriptor of this process is open on the file: the shell has redirected one to it."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(int(name)), info):
                return True
    return False


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
