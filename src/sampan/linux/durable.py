"""Files that survive a power cut: written beside, fsynced, renamed into place, and the directory's entry fsynced as well.

A rename alone is atomic for those who look, not for the disk: after a power cut the name may lead to an empty file (its
data was never written) or to the old one (the directory was not). Sources: fsync(2), "Calling fsync() does not necessarily
ensure that the entry in the directory containing the file has also reached disk"; syncfs(2).
"""

from __future__ import annotations

import contextlib
import os
from typing import IO

from sampan.linux.syscall import check, libc_nogil

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_SUFFIX = ".tmp"


def write(path: str, data: bytes | str, mode: int = 0o600) -> None:
    """Replaces a file; when this returns, the new content is on disk. Raises OSError; the old file is whole then."""
    with writing(path, mode) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def replace(path: str, data: bytes | str, mode: int = 0o600) -> None:
    """Replaces a file in one step without waiting for the disk: for what a restart of the host makes void anyway."""
    with writing(path, mode, sync=False) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextlib.contextmanager
def writing(path: str, mode: int = 0o600, sync: bool = True) -> Iterator[IO[bytes]]:
    """A file that becomes `path` at the end of the block, durably; nothing is left of it when the block raises."""
    # Its own: two who write at once do not share it. A name may have 255 bytes.
    name = f"{os.path.basename(path)[:50]}.{os.urandom(6).hex()}{_SUFFIX}"
    temporary = os.path.join(os.path.dirname(path), name)
    fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as file:
            yield file
            file.flush()
            os.fchmod(fd, mode)
            if sync:
                os.fsync(fd)
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    if sync:
        sync_directory(os.path.dirname(path) or ".")


def publish(source: str, target: str) -> None:
    """Renames a file that has been written to its place, content first: on disk when this returns."""
    fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    rename(source, target)


def rename(source: str, target: str) -> None:
    """rename(2), and the entry is on disk when this returns. What is renamed must have been synced before."""
    os.rename(source, target)
    sync_directory(os.path.dirname(target) or ".")


def sync_directory(path: str) -> None:
    """What has been created, renamed and deleted in a directory is on disk when this returns."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def syncfs(fd: int) -> None:
    """Everything written so far to the file system that `fd` is of is on disk when this returns. Blocks: not for a loop."""
    check(libc_nogil.syncfs(fd), "syncfs")


def sync_tree(path: str) -> None:
    """As syncfs, by a path on it: for trees of many files, where one sync of the whole is cheaper than one for each."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syncfs(fd)
    finally:
        os.close(fd)


def remove_leftovers(directory: str) -> None:
    """Deletes what a write that a crash cut short has left in a directory. To be called when nobody writes there."""
    for name in os.listdir(directory):
        stem, dot, tag = name.removesuffix(_SUFFIX).rpartition(".")
        if name.endswith(_SUFFIX) and stem and dot and len(tag) == 12 and not set(tag) - set("0123456789abcdef"):
            os.unlink(f"{directory}/{name}")
