"""System calls as facts: their numbers, how much of an argument's register the kernel takes, what hides behind which."""

from __future__ import annotations

import functools
import os

_COLUMN = {"x86_64": 1, "i386": 2, "aarch64": 3}
_BITS = {"h": 16, "i": 32, "p": 64}
# i386's calls that stand for several, by their first argument: include/uapi/linux/net.h and ipc.h.
MULTIPLEXED = {
    "socketcall": {"socket": 1, "bind": 2, "connect": 3, "listen": 4, "accept": 5, "getsockname": 6, "getpeername": 7,
                   "socketpair": 8, "sendto": 11, "recvfrom": 12, "shutdown": 13, "setsockopt": 14, "getsockopt": 15,
                   "sendmsg": 16, "recvmsg": 17, "accept4": 18, "recvmmsg": 19, "sendmmsg": 20},
    "ipc": {"semop": 1, "semget": 2, "semctl": 3, "semtimedop": 4, "msgsnd": 11, "msgrcv": 12, "msgget": 13,
            "msgctl": 14, "shmat": 21, "shmdt": 22, "shmget": 23, "shmctl": 24},
}  # fmt: skip


def _rows(name: str) -> list[list[str]]:
    with open(os.path.join(os.path.dirname(__file__), name), encoding="ascii") as file:
        return [line.split() for line in file if not line.startswith("#")]


@functools.cache
def numbers(arch: str) -> dict[str, int]:
    """System call numbers of an architecture by name ("x86_64", "i386" or "aarch64")."""
    return {row[0]: int(row[_COLUMN[arch]]) for row in _rows("syscalls.tbl") if row[_COLUMN[arch]] != "-"}


@functools.cache
def _patterns(arch: str) -> dict[str, str]:
    rows = _rows("syscall_widths.tbl")
    found = {name: row[0] for row in rows if row[0] != "i386" for name in row[1:]}
    if arch == "i386":
        found |= {name: row[1] for row in rows if row[0] == "i386" for name in row[2:]}
    return found


def width(arch: str, name: str, index: int) -> int:
    """How many bits of an argument the kernel looks at: what is above them in the register, it ignores."""
    pattern = _patterns(arch).get(name, "")
    bits = _BITS[pattern[index]] if index < len(pattern) else 64
    return min(bits, 32) if arch == "i386" else bits
