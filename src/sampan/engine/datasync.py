"""Waiting for a disk without holding up the event loop: by asynchronous I/O where the kernel offers it, else by a thread."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable

from sampan.linux.aio import Syncs
from sampan.linux.mount import RAMFS_MAGIC, TMPFS_MAGIC, filesystem_type


def has_no_disk(fd: int) -> bool:
    """Whether a file is in memory only, so that there is nothing to sync and nobody to wait for."""
    return filesystem_type(fd) in (TMPFS_MAGIC, RAMFS_MAGIC)


class DataSync:
    """fdatasync that tells the event loop of its end."""

    def __init__(self) -> None:
        self._syncs: Syncs | None = None
        self._ended: dict[int, Callable[[int], None]] = {}
        self._number = 0
        self._asked = False  # whether there is asynchronous I/O

    def begin(self, fd: int, ended: Callable[[int], None]) -> None:
        """Begins to bring a file's data to its disk. `ended` is called with 0 or the error's number, from the event loop."""
        if not self._asked:
            self._open()
        self._number += 1
        if self._syncs is not None:
            try:
                self._syncs.submit(fd, self._number)
            except OSError:
                pass  # a file system without it; its own error is the one to tell
            else:
                self._ended[self._number] = ended
                return
        in_thread = asyncio.get_running_loop().run_in_executor(None, _sync, fd)
        in_thread.add_done_callback(lambda done: None if done.cancelled() else ended(done.result()))

    def _open(self) -> None:
        self._asked = True
        try:
            self._syncs = Syncs()
        except OSError:
            return
        asyncio.get_running_loop().add_reader(self._syncs.fd, self._readable)

    def _readable(self) -> None:
        assert self._syncs is not None
        for key, error in self._syncs.ended():
            ended = self._ended.pop(key, None)
            if ended is not None:
                ended(error)

    def close(self) -> None:
        """Lets go of the kernel's queue."""
        if self._syncs is not None:
            asyncio.get_running_loop().remove_reader(self._syncs.fd)
            self._syncs.close()
            self._syncs, self._asked = None, False


def _sync(fd: int) -> int:
    """fdatasync in a thread: 0, or the error's number."""
    try:
        os.fdatasync(fd)
    except OSError as error:
        return error.errno or errno.EIO
    return 0
