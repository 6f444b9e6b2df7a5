"""The containers' directories, one of them made before it is asked for.

A new inode costs some 0.3 ms on a disk file system, and a container needs a dozen; a rename costs one.
"""

from __future__ import annotations

import asyncio
import os

from sampan.keeper import exits
from sampan.linux import durable, filetree
from sampan.linux.files import is_strange

_SPARE = "spare"
_QUIET = 0.02  # seconds without a create before the next spare is made
_FILES = ("hostname", "hosts", "resolv.conf", "exit.tmp", "log/00000001.frames")
_PARTS = ("upper", "work", "rootfs", "log")
SKELETON = frozenset([*_PARTS, *(name.partition("/")[0] for name in _FILES)])  # what a new directory has


class Directories:
    """Hands out directories below `root` and keeps one spare."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._spare = f"{root}/{_SPARE}"
        self._ready = False
        self._timer: asyncio.TimerHandle | None = None
        self._filling: asyncio.Future[None] | None = None
        filetree.remove(self._spare, ignore_errors=True)

    def make(self, name: str) -> str:
        """A new container's directory with what all have: overlay's upper and work, mount point, log."""
        path = f"{self._root}/{name}"
        if self._ready:
            self._ready = False
            os.rename(self._spare, path)
        else:
            _fill(path)
        self._later()
        return path

    def names(self) -> list[str]:
        """The directories that there are, but for the spare."""
        return [name for name in os.listdir(self._root) if name != _SPARE]

    def path(self, name: str) -> str:
        """Where a container's directory is."""
        return f"{self._root}/{name}"

    def restore(self, name: str) -> None:
        """Makes again what a power cut has taken of the directory of a container that is recorded. Raises OSError."""
        _fill(f"{self._root}/{name}")

    def sync(self) -> None:
        """What has been made and renamed here is on disk when this returns. Raises OSError."""
        durable.sync_directory(self._root)

    def _later(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(_QUIET, self._refill)

    def _refill(self) -> None:
        self._timer = None
        if self._ready or self._filling is not None:
            return
        self._filling = asyncio.get_running_loop().run_in_executor(None, _fill, self._spare)
        self._filling.add_done_callback(self._filled)

    def _filled(self, done: asyncio.Future[None]) -> None:
        self._filling = None
        self._ready = not done.cancelled() and done.exception() is None
        if not self._ready:
            filetree.remove(self._spare, ignore_errors=True)

    def close(self) -> None:
        """Makes no more."""
        if self._timer is not None:
            self._timer.cancel()


def _fill(path: str) -> None:
    """Raises OSError: the disk is full, or read-only."""
    for part in _PARTS:
        os.makedirs(f"{path}/{part}", 0o755 if part == "upper" else 0o700, exist_ok=True)
    os.chmod(path, 0o700)
    for name in _FILES:
        if not is_strange(f"{path}/{name}"):  # opening a fifo would keep us waiting; who writes it sets it aside
            os.close(os.open(f"{path}/{name}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
    exits.prepare(path)
