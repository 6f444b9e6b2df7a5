"""Namespaces: clone3(2), unshare(2), setns(2) and user-namespace id maps."""

from __future__ import annotations

import ctypes
import os
import signal

from sampan.linux.syscall import check, failure, libc, syscall

CLONE_PIDFD = 0x1000
CLONE_NEWTIME = 0x80
CLONE_NEWNS = 0x20000
CLONE_NEWCGROUP = 0x2000000
CLONE_NEWUTS = 0x4000000
CLONE_NEWIPC = 0x8000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_INTO_CGROUP = 0x200000000

# The runtime specification's names, with the flag and the file under /proc/PID/ns.
KINDS = {
    "user": (CLONE_NEWUSER, "user"),
    "cgroup": (CLONE_NEWCGROUP, "cgroup"),
    "ipc": (CLONE_NEWIPC, "ipc"),
    "uts": (CLONE_NEWUTS, "uts"),
    "network": (CLONE_NEWNET, "net"),
    "pid": (CLONE_NEWPID, "pid"),
    "mount": (CLONE_NEWNS, "mnt"),
    "time": (CLONE_NEWTIME, "time"),
}


class _CloneArgs(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "flags",
            "pidfd",
            "child_tid",
            "parent_tid",
            "exit_signal",
            "stack",
            "stack_size",
            "tls",
            "set_tid",
            "set_tid_size",
            "cgroup",
        )
    ]


def clone(flags: int, cgroup_fd: int = -1) -> tuple[int, int]:
    """fork() with namespace flags. Returns (pid, pidfd) to the parent and (0, -1) to the child.

    The caller must be single-threaded: the child goes on in the same interpreter. With `cgroup_fd`
    the child starts inside that cgroup v2 directory. Source: clone3 in clone(2).
    """
    pidfd = ctypes.c_int(-1)
    args = _CloneArgs(flags=flags | CLONE_PIDFD, pidfd=ctypes.addressof(pidfd), exit_signal=signal.SIGCHLD)
    if cgroup_fd >= 0:
        args.flags |= CLONE_INTO_CGROUP
        args.cgroup = cgroup_fd
    pid = syscall("clone3", ctypes.byref(args), ctypes.c_size_t(ctypes.sizeof(args)), subject=hex(flags))
    return pid, pidfd.value


def unshare(flags: int) -> None:
    """Moves this process into new namespaces."""
    check(libc.unshare(ctypes.c_int(flags)), "unshare", hex(flags))


def setns(fd: int, kind: int = 0) -> None:
    """Joins the namespace that `fd` names (or, for a pidfd, all those in `kind`)."""
    check(libc.setns(fd, ctypes.c_int(kind)), "setns", hex(kind))


def open_namespaces(pid: int) -> dict[str, int]:
    """Opens all namespaces of a process. The caller closes the descriptors."""
    opened: dict[str, int] = {}
    for name, (_, file) in KINDS.items():
        try:
            opened[name] = os.open(f"/proc/{pid}/ns/{file}", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
    return opened


def same_namespace(fd: int, kind: str) -> bool:
    """Whether `fd` is the namespace of that kind in which this process already is."""
    own = os.stat(f"/proc/self/ns/{KINDS[kind][1]}")
    other = os.fstat(fd)
    return (own.st_dev, own.st_ino) == (other.st_dev, other.st_ino)


def write_id_maps(
    pid: int, uid_map: list[tuple[int, int, int]], gid_map: list[tuple[int, int, int]], setgroups: bool = True
) -> None:
    """Writes the id maps of a child's new user namespace: (inside, outside, count) rows.

    Without CAP_SETUID in the parent namespace the rows must map only our own ids; then setgroups(2)
    is denied first, as user_namespaces(7) asks.
    """
    if not setgroups:
        _write(f"/proc/{pid}/setgroups", "deny")
    _write(f"/proc/{pid}/gid_map", "".join(f"{a} {b} {c}\n" for a, b, c in gid_map))
    _write(f"/proc/{pid}/uid_map", "".join(f"{a} {b} {c}\n" for a, b, c in uid_map))


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        raise failure(error.errno or 0, "write", path) from error
    finally:
        os.close(fd)


def loopback_up() -> None:
    """Sets the loopback interface of the current network namespace up (netdevice(7))."""
    import fcntl
    import socket
    import struct

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        request = struct.pack("16sh22x", b"lo", 0)
        flags = struct.unpack("16sh22x", fcntl.ioctl(sock, 0x8913, request))[1]  # SIOCGIFFLAGS
        fcntl.ioctl(sock, 0x8914, struct.pack("16sh22x", b"lo", flags | 0x1))  # SIOCSIFFLAGS, IFF_UP
