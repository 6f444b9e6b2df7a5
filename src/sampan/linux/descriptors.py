"""The descriptors that a process has, and those it is given."""

from __future__ import annotations

import array
import os
import socket
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def close(fds: Iterable[int]) -> None:
    """Closes descriptors of ours."""
    for fd in fds:
        os.close(fd)


def close_all_but(keep: list[int]) -> None:
    """Closes every descriptor of this process that is not among `keep`."""
    kept = sorted({0, 1, 2, *keep})
    for before, after in zip(kept, [*kept[1:], 1 << 20], strict=True):
        os.closerange(before + 1, after)


_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


def receive_from(sock: socket.socket, size: int, flags: int = 0) -> tuple[bytes, int]:
    """A message, and the pid of who sent it as the kernel says (SO_PASSCRED, unix(7)); descriptors in it are never ours."""
    data, ancillary, _, _ = sock.recvmsg(size, socket.CMSG_SPACE(_CREDENTIALS.size), socket.MSG_CMSG_CLOEXEC | flags)
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            return data, int(_CREDENTIALS.unpack(content)[0])
    return data, 0


def receive(sock: socket.socket, size: int, most: int, flags: int = 0) -> tuple[bytes, list[int]]:
    """A message, or a piece of a stream, with at most so many descriptors, close-on-exec from the first moment.

    Not socket.recv_fds(), which takes flags and does not pass them on (Lib/socket.py, up to 3.13 at least).
    """
    fds = array.array("i")
    room = socket.CMSG_SPACE(most * fds.itemsize)
    if sock.family == socket.AF_UNIX and sock.getsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED):
        room += socket.CMSG_SPACE(_CREDENTIALS.size)
    data, ancillary, _, _ = sock.recvmsg(size, room, socket.MSG_CMSG_CLOEXEC | flags)
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    return data, list(fds)
