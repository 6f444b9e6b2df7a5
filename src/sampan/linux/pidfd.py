"""Processes by descriptor: pidfd_open(2), exit status after the fact, and start times from /proc."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

_PIDFD_GET_INFO = 0xC0000000 | (64 << 16) | (0xFF << 8) | 11
_INFO_EXIT = 1 << 3
_HELD = 128  # descriptors at a time


def exit_code(status: int) -> int:
    """The shell's exit code of a wait status."""
    if os.WIFSIGNALED(status):
        return 128 + os.WTERMSIG(status)
    return os.waitstatus_to_exitcode(status)


def exit_status(pidfd: int) -> int | None:
    """The wait status of a process that has been reaped by anybody, or None when it is not known.

    Source: PIDFD_GET_INFO with PIDFD_INFO_EXIT, Linux 6.15 (uapi/linux/pidfd.h). Older kernels
    answer None.
    """
    request = bytearray(struct.pack("Q56x", _INFO_EXIT))
    try:
        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, request)
    except OSError:
        return None
    # mask, cgroupid, pid, tgid, ppid, then 8 ids, then exit_code: see struct pidfd_info.
    mask = struct.unpack_from("Q", request)[0]
    if not mask & _INFO_EXIT:
        return None
    return int(struct.unpack_from("i", request, 60)[0])


def pid_of(pidfd: int) -> int:
    """The pid of a process in our pid namespace, from its descriptor's fdinfo (pidfd_open(2))."""
    with open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii") as file:
        for line in file:
            if line.startswith("Pid:"):
                return int(line[4:])
    raise ProcessLookupError("not a pidfd")


def children() -> list[int]:
    """Our own children, zombies too."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
            return [int(word) for word in file.read().split()]
    except OSError:
        return []


def reap_strays(known: Collection[int]) -> None:
    """Takes the zombies among our children that are nobody's: those that we have as a subreaper.

    Each is asked about by itself: waitid(2) for any tells of one zombie only, which may be somebody's who has not looked yet.
    """
    for pid in children():
        if pid in known:
            continue
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            pass


def zombie_status(pid: int) -> int | None:
    """The wait status of a process that has ended and waits to be reaped (field 52 of /proc/PID/stat)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(fields[49]) if fields[0] in (b"Z", b"X") else None


def start_time(pid: int) -> int | None:
    """The start time of a process in clock ticks since boot: with the pid it names it for ever."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(text.rpartition(b")")[2].split()[19])


def state(pid: int) -> str | None:
    """The one-letter state of a process ("R", "S", "Z", ...), or None when there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0].decode()
    except (FileNotFoundError, ProcessLookupError):
        return None


def ending(pid: int, started: int) -> bool:
    """Whether the process that started at `started` is gone, is a zombie, or has begun to exit: nothing can join its namespaces any more.

    Source: PF_EXITING (include/linux/sched.h) in field 9 of /proc/PID/stat.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return fields[0] in (b"Z", b"X") or bool(int(fields[6]) & 0x4) or int(fields[19]) != started


def parent_and_session(pid: int) -> tuple[int, int]:
    """The parent and the session of a process (fields 4 and 6 of /proc/PID/stat); zeros when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0, 0
    return int(fields[1]), int(fields[3])


def family(leader: int, among: list[int]) -> list[int]:
    """Those of `among` that descend from `leader` or are in the session it leads, itself included; parents before children."""
    known = {pid: parent_and_session(pid) for pid in among}
    found = {pid for pid, (_, session) in known.items() if leader in (pid, session)}
    while more := {pid for pid, (parent, _) in known.items() if parent in found} - found:
        found |= more

    def depth(pid: int) -> int:
        count = 0
        while (pid := known[pid][0]) in found and count < len(
            found
        ):  # a number that was given again may close a circle
            count += 1
        return count

    return sorted(found, key=lambda pid: (depth(pid), pid))


def open_file(pid: int, started: int, name: str, flags: int = os.O_RDONLY) -> int:
    """A descriptor of the file `name` below /proc/PID of the process that started at `started`, never of one that has its
    number by now: a number alone may be the host's first process's. Raises ProcessLookupError when it is gone, OSError."""
    try:
        directory = os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # What is below the descriptor is this process's or, when that has been reaped, nobody's (ESRCH).
            if int(read_at(directory, "stat").rpartition(b")")[2].split()[19]) != started:
                raise ProcessLookupError(errno.ESRCH, f"process {pid} is another by now")
            return os.open(name, flags | os.O_CLOEXEC, dir_fd=directory)
        finally:
            os.close(directory)
    except FileNotFoundError:
        raise ProcessLookupError(errno.ESRCH, f"process {pid} is gone") from None


def read_at(directory: int, name: str) -> bytes:
    """The whole of a file below a /proc/PID that is held. Raises OSError: FileNotFoundError or ProcessLookupError when that process is gone."""
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        return read_all(fd)
    finally:
        os.close(fd)


def read_all(fd: int) -> bytes:
    """What is left of a file of /proc, which gives a page at a time. Raises OSError."""
    parts = []
    while part := os.read(fd, 1 << 16):
        parts.append(part)
    return b"".join(parts)


def held_members(members: Callable[[], list[int]]) -> Iterator[tuple[int, int]]:
    """(pid, descriptor of its /proc/PID) of every process that `members()` lists, in that order; see _held()."""
    return _held(members(), members, lambda pid: os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))


def signal_members(members: Callable[[], list[int]], number: int) -> list[int]:
    """Signals every process that `members()` lists, in that order, and returns the list; see _held()."""
    found = members()
    for _, descriptor in _held(found, members, os.pidfd_open):
        # In their order: a shell that lives on after its command goes on with the next.
        try:
            signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            continue
    return found


def _held(found: list[int], members: Callable[[], list[int]], hold: Callable[[int], int]) -> Iterator[tuple[int, int]]:
    """(pid, the descriptor by which `hold(pid)` holds it) of every process found. A number that goes to another process meanwhile
    is left out: only who is a member still when it is held is. The descriptors are closed here."""
    for begin in range(0, len(found), _HELD):
        held: dict[int, int] = {}
        try:
            for pid in found[begin : begin + _HELD]:
                try:
                    held[pid] = hold(pid)
                except (FileNotFoundError, ProcessLookupError):
                    continue
            still = set(members())
            yield from ((pid, descriptor) for pid, descriptor in held.items() if pid in still)
        finally:
            for descriptor in held.values():
                os.close(descriptor)


def open_if_same(pid: int, started: int) -> int | None:
    """A pidfd of the process `pid` that started at `started`, or None when it is another or gone."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    if start_time(pid) != started:
        os.close(fd)
        return None
    return fd
