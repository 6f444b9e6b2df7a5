"""The door to the kernel: raw system calls through libc, raising OSError with the call's name.

``ctypes.PyDLL`` keeps the interpreter lock during a call. That is what makes it safe to continue in
Python after a raw ``clone``: the child never has to win a lock whose owner does not exist there.
Calls that may block for long must use :data:`libc_nogil`.
"""

from __future__ import annotations

import ctypes
import os

libc = ctypes.PyDLL(None, use_errno=True)
libc_nogil = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
# Looked up here, once: what the keeper has not looked up each of its copies has to, for some 20 page faults a symbol.
for _name in ("capget", "capset", "fstatfs", "mount", "mprotect", "prctl", "setns", "umount2", "unshare"):
    getattr(libc, _name)

ARCH = os.uname().machine

# Only the calls that neither `os` nor libc's symbols give us. Numbers: asm/unistd_64.h and, from 424
# on, one table for all architectures (asm-generic/unistd.h).
_X86_64 = {
    "pivot_root": 155,
    "io_setup": 206,
    "io_destroy": 207,
    "io_getevents": 208,
    "io_submit": 209,
    "ioprio_set": 251,
    "sched_setattr": 314,
    "keyctl": 250,
    "seccomp": 317,
    "bpf": 321,
    "finit_module": 313,
    "clone3": 435,
    "openat2": 437,
    # Of an airlock, which has nothing but numbers.
    "close": 3,
    "munmap": 11,
    "ioctl": 16,
    "sendto": 44,
    "clone": 56,
    "execve": 59,
    "setsid": 112,
    "capset": 126,
    "arch_prctl": 158,
    "exit_group": 231,
    "accept4": 288,
    "prlimit64": 302,
    "rseq": 334,
}
_GENERIC = {
    "io_setup": 0,
    "io_destroy": 1,
    "io_submit": 2,
    "io_getevents": 4,
    "pivot_root": 41,
    "ioprio_set": 30,
    "sched_setattr": 274,
    "keyctl": 219,
    "seccomp": 277,
    "bpf": 280,
    "finit_module": 273,
    "clone3": 435,
    "openat2": 437,
    "close": 57,
    "ioctl": 29,
    "sendto": 206,
    "clone": 220,
    "execve": 221,
    "setsid": 157,
    "capset": 91,
    "exit_group": 94,
    "accept4": 242,
    "prlimit64": 261,
}
_COMMON = {
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "close_range": 436,
    "faccessat2": 439,
    "mount_setattr": 442,
}
NR = {**(_X86_64 if ARCH == "x86_64" else _GENERIC), **_COMMON}


def failure(errno: int, call: str, subject: str = "") -> OSError:
    """The OSError (of the subclass for `errno`) of a failed call; its text names call and object."""
    return OSError(errno, f"{call}{' ' + subject if subject else ''}: {os.strerror(errno)}")


def check(result: int, call: str, subject: str = "") -> int:
    """Returns `result`, or raises OSError from errno when it is negative."""
    if result < 0:
        raise failure(ctypes.get_errno(), call, subject)
    return result


def syscall(name: str, *args: object, subject: str = "") -> int:
    """Makes the system call `name` of the table above. Raises OSError."""
    return check(libc.syscall(ctypes.c_long(NR[name]), *args), name, subject)


def faccess(fd: int, mode: int, subject: str = "") -> None:
    """Raises OSError unless what `fd` refers to may be used so by this process's effective ids (faccessat2(2))."""
    flags = 0x1000 | 0x200  # AT_EMPTY_PATH, AT_EACCESS
    syscall(
        "faccessat2", ctypes.c_int(fd), ctypes.c_char_p(b""), ctypes.c_int(mode), ctypes.c_int(flags), subject=subject
    )
