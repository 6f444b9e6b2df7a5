"""The limits of a container that can be, by Docker's rules and sentences: checked before anything is made or changed.

0 is "not given" everywhere. What only the kernel knows (a parent's limit, memory that is in use) it refuses itself: `cgroup.LimitRefused`.
"""

from __future__ import annotations

import os
import re
import resource
from typing import NamedTuple

from sampan.engine.errors import BadRequest
from sampan.engine.model import HealthCheck, HostConfig, Limits, SystemVm
from sampan.linux.cgroup import hierarchies
from sampan.linux.files import read_or_empty

_LEAST_MEMORY = 6 << 20
_LEAST_PAUSE = 10**6  # nanoseconds, of a health check
_LEAST_CPUS = 10**7  # of NanoCpus: a quota of a millisecond in a tenth of a second is the kernel's least
_MOST = 1 << 62
_PIDS_MAX = 1 << 22  # PID_MAX_LIMIT in include/linux/threads.h
_QUOTA_MAX = (1 << 44) - 1  # MAX_BW in kernel/sched/sched.h
_SHARES = (2, 262144)  # MIN_SHARES and MAX_SHARES there: the kernel takes the nearest
_PART = re.compile(r"([0-9]{1,6})(?:-([0-9]{1,6}))?")


class _Range(NamedTuple):
    name: str  # that users know it by
    least: int
    most: int
    sentence: str
    unlimited: bool = False  # whatever is negative is "no limit"

    def check(self, value: int) -> None:
        """Raises BadRequest for a value that is given and out of the range."""
        if value and not self.least <= value <= self.most and not (self.unlimited and value < 0):
            raise BadRequest(f"Invalid value {value} for {self.name}: {self.sentence}")


_PERIOD = "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)"
_RANGES = {
    "memory": _Range("Memory", _LEAST_MEMORY, _MOST, "Minimum memory limit allowed is 6MB"),
    "memory_swap": _Range("MemorySwap", 1, _MOST, "the memory swap limit is too large", unlimited=True),
    "memory_reservation": _Range("MemoryReservation", _LEAST_MEMORY, _MOST, "Minimum memory reservation allowed is 6MB"),
    "cpu_shares": _Range("CpuShares", 1, _MOST, "valid CPU shares are 2 to 262144"),
    "cpu_period": _Range("CpuPeriod", 1000, 1000000, _PERIOD),
    "cpu_quota": _Range("CpuQuota", 1000, _QUOTA_MAX, f"CPU cfs quota can not be less than 1ms (i.e. 1000) or larger than {_QUOTA_MAX}", unlimited=True),
    "pids_limit": _Range("PidsLimit", 1, _PIDS_MAX, f"the pids limit can not be larger than {_PIDS_MAX}, which is all that a kernel has; -1 is no limit", unlimited=True),
    "blkio_weight": _Range("BlkioWeight", 10, 1000, "Range of blkio weight is from 10 to 1000"),
}  # fmt: skip
_OOM_SCORE = _Range("OomScoreAdj", -1000, 1000, "range for oom score adj is [-1000, 1000]")
_SHM = _Range("ShmSize", 1, _MOST, "SHM size can not be less than 0")


def check(host: HostConfig) -> list[str]:
    """The warnings for limits that can be. Raises BadRequest, with the field's name, for those that can't."""
    limits = host.limits
    for attribute, allowed in _RANGES.items():
        allowed.check(getattr(limits, attribute))
    _OOM_SCORE.check(host.oom_score_adj)
    _SHM.check(host.shm_size)
    _check_cpus(limits)
    _check_realtime(limits)
    _check_memory(limits)
    check_ulimits(host)
    _check_devices(limits)
    _check_parent(host.cgroup_parent)
    return _warnings(limits)


def _warnings(limits: Limits) -> list[str]:
    """What is not, or not quite, as it was asked for on this machine."""
    found, shares = [], limits.cpu_shares
    if shares and not _SHARES[0] <= shares <= _SHARES[1]:
        found.append(
            f"CpuShares {shares} is out of the kernel's range: it is {min(max(shares, _SHARES[0]), _SHARES[1])}"
        )
    if limits.memory_swappiness >= 0 and "memory" not in hierarchies().v1:
        found.append(
            "Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. Memory swappiness discarded."
        )
    return found


def _check_realtime(limits: Limits) -> None:
    period, runtime = limits.realtime_period, limits.realtime_runtime
    if not period and not runtime:
        return
    if period < 0 or runtime < 0:
        raise BadRequest(
            f"Invalid value {min(period, runtime)} for CpuRealtimePeriod or CpuRealtimeRuntime: it can't be negative"
        )
    if not os.path.exists(f"{hierarchies().v1.get('cpu', '')}/cpu.rt_period_us"):
        raise BadRequest("Your kernel does not support CPU real-time scheduler (CpuRealtimePeriod, CpuRealtimeRuntime)")
    if period and runtime > period:
        raise BadRequest("cpu real-time runtime cannot be higher than cpu real-time period (CpuRealtimeRuntime)")


def _check_devices(limits: Limits) -> None:
    for weight in limits.device_weights:
        if not 10 <= weight.weight <= 1000:
            raise BadRequest(
                f"Invalid value {weight.weight} for BlkioWeightDevice: Range of blkio weight is from 10 to 1000"
            )
    for name, rows in (("ReadBps", limits.read_bps), ("WriteBps", limits.write_bps), ("ReadIOps", limits.read_iops),
                       ("WriteIOps", limits.write_iops)):  # fmt: skip
        for row in rows:
            if row.rate < 1:
                raise BadRequest(f"Invalid value {row.rate} for BlkioDevice{name}: a rate is 1 or more")


def _check_parent(parent: str) -> None:
    if parent and (not parent.strip("/") or {".", "..", ""} & set(parent.strip("/").split("/"))):
        raise BadRequest(f"invalid CgroupParent {parent!r}: a path of names is wanted, such as /group or group/part")


def _check_cpus(limits: Limits) -> None:
    cpus, available = limits.nano_cpus, os.cpu_count() or 1
    if cpus and not _LEAST_CPUS <= cpus <= available * 10**9:
        raise BadRequest(
            f"Invalid value {cpus} for NanoCpus: range of CPUs is from 0.01 to {available}.00, as there are only {available} CPUs available"
        )
    for other, name in ((limits.cpu_period, "CPU Period"), (limits.cpu_quota, "CPU Quota")):
        if cpus and other:
            raise BadRequest(f"Conflicting options: Nano CPUs and {name} cannot both be set")
    _check_set(limits.cpuset_cpus, "CpusetCpus", "cpuset cpus", "CPUs", "/sys/devices/system/cpu/online")
    _check_set(limits.cpuset_mems, "CpusetMems", "cpuset mems", "memory nodes", "/sys/devices/system/node/has_memory")


def _check_memory(limits: Limits) -> None:
    memory, swap, reservation = limits.memory, limits.memory_swap, limits.memory_reservation
    if not -1 <= limits.memory_swappiness <= 100:
        raise BadRequest(
            f"Invalid value {limits.memory_swappiness} for MemorySwappiness: valid memory swappiness range is 0-100"
        )
    if 0 < swap < memory:
        raise BadRequest("MemorySwap: Minimum memoryswap limit should be larger than memory limit, see usage")
    if memory and reservation > memory:
        raise BadRequest(
            "Memory: Minimum memory limit can not be less than memory reservation limit (MemoryReservation), see usage"
        )


def _check_set(text: str, key: str, what: str, noun: str, online: str) -> None:
    """A list like "0-2,4" against the one of those that there are."""
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


def check_health(check: HealthCheck | None) -> None:
    """Raises BadRequest, with Docker's sentences."""
    if check is None:
        return
    for name in ("interval", "timeout", "start_period", "start_interval"):
        if getattr(check, name) and getattr(check, name) < _LEAST_PAUSE:
            key = name.title().replace("_", "")
            raise BadRequest(f"{key} in Healthcheck cannot be less than 1ms")
    if check.retries < 0:
        raise BadRequest("Retries in Healthcheck cannot be negative")


def check_ulimits(host: HostConfig) -> None:
    """Resource limits of processes (setrlimit(2)). Raises BadRequest."""
    for limit in host.ulimits:
        name, soft, hard = limit.name, limit.soft, limit.hard
        if not hasattr(resource, f"RLIMIT_{name.upper()}"):
            raise BadRequest(f"Ulimits: invalid ulimit type: {name}")
        if soft < -1 or hard < -1:
            raise BadRequest(f"Ulimits: {name}: a limit is 0 or more, or -1 for none, not {min(soft, hard)}")
        if soft > hard >= 0 or soft < 0 <= hard:
            raise BadRequest(f"ulimit soft limit must be less than or equal to hard limit: {soft} > {hard} ({name})")


def check_system_vm(wanted: SystemVm, disk_size: int) -> None:
    """The shape of a system VM; its disk in bytes, 0 for what its source has. Raises BadRequest."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for key, value, least, most, unit in (
        ("Cpus", wanted.cpus, 1, 255, ""),
        ("Memory", wanted.memory, 64 << 20, memory, " bytes"),
        ("DiskSize", disk_size, 1, _MOST, " bytes"),
    ):
        if value and not least <= value <= most:
            raise BadRequest(f"Invalid value {value} for {key}: a virtual machine has {least} to {most}{unit}")
