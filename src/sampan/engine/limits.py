"""The limits of a container that can be, by Docker's rules and sentences: checked before anything is made or changed.

0 is "not given" everywhere. What only the kernel knows (a parent's limit, memory that is in use) it refuses itself: `cgroup.LimitRefused`.
"""

from __future__ import annotations

import os
import re
import resource
from typing import Any, NamedTuple

from sampan.engine.errors import BadRequest
from sampan.linux.files import read_or_empty

_LEAST_MEMORY = 6 << 20
_LEAST_CPUS = 10**7  # of NanoCpus: a quota of a millisecond in a tenth of a second is the kernel's least
_MOST = 1 << 62
_PIDS_MAX = 1 << 22  # PID_MAX_LIMIT in include/linux/threads.h
_QUOTA_MAX = (1 << 44) - 1  # MAX_BW in kernel/sched/sched.h
_SHARES = (2, 262144)  # MIN_SHARES and MAX_SHARES there: the kernel takes the nearest
_PART = re.compile(r"([0-9]{1,6})(?:-([0-9]{1,6}))?")


class _Range(NamedTuple):
    least: int
    most: int
    sentence: str
    unlimited: bool = False  # whatever is negative is "no limit"


_PERIOD = "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)"
_RANGES = {
    "Memory": _Range(_LEAST_MEMORY, _MOST, "Minimum memory limit allowed is 6MB"),
    "MemorySwap": _Range(1, _MOST, "the memory swap limit is too large", unlimited=True),
    "MemoryReservation": _Range(_LEAST_MEMORY, _MOST, "Minimum memory reservation allowed is 6MB"),
    "MemorySwappiness": _Range(-1, 100, "valid memory swappiness range is 0-100"),
    "CpuShares": _Range(1, _MOST, "valid CPU shares are 2 to 262144"),
    "CpuPeriod": _Range(1000, 1000000, _PERIOD),
    "CpuQuota": _Range(1000, _QUOTA_MAX, f"CPU cfs quota can not be less than 1ms (i.e. 1000) or larger than {_QUOTA_MAX}", unlimited=True),
    "PidsLimit": _Range(1, _PIDS_MAX, f"the pids limit can not be larger than {_PIDS_MAX}, which is all that a kernel has; -1 is no limit", unlimited=True),
    "BlkioWeight": _Range(10, 1000, "Range of blkio weight is from 10 to 1000"),
    "OomScoreAdj": _Range(-1000, 1000, "range for oom score adj is [-1000, 1000]"),
    "ShmSize": _Range(1, _MOST, "SHM size can not be less than 0"),
}  # fmt: skip
_TOGETHER = (("NanoCpus", "CpuPeriod", "Nano CPUs and CPU Period"), ("NanoCpus", "CpuQuota", "Nano CPUs and CPU Quota"))


def check(host: dict[str, Any]) -> list[str]:
    """The warnings for limits that can be. Raises BadRequest, with the field's name, for those that can't."""
    for key, (least, most, sentence, unlimited) in _RANGES.items():
        value = host.get(key) or 0
        if value and not least <= value <= most and not (unlimited and value < 0):
            raise BadRequest(f"Invalid value {value} for {key}: {sentence}")
    _check_cpus(host)
    _check_memory(host)
    check_ulimits(host)
    shares = host.get("CpuShares") or 0
    if shares and not _SHARES[0] <= shares <= _SHARES[1]:
        return [f"CpuShares {shares} is out of the kernel's range: it is {min(max(shares, _SHARES[0]), _SHARES[1])}"]
    return []


def _check_cpus(host: dict[str, Any]) -> None:
    cpus, available = host.get("NanoCpus") or 0, os.cpu_count() or 1
    if cpus and not _LEAST_CPUS <= cpus <= available * 10**9:
        raise BadRequest(
            f"Invalid value {cpus} for NanoCpus: range of CPUs is from 0.01 to {available}.00, as there are only {available} CPUs available"
        )
    for one, other, names in _TOGETHER:
        if host.get(one) and host.get(other):
            raise BadRequest(f"Conflicting options: {names} cannot both be set")
    _check_set(host, "CpusetCpus", "cpuset cpus", "CPUs", "/sys/devices/system/cpu/online")
    _check_set(host, "CpusetMems", "cpuset mems", "memory nodes", "/sys/devices/system/node/has_memory")


def _check_memory(host: dict[str, Any]) -> None:
    memory, swap, reservation = (host.get(key) or 0 for key in ("Memory", "MemorySwap", "MemoryReservation"))
    if 0 < swap < memory:
        raise BadRequest("MemorySwap: Minimum memoryswap limit should be larger than memory limit, see usage")
    if memory and reservation > memory:
        raise BadRequest(
            "Memory: Minimum memory limit can not be less than memory reservation limit (MemoryReservation), see usage"
        )


def _check_set(host: dict[str, Any], key: str, what: str, noun: str, online: str) -> None:
    """A list like "0-2,4" against the one of those that there are."""
    text = host.get(key)
    if not text:
        return
    available = read_or_empty(online).strip() or "0"
    ranges = _ranges(available)
    for first, last in _ranges(text):
        if first > last:
            raise BadRequest(f"Invalid value {text} for {what}: {key} is a list like 0-2,4")
        if not any(low <= first and last <= high for low, high in ranges):
            raise BadRequest(f"{key}: Requested {noun} are not available - requested {text}, available: {available}")


def _ranges(text: str) -> list[tuple[int, int]]:
    """First and last of each part; one that is none is (1, 0)."""
    parts = [_PART.fullmatch(part) for part in text.split(",")]
    return [(int(part[1]), int(part[2] or part[1])) if part else (1, 0) for part in parts]


def check_ulimits(host: dict[str, Any]) -> None:
    """Resource limits of processes (setrlimit(2)). Raises BadRequest."""
    for limit in host.get("Ulimits") or []:
        name, soft, hard = limit["Name"], limit["Soft"], limit["Hard"]
        if not hasattr(resource, f"RLIMIT_{str(name).upper()}"):
            raise BadRequest(f"Ulimits: invalid ulimit type: {name}")
        if soft < -1 or hard < -1:
            raise BadRequest(f"Ulimits: {name}: a limit is 0 or more, or -1 for none, not {min(soft, hard)}")
        if soft > hard >= 0 or soft < 0 <= hard:
            raise BadRequest(f"ulimit soft limit must be less than or equal to hard limit: {soft} > {hard} ({name})")


def check_machine(wanted: dict[str, Any]) -> None:
    """The shape of a machine of the classic kind. Raises BadRequest."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for key, least, most, unit in (
        ("Cpus", 1, 255, ""),
        ("Memory", 64 << 20, memory, " bytes"),
        ("DiskSize", 1, _MOST, " bytes"),
    ):
        value = wanted.get(key) or 0
        if value and not least <= value <= most:
            raise BadRequest(f"Invalid value {value} for {key}: a virtual machine has {least} to {most}{unit}")
