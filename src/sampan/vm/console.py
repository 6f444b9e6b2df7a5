"""What a guest's kernel says on its serial line: the last of it, in a file of bounded size. Standard library only."""

from __future__ import annotations

import os
import socket

from sampan.vm.loop import Loop

_MOST = 256 << 10


class ConsoleLog:
    """Reads a machine's console and keeps it in a file, which starts anew when it is full."""

    def __init__(self, loop: Loop, console: socket.socket, path: str) -> None:
        self._loop, self._console, self._path = loop, console, path
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        console.setblocking(False)
        loop.watch(console.fileno(), lambda _: self.read())

    def read(self) -> None:
        """Takes what is there."""
        try:
            data = self._console.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._loop.forget(self._console.fileno())
            return
        try:
            if os.fstat(self._file).st_size + len(data) > _MOST:
                os.ftruncate(self._file, 0)
            os.write(self._file, data)
        except OSError:
            pass  # a full disk is no reason to stop a guest
