"""Waiting for a disk without holding up the event loop: by asynchronous I/O where the kernel offers it, else by a thread."""

from __future__ import annotations

import asyncio
import os

from sampan.linux.aio import Syncs


class DataSync:
    """fdatasync as a coroutine."""

    def __init__(self) -> None:
        self._syncs: Syncs | None = None
        self._waiting: dict[int, asyncio.Future[int]] = {}
        self._number = 0
        self._asked = False  # whether there is asynchronous I/O

    async def __call__(self, fd: int) -> None:
        """Returns when a file's data is on its disk. Raises OSError."""
        if not self._asked:
            self._open()
        if self._syncs is None:
            await asyncio.to_thread(os.fdatasync, fd)
            return
        self._number += 1
        try:
            self._syncs.submit(fd, self._number)
        except OSError:
            await asyncio.to_thread(os.fdatasync, fd)  # a file system without it; its own error is the one to tell
            return
        ended = self._waiting[self._number] = asyncio.get_running_loop().create_future()
        error = await ended
        if error:
            raise OSError(error, os.strerror(error))

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
            future = self._waiting.pop(key, None)
            if future is not None and not future.done():
                future.set_result(error)

    def close(self) -> None:
        """Lets go of the kernel's queue."""
        if self._syncs is not None:
            asyncio.get_running_loop().remove_reader(self._syncs.fd)
            self._syncs.close()
            self._syncs, self._asked = None, False
