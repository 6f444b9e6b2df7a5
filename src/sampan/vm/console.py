"""What QEMU and a guest's kernel on its serial line say: the last of it, in a file of bounded size. Standard library only."""

from __future__ import annotations

import os
import socket

from sampan.linux.eventloop import Loop

_MOST = 256 << 10
_SHOWN = 800
_AT_ONCE = 16


class ConsoleLog:
    """Keeps what comes out of sockets in a file, which starts anew when it is full."""

    def __init__(self, loop: Loop, path: str) -> None:
        self._loop = loop
        self._sockets: dict[int, socket.socket] = {}
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def follow(self, *sockets: socket.socket) -> None:
        """Begins to read these, and leaves the ones before."""
        for fd in list(self._sockets):
            self._leave(fd)
        for sock in sockets:
            sock.setblocking(False)
            self._sockets[sock.fileno()] = sock
            self._loop.watch(sock.fileno(), lambda _: self._read_all())

    def fileno(self) -> int:
        """The file's descriptor."""
        return self._file

    def last(self) -> str:
        """What was said last."""
        for fd in list(self._sockets):
            for _ in range(_AT_ONCE):  # a guest may go on talking
                if fd not in self._sockets or not self._read(fd):
                    break
        try:
            size = os.fstat(self._file).st_size
            text = os.pread(self._file, _SHOWN, max(0, size - _SHOWN)).decode(errors="replace").strip()
        except OSError:
            text = ""
        return text or "it said nothing"

    def write(self, text: str) -> None:
        """Adds a line of ours."""
        self._append(f"{text}\n".encode(errors="replace"))

    def _read_all(self) -> None:
        for fd in list(self._sockets):
            self._read(fd)

    def _read(self, fd: int) -> bool:
        """Takes what is there; whether there was anything."""
        try:
            data = self._sockets[fd].recv(65536)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._leave(fd)
            return False
        self._append(data)
        return True

    def _append(self, data: bytes) -> None:
        try:
            if os.fstat(self._file).st_size + len(data) > _MOST:
                os.ftruncate(self._file, 0)
            os.write(self._file, data)
        except OSError:
            pass  # a full disk is no reason to stop a guest

    def _leave(self, fd: int) -> None:
        self._loop.forget(fd)
        del self._sockets[fd]
