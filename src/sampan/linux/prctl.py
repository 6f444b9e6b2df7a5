"""prctl(2) operations the engine uses."""

from __future__ import annotations

import ctypes
import os

from sampan.linux.syscall import check, libc, syscall

_SET_PDEATHSIG = 1
_SET_DUMPABLE = 4
_SET_KEEPCAPS = 8
_SET_NAME = 15
_CAPBSET_READ = 23
_CAPBSET_DROP = 24
_SET_CHILD_SUBREAPER = 36
_SET_NO_NEW_PRIVS = 38
_CAP_AMBIENT = 47


def _prctl(option: int, arg2: int = 0, arg3: int = 0, what: str = "") -> None:
    result = libc.prctl(option, ctypes.c_ulong(arg2), ctypes.c_ulong(arg3), ctypes.c_ulong(0), ctypes.c_ulong(0))
    check(result, "prctl", what)


def set_dumpable(value: bool) -> None:
    """Whether other processes may ptrace this one or open its /proc files (PR_SET_DUMPABLE)."""
    _prctl(_SET_DUMPABLE, int(value), what="PR_SET_DUMPABLE")


def set_parent_death_signal(number: int) -> None:
    """The signal this process gets when its parent ends (PR_SET_PDEATHSIG)."""
    _prctl(_SET_PDEATHSIG, number, what="PR_SET_PDEATHSIG")


def set_keepcaps(value: bool) -> None:
    """Keep permitted capabilities over a change from uid 0 to another (PR_SET_KEEPCAPS)."""
    _prctl(_SET_KEEPCAPS, int(value), what="PR_SET_KEEPCAPS")


def set_name(name: str) -> None:
    """The thread's name in /proc/PID/comm, cut to 15 bytes by the kernel."""
    buffer = ctypes.create_string_buffer(name.encode()[:15])
    check(libc.prctl(_SET_NAME, buffer, 0, 0, 0), "prctl", "PR_SET_NAME")


def set_child_subreaper() -> None:
    """Orphaned descendants become this process's children (PR_SET_CHILD_SUBREAPER)."""
    _prctl(_SET_CHILD_SUBREAPER, 1, what="PR_SET_CHILD_SUBREAPER")


def set_no_new_privs() -> None:
    """execve() can no longer grant privileges, for this process and its children, for ever."""
    _prctl(_SET_NO_NEW_PRIVS, 1, what="PR_SET_NO_NEW_PRIVS")


def read_bounding(capability: int) -> int:
    """1 or 0, or -1 for a capability the kernel does not have (PR_CAPBSET_READ)."""
    return int(libc.prctl(_CAPBSET_READ, capability, 0, 0, 0))


def drop_bounding(capability: int) -> None:
    """Removes one capability from the bounding set (PR_CAPBSET_DROP)."""
    if libc.prctl(_CAPBSET_DROP, capability, 0, 0, 0) < 0:
        check(-1, "prctl", f"PR_CAPBSET_DROP {capability}")


def clear_ambient() -> None:
    """Empties the ambient set (PR_CAP_AMBIENT_CLEAR_ALL)."""
    _prctl(_CAP_AMBIENT, 4, what="PR_CAP_AMBIENT_CLEAR_ALL")


def raise_ambient(capability: int) -> None:
    """Adds a permitted and inheritable capability to the ambient set (PR_CAP_AMBIENT_RAISE)."""
    _prctl(_CAP_AMBIENT, 2, capability, what=f"PR_CAP_AMBIENT_RAISE {capability}")


def join_session_keyring() -> None:
    """Gives this process a new anonymous session keyring, so that it does not share the host's.

    Source: keyctl(2), KEYCTL_JOIN_SESSION_KEYRING. Kernels without keyrings are ignored.
    """
    try:
        syscall("keyctl", ctypes.c_long(1), ctypes.c_void_p(None))
    except OSError as error:
        if error.errno not in (38, 1, 122):  # ENOSYS, EPERM (seccomp of an outer container), EDQUOT
            raise


def set_oom_score_adj(value: int) -> int:
    """Writes oom_score_adj, clamped to what the kernel accepts. Returns the value in force.

    Lowering it below the parent's value needs CAP_SYS_RESOURCE (proc(5)); then the old value stays.
    """
    fd = os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
    try:
        try:
            os.write(fd, str(value).encode())
            return value
        except PermissionError:
            return int(os.pread(fd, 16, 0))
    finally:
        os.close(fd)


def set_personality(value: int) -> None:
    """The execution domain of this process and its children (personality(2))."""
    check(libc.personality(ctypes.c_ulong(value)), "personality", hex(value))
