"""Terminals for the OCI command line: handing the master over, or passing bytes in the foreground."""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import termios
import tty as stdtty

from sampan.linux import tty
from sampan.runtime.errors import RuntimeFailure


def hand_over(path: str, master: int) -> None:
    """Sends a pty's master to the process that listens on the console socket (runc's protocol)."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.connect(path)
        except OSError as error:
            raise RuntimeFailure(f"console socket {path}: {error.strerror}") from error
        socket.send_fds(sock, [b"/dev/ptmx"], [master])


class Proxy:
    """Copies between our own stdin and stdout and a container's terminal."""

    def __init__(self, master: int) -> None:
        self._master = master
        self._saved = termios.tcgetattr(0) if os.isatty(0) else None
        if self._saved is not None:
            stdtty.setraw(0)
        self.resize()

    def resize(self) -> None:
        """Gives our terminal's size to the container's."""
        if self._saved is None:
            return
        rows, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8)))
        tty.set_size(self._master, rows, columns)

    def run(self, pidfd: int) -> None:
        """Passes bytes until the process of `pidfd` has ended and its output is read."""
        sources = [0, self._master, pidfd]
        while self._master in sources:
            ready, _, _ = select.select(sources, [], [])
            if 0 in ready:
                data = os.read(0, 65536)
                if data:
                    _write_all(self._master, data)
                else:
                    sources.remove(0)
            if self._master in ready:
                if not self._forward():
                    sources.remove(self._master)
            elif pidfd in ready:
                return

    def _forward(self) -> bool:
        try:
            data = os.read(self._master, 65536)
        except OSError:  # EIO: the last process has closed the terminal
            return False
        _write_all(1, data)
        return bool(data)

    def close(self) -> None:
        """Gives our terminal its settings back."""
        if self._saved is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, self._saved)
        os.close(self._master)


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
