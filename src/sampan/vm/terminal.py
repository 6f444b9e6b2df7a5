"""A terminal on the host whose other end is one in the guest: bytes pass through as they are."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import termios

from sampan.linux import tty
from sampan.runtime import channel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.oci.runtime_spec import Process


def open_for(parent: socket.socket, process: Process) -> int:
    """Makes one the controlling terminal of this process, a session leader; the parent gets its master.

    Returns the slave. The guest's terminal echoes and edits, so this one does nothing (raw, termios(3)).
    """
    master, slave = os.openpty()
    try:
        attributes = termios.tcgetattr(slave)
        attributes[0], attributes[1], attributes[3] = 0, 0, 0
        termios.tcsetattr(slave, termios.TCSANOW, attributes)
        wanted = process.get("consoleSize")
        if wanted and wanted.get("height") and wanted.get("width"):
            tty.set_size(slave, wanted["height"], wanted["width"])
        os.setsid()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        channel.send(parent, [master], kind="tty")
    finally:
        os.close(master)
    return slave


def size(fd: int) -> tuple[int, int]:
    """(rows, columns) of a terminal."""
    rows, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(fd, termios.TIOCGWINSZ, bytes(8)))
    return rows, columns
