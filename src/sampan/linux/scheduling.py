"""CPU and I/O scheduling of the calling process: sched_setattr(2), ioprio_set(2), CPU affinity."""

from __future__ import annotations

import ctypes
import os
import struct

from sampan.linux.syscall import syscall

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.linux.spec_types import Scheduler, Scheduling

_POLICIES = {"SCHED_OTHER": 0, "SCHED_FIFO": 1, "SCHED_RR": 2, "SCHED_BATCH": 3, "SCHED_IDLE": 5, "SCHED_DEADLINE": 6}
_FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01,
    "SCHED_FLAG_RECLAIM": 0x02,
    "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08,
    "SCHED_FLAG_KEEP_PARAMS": 0x10,
    "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}
_IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}


def apply(process: Scheduling) -> None:
    """`scheduler`, `ioPriority` and `execCPUAffinity` of the runtime specification's process.

    Raises OSError where the kernel refuses, KeyError for an unknown name.
    """
    scheduler = process.get("scheduler")
    if scheduler:
        set_scheduler(scheduler)
    priority = process.get("ioPriority")
    if priority:
        value = _IO_CLASSES[priority["class"]] << 13 | int(priority.get("priority", 0))
        syscall("ioprio_set", ctypes.c_int(1), ctypes.c_int(0), ctypes.c_int(value), subject=priority["class"])
    affinity = (process.get("execCPUAffinity") or {}).get("final")
    if affinity:
        os.sched_setaffinity(0, cpus(affinity))


def set_scheduler(wanted: Scheduler) -> None:
    """sched_setattr(2) from "policy", "nice", "priority", "flags", "runtime", "deadline", "period" (ns)."""
    flags = 0
    for name in wanted.get("flags") or []:
        flags |= _FLAGS[name]
    attributes = struct.pack(
        "IIQiIQQQII",
        56,
        _POLICIES[wanted["policy"]],
        flags,
        wanted.get("nice", 0),
        wanted.get("priority", 0),
        wanted.get("runtime", 0),
        wanted.get("deadline", 0),
        wanted.get("period", 0),
        0,
        0,
    )
    syscall("sched_setattr", ctypes.c_int(0), ctypes.c_char_p(attributes), ctypes.c_uint(0), subject=wanted["policy"])


def cpus(text: str) -> set[int]:
    """The numbers in a list like "0-2,4" (List Format of cpuset(7)). Raises ValueError."""
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found
