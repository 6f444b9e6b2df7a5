"""Who is at the other end of a unix socket, as the kernel noted when they connected: ids, groups, the process (unix(7))."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import struct

from sampan.linux import caps, pidfd
from sampan.linux.namespaces import initial_user_namespace
from sampan.linux.syscall import check, libc
from sampan.record import record

_SO_PEERGROUPS, _SO_PEERPIDFD = 59, 77
_MOST_GROUPS = 65536
_FILES = ("CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH")


class NoPeer(Exception):
    """There is no telling who it is, or they have gone; the text says which."""


@record
class Peer:
    """A client. `root` is a descriptor of its root directory, in its own mount namespace; `every` says that it may read every
    file, as root may. The caller closes it.
    """

    uid: int
    gid: int
    groups: list[int]
    root: int
    pid: int
    every: bool = False

    def close(self) -> None:
        """Gives back the descriptor."""
        os.close(self.root)


def of(sock: socket.socket, since: float) -> Peer:
    """The client of a connection that was there at `since` (seconds since boot). Raises NoPeer."""
    pid, uid, gid = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if not initial_user_namespace():
        return _of_the_same_user(pid, uid, gid)
    process = _process(sock, pid, since)
    try:
        pid = pidfd.pid_of(process)
        if pid < 0:
            raise NoPeer("its process has ended")
        if pid == 0:
            raise NoPeer("it is in a pid namespace that is not to be seen from here")
        root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            every = uid == 0 and _may_read_every_file(pid)
            signal.pidfd_send_signal(process, 0)  # still there, so all of it was about this process
        except BaseException:
            os.close(root)
            raise
        return Peer(uid, gid, _groups(sock), root, pid, every)
    except (OSError, ValueError) as error:
        raise NoPeer(f"its process can't be looked at, or has ended: {error}") from None
    finally:
        os.close(process)


def _of_the_same_user(pid: int, uid: int, gid: int) -> Peer:
    """Of an engine in a user's own namespace, which has no more rights than its user and reaches no process outside."""
    if uid != os.geteuid():
        raise NoPeer(f"it is user {uid}, and this engine is for its own user only")
    return Peer(uid, gid, [], os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), pid, True)


def _process(sock: socket.socket, pid: int, since: float) -> int:
    """A pidfd of who connected. Before Linux 6.5 the process that has the pid now, if it is old enough."""
    try:
        return sock.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError as error:
        if error.errno != 92:  # ENOPROTOOPT
            raise NoPeer(f"its process has ended: {error.strerror}") from None
    try:
        process = os.pidfd_open(pid)
    except (OSError, ValueError):
        raise NoPeer("its process has ended, or is not to be seen from here") from None
    started = pidfd.start_time(pid)
    if started is None or started / os.sysconf("SC_CLK_TCK") > since:
        os.close(process)
        raise NoPeer("its process has ended, and another has its pid")
    return process


def _groups(sock: socket.socket) -> list[int]:
    buffer = (ctypes.c_uint32 * _MOST_GROUPS)()
    size = ctypes.c_uint32(ctypes.sizeof(buffer))
    check(libc.getsockopt(sock.fileno(), socket.SOL_SOCKET, _SO_PEERGROUPS, buffer, ctypes.byref(size)), "getsockopt")
    return list(buffer[: size.value // 4])


def _may_read_every_file(pid: int) -> bool:
    """Whether a process of root's is what root mostly is: a container's root is less."""
    if not os.path.samefile(f"/proc/{pid}/ns/user", "/proc/self/ns/user"):
        return False
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("CapEff:"):
                wanted = caps.mask(list(_FILES))
                return int(line.split()[1], 16) & wanted == wanted
    return False
