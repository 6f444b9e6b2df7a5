"""The descriptors that a process has, and those it is given."""

from __future__ import annotations

import array
import os
import socket


def close_all_but(keep: list[int]) -> None:
    """Closes every descriptor of this process that is not among `keep`."""
    kept = sorted({0, 1, 2, *keep})
    for before, after in zip(kept, [*kept[1:], 1 << 20], strict=True):
        os.closerange(before + 1, after)


def receive(sock: socket.socket, size: int, most: int, flags: int = 0) -> tuple[bytes, list[int]]:
    """A message, or a piece of a stream, with at most so many descriptors, close-on-exec from the first moment.

    Not socket.recv_fds(), which takes flags and does not pass them on (Lib/socket.py, up to 3.13 at least).
    """
    fds = array.array("i")
    data, ancillary, _, _ = sock.recvmsg(size, socket.CMSG_SPACE(most * fds.itemsize), socket.MSG_CMSG_CLOEXEC | flags)
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    return data, list(fds)
