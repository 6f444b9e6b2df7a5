"""The time stamp counter and its rate (Intel SDM volume 3, 18.17). Standard library only."""

from __future__ import annotations

import ctypes
import mmap
import time

from sampan.linux.syscall import ARCH

_RDTSC = bytes.fromhex("0f31 48c1e220 4809d0 c3")  # rdtsc; shl rdx, 32; or rax, rdx; ret
_WINDOW = 0.1  # seconds; a reading is known to within a microsecond
_READINGS = 16


def rate() -> int | None:
    """Its kHz, measured; None where there is none that counts at one rate whatever the processor does (constant_tsc, cpuid(1)).

    What /proc/cpuinfo says is the processor's frequency of the moment, on hosts that change it.
    """
    if ARCH != "x86_64" or not _constant():
        return None
    with mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as page:
        page.write(_RDTSC)
        place = ctypes.c_char.from_buffer(page)
        read = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(place))
        began, first = _reading(read)
        time.sleep(_WINDOW)
        ended, last = _reading(read)
        del place, read  # a page that is referred to can't be closed
    return round((last - first) * 1_000_000 / (ended - began))


def _constant() -> bool:
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        return any(line.startswith("flags") and " constant_tsc" in line for line in file)


def _reading(read: ctypes._FuncPointer) -> tuple[int, int]:
    """(nanoseconds, counter) at one moment: of several, the reading that took the least time."""
    found = []
    for _ in range(_READINGS):
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
        counter = read()
        after = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
        found.append((after - before, before + (after - before) // 2, counter))
    _, moment, counter = min(found)
    return moment, counter
