"""Namespaces: clone3(2), unshare(2), setns(2) and user-namespace id maps."""

from __future__ import annotations

import ctypes
import functools
import os
import signal

from sampan.linux import descriptors, pidfd
from sampan.linux.syscall import check, failure, libc, syscall

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.linux.spec_types import TimeOffset

CLONE_PIDFD = 0x1000
CLONE_PARENT = 0x8000
CLONE_NEWTIME = 0x80
CLONE_NEWNS = 0x20000
CLONE_NEWCGROUP = 0x2000000
CLONE_NEWUTS = 0x4000000
CLONE_NEWIPC = 0x8000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
_NS_GET_USERNS, _NS_GET_NSTYPE = 0xB701, 0xB703

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


class CloneArgs(ctypes.Structure):
    """struct clone_args of clone3(2)."""

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


@functools.cache
def initial_user_namespace() -> bool:
    """Whether root here is the machine's root: every id is mapped to itself (user_namespaces(7))."""
    with open("/proc/self/uid_map", encoding="ascii") as file:
        return file.read().split() == ["0", "0", "4294967295"]


def clone(flags: int, sibling: bool = False) -> tuple[int, int]:
    """fork() with namespace flags. Returns (pid, pidfd) to the parent and (0, -1) to the child.

    The caller must be single-threaded: the child goes on in the same interpreter. A `sibling` becomes
    a child of our own parent. Source: clone3 in clone(2).
    """
    pidfd = ctypes.c_int(-1)
    args = CloneArgs(flags=flags | CLONE_PIDFD, pidfd=ctypes.addressof(pidfd), exit_signal=signal.SIGCHLD)
    if sibling:
        args.flags |= CLONE_PARENT
        args.exit_signal = 0
    pid = syscall("clone3", ctypes.byref(args), ctypes.c_size_t(ctypes.sizeof(args)), subject=hex(flags))
    return pid, pidfd.value


def unshare(flags: int) -> None:
    """Moves this process into new namespaces."""
    check(libc.unshare(ctypes.c_int(flags)), "unshare", hex(flags))


def setns(fd: int, kind: int = 0) -> None:
    """Joins the namespace that `fd` names (or, for a pidfd, all those in `kind`)."""
    check(libc.setns(fd, ctypes.c_int(kind)), "setns", hex(kind))


def open_namespaces(pid: int, started: int | None = None) -> dict[str, int]:
    """Opens all namespaces of a process; `started`: when, where another may have its number by now. The caller closes the
    descriptors. Raises ProcessLookupError.

    All or none: one that is ending has lost its mounts and its network before its pid namespace, and who joined what is
    left would be in that one with the host's files.
    """
    opened: dict[str, int] = {}
    try:
        for name in _known():
            file = f"ns/{KINDS[name][1]}"
            opened[name] = (
                os.open(f"/proc/{pid}/{file}", os.O_RDONLY | os.O_CLOEXEC)
                if started is None
                else pidfd.open_file(pid, started, file)
            )
    except OSError as error:
        descriptors.close(opened.values())
        if isinstance(error, FileNotFoundError | ProcessLookupError):
            raise ProcessLookupError(f"process {pid} is gone") from None
        raise
    return opened


def others(pid: int) -> int:
    """The kinds (CLONE_NEW*) of which a process has another namespace than we. Raises ProcessLookupError."""
    found = 0
    for name in _known():
        flag, file = KINDS[name]
        try:
            other = os.stat(f"/proc/{pid}/ns/{file}")
        except FileNotFoundError:
            raise ProcessLookupError(f"process {pid} is gone") from None
        if not os.path.samestat(other, os.stat(f"/proc/self/ns/{file}")):
            found |= flag
    return found


@functools.cache
def _known() -> tuple[str, ...]:
    """The kinds that this kernel has."""
    return tuple(name for name, (_, file) in KINDS.items() if os.path.exists(f"/proc/self/ns/{file}"))


def same_namespace(fd: int, kind: str) -> bool:
    """Whether `fd` is the namespace of that kind in which this process already is."""
    own = os.stat(f"/proc/self/ns/{KINDS[kind][1]}")
    other = os.fstat(fd)
    return (own.st_dev, own.st_ino) == (other.st_dev, other.st_ino)


def members(pid: int, kind: str) -> list[int]:
    """The processes that are in the same namespace of a kind as `pid`, as far as we may look at them."""
    try:
        fd = os.open(f"/proc/{pid}/ns/{KINDS[kind][1]}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        return members_of(fd, kind)
    finally:
        os.close(fd)


def members_of(fd: int, kind: str) -> list[int]:
    """The processes that are in the namespace `fd`, as far as we may look at them."""
    file = KINDS[kind][1]
    wanted = os.readlink(f"/proc/self/fd/{fd}")
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                if os.readlink(f"/proc/{name}/ns/{file}") == wanted:
                    found.append(int(name))
            except OSError:
                continue
    return found


def owner(fd: int) -> tuple[int, int]:
    """Device and inode of the user namespace that owns a namespace (NS_GET_USERNS in ioctl_ns(2)). Raises OSError."""
    import fcntl

    found = fcntl.ioctl(fd, _NS_GET_USERNS)
    try:
        info = os.fstat(found)
        return info.st_dev, info.st_ino
    finally:
        os.close(found)


def is_kind(fd: int, kind: str) -> bool:
    """Whether `fd` names a namespace of that kind (NS_GET_NSTYPE in ioctl_ns(2))."""
    import fcntl

    try:
        return fcntl.ioctl(fd, _NS_GET_NSTYPE) == KINDS[kind][0]
    except OSError:
        return False


def write_id_map(pid: int, kind: str, rows: list[tuple[int, int, int]]) -> None:
    """Writes the "uid" or "gid" map of a child's new user namespace: (inside, outside, count) rows."""
    _write(f"/proc/{pid}/{kind}_map", "".join(f"{a} {b} {c}\n" for a, b, c in rows))


def deny_setgroups(pid: int) -> None:
    """What an unprivileged parent must do before it writes a gid map (user_namespaces(7))."""
    _write(f"/proc/{pid}/setgroups", "deny")


def open_time_offsets() -> int:
    """This process's timens_offsets (time_namespaces(7)), to be opened before it loses its rights to /proc."""
    return os.open("/proc/self/timens_offsets", os.O_WRONLY | os.O_CLOEXEC)


def set_time_offsets(fd: int, offsets: dict[str, TimeOffset]) -> None:
    """Sets the clocks of the time namespace made by unshare(CLONE_NEWTIME), before it has a process."""
    for clock, offset in offsets.items():
        os.write(fd, f"{clock} {offset.get('secs', 0)} {offset.get('nanosecs', 0)}\n".encode())
    os.close(fd)


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


def let_users_ping() -> None:
    """In the current network namespace any user may ping, and listen on any port, as in Docker's containers (T48).

    Sysctls ping_group_range and ip_unprivileged_port_start (networking/ip-sysctl.rst); one that the kernel lacks, or that
    may not be written here, stays as it is. Groups that are not mapped can't be named: the range ends at the last that is.
    """
    try:
        with open("/proc/self/gid_map", encoding="ascii") as file:
            rows = [[int(word) for word in line.split()] for line in file]
    except FileNotFoundError:
        rows = []  # a kernel without user namespaces knows all groups
    last = min(max((first + count - 1 for first, _, count in rows), default=0x7FFFFFFF), 0x7FFFFFFF)
    for name, value in (("ping_group_range", f"0 {last}"), ("ip_unprivileged_port_start", "0")):
        try:
            _write(f"/proc/sys/net/ipv4/{name}", value)
        except OSError:
            continue
