"""Pseudo terminals: opening one inside a container's devpts, and window sizes."""

from __future__ import annotations

import fcntl
import os
import struct
import termios

_TIOCGPTPEER, _TIOCSPTLCK = 0x5441, 0x40045431


def open_pair(ptmx: str = "/dev/ptmx") -> tuple[int, int]:
    """Opens a new pty at `ptmx`. Returns (master, slave), both close-on-exec.

    The slave comes from TIOCGPTPEER (ioctl_tty(2)), so no path inside a container is looked up.
    """
    master = os.open(ptmx, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
        slave = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except BaseException:
        os.close(master)
        raise
    return master, slave


def set_size(fd: int, rows: int, columns: int) -> None:
    """Sets a terminal's window size; its foreground process group gets SIGWINCH."""
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows & 0xFFFF, columns & 0xFFFF, 0, 0))
