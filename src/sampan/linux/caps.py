"""Capabilities: names, the five sets, capset(2)."""

from __future__ import annotations

import ctypes
import functools
import os
import struct

from sampan.linux import prctl
from sampan.linux.syscall import check, libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_NAMES = """
CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE
NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT
SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE
AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ
PERFMON BPF CHECKPOINT_RESTORE
"""
NAMES = _NAMES.split()
NUMBER = {f"CAP_{name}": number for number, name in enumerate(NAMES)}

_VERSION_3 = 0x20080522


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Data(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable")]


_Both = _Data * 2  # the lower and the upper 32 capabilities


def mask(names: Iterable[str]) -> int:
    """The bit mask of capability names ("CAP_CHOWN"). Raises KeyError for an unknown one."""
    return _mask(tuple(names))


@functools.lru_cache(64)  # what is asked for is nearly always the same
def _mask(names: tuple[str, ...]) -> int:
    return sum({1 << NUMBER[name] for name in names})


def names(value: int) -> list[str]:
    """The names of the bits of a mask, in the kernel's order."""
    return [name for name, number in NUMBER.items() if value >> number & 1]


def permitted() -> int:
    """The permitted set of the calling thread (capget(2))."""
    header = _Header(_VERSION_3, 0)
    data = _Both()
    check(libc.capget(ctypes.byref(header), data), "capget")
    return int(data[0].permitted) | int(data[1].permitted) << 32


def bounding() -> int:
    """The bounding set, asked of the kernel and not of a /proc that a container may have faked."""
    # Beyond the last capability of this kernel the answer is an error.
    return sum([1 << number for number in range(count()) if prctl.read_bounding(number) > 0])


@functools.cache
def count() -> int:
    """How many capabilities the kernel has."""
    return next((number for number in range(64) if prctl.read_bounding(number) < 0), 64)


def drop_bounding(unwanted: int) -> None:
    """Drops the capabilities of a mask from the bounding set."""
    for number in [number for number in range(unwanted.bit_length()) if unwanted >> number & 1]:
        prctl.drop_bounding(number)


def packed(effective: int, permitted: int, inheritable: int) -> tuple[bytes, bytes]:
    """Both arguments of capset(2)."""
    sets = [value >> shift & 0xFFFFFFFF for shift in (0, 32) for value in (effective, permitted, inheritable)]
    return struct.pack("Ii", _VERSION_3, 0), struct.pack("6I", *sets)


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Sets three of the sets of the calling thread (capset(2))."""
    check(libc.capset(*packed(effective, permitted, inheritable)), "capset")


def set_ambient(wanted: int) -> None:
    """Makes the ambient set exactly `wanted` (which must be permitted and inheritable)."""
    prctl.clear_ambient()
    for number in range(wanted.bit_length()):
        if wanted >> number & 1:
            prctl.raise_ambient(number)


def become(user: int, kept: int) -> None:
    """Becomes a user, and the group of that number, with these capabilities at most, and never more."""
    kept &= permitted()
    drop_bounding(bounding() & ~kept)
    prctl.set_keepcaps(True)
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    capset(kept, kept, kept)
    set_ambient(kept)
    prctl.set_no_new_privs()
