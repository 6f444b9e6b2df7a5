"""Pseudo terminals: opening one inside a container's devpts, and window sizes."""

from __future__ import annotations

import fcntl
import os
import struct
import termios

_TIOCGPTPEER, _TIOCSPTLCK = 0x5441, 0x40045431


def open_peer(master: int) -> int:
    """Unlocks and opens the slave of a pty's master, close-on-exec. Raises OSError when it is no master.

    By TIOCGPTPEER (ioctl_tty(2)), so no path inside a container is looked up.
    """
    fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
    return fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)


def set_size(fd: int, rows: int, columns: int) -> None:
    """Sets a terminal's window size; its foreground process group gets SIGWINCH."""
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows & 0xFFFF, columns & 0xFFFF, 0, 0))
