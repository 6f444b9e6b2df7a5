"""inotify(7) on log directories: wakes those who follow a container's output."""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct

from sampan.linux.syscall import check, libc

_IN_MODIFY, _IN_CREATE = 0x2, 0x100
_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC


class Watcher:
    """One inotify instance for the whole daemon."""

    def __init__(self) -> None:
        self._fd = check(libc.inotify_init1(_NONBLOCK_CLOEXEC), "inotify_init1")
        self._events: dict[int, set[asyncio.Event]] = {}
        asyncio.get_running_loop().add_reader(self._fd, self._readable)

    def watch(self, directory: str) -> tuple[int, asyncio.Event]:
        """An event that is set whenever a file in the directory grows. Give the key to `unwatch`."""
        mask = ctypes.c_uint32(_IN_MODIFY | _IN_CREATE)
        key = check(libc.inotify_add_watch(self._fd, os.fsencode(directory), mask), "inotify_add_watch", directory)
        event = asyncio.Event()
        self._events.setdefault(key, set()).add(event)
        return key, event

    def unwatch(self, key: int, event: asyncio.Event) -> None:
        """Ends a watch."""
        events = self._events.get(key)
        if events is None:
            return
        events.discard(event)
        if not events:
            del self._events[key]
            libc.inotify_rm_watch(self._fd, key)

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, 64 << 10)
        except BlockingIOError:
            return
        position = 0
        while position < len(data):
            key, _, _, length = struct.unpack_from("iIII", data, position)
            position += 16 + length
            for event in self._events.get(key, ()):
                event.set()

    def close(self) -> None:
        """Closes the instance."""
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)
