"""Types of what `linux/` takes from the OCI runtime specification (config-linux.md): resources, seccomp, scheduling.

Type checkers alone import this: at run time these are plain dicts, as they came out of JSON.
"""

from __future__ import annotations

from typing import TypedDict


class MemoryLimits(TypedDict, total=False):
    """linux.resources.memory; bytes, -1 is unlimited."""

    limit: int
    swap: int
    reservation: int
    swappiness: int | None
    disableOOMKiller: bool


class CpuLimits(TypedDict, total=False):
    """linux.resources.cpu; times in microseconds, `cpus` and `mems` as in "0-3,7"."""

    shares: int
    quota: int
    period: int
    burst: int
    realtimeRuntime: int
    realtimePeriod: int
    cpus: str
    mems: str
    idle: int


class PidsLimit(TypedDict, total=False):
    """linux.resources.pids; -1 is unlimited."""

    limit: int


class DeviceWeight(TypedDict, total=False):
    """A weight of one block device."""

    major: int
    minor: int
    weight: int


class DeviceRate(TypedDict):
    """Bytes or operations in a second, of one block device."""

    major: int
    minor: int
    rate: int


class BlockLimits(TypedDict, total=False):
    """linux.resources.blockIO."""

    weight: int
    weightDevice: list[DeviceWeight]
    throttleReadBpsDevice: list[DeviceRate]
    throttleWriteBpsDevice: list[DeviceRate]
    throttleReadIOPSDevice: list[DeviceRate]
    throttleWriteIOPSDevice: list[DeviceRate]


class HugepageLimit(TypedDict):
    """One of linux.resources.hugepageLimits; `limit` in bytes."""

    pageSize: str
    limit: int


class NetworkPriority(TypedDict):
    """One of linux.resources.network.priorities."""

    name: str
    priority: int


class NetworkLimits(TypedDict, total=False):
    """linux.resources.network: net_cls and net_prio of cgroup v1."""

    classID: int
    priorities: list[NetworkPriority]


class DeviceRule(TypedDict, total=False):
    """One of linux.resources.devices; without a type, number or access: all of them."""

    allow: bool
    type: str
    major: int | None
    minor: int | None
    access: str


class RdmaLimit(TypedDict, total=False):
    """One of linux.resources.rdma."""

    hcaHandles: int
    hcaObjects: int


class Resources(TypedDict, total=False):
    """linux.resources."""

    devices: list[DeviceRule]
    memory: MemoryLimits
    cpu: CpuLimits
    pids: PidsLimit
    blockIO: BlockLimits
    hugepageLimits: list[HugepageLimit]
    network: NetworkLimits
    rdma: dict[str, RdmaLimit]
    unified: dict[str, str]


class SeccompCondition(TypedDict, total=False):
    """A comparison of one argument of a system call."""

    index: int
    value: int
    valueTwo: int
    op: str


class SeccompRule(TypedDict, total=False):
    """One of linux.seccomp.syscalls."""

    names: list[str]
    action: str
    errnoRet: int
    args: list[SeccompCondition]


class SeccompSection(TypedDict, total=False):
    """linux.seccomp."""

    defaultAction: str
    defaultErrnoRet: int
    architectures: list[str]
    flags: list[str]
    listenerPath: str
    listenerMetadata: str
    syscalls: list[SeccompRule]


# `class` is a word of the language.
IoPriority = TypedDict("IoPriority", {"class": str, "priority": int}, total=False)


class Scheduler(TypedDict, total=False):
    """process.scheduler, as of sched_setattr(2); times in nanoseconds."""

    policy: str
    nice: int
    priority: int
    flags: list[str]
    runtime: int
    deadline: int
    period: int


class Scheduling(TypedDict, total=False):
    """The members of `process` that linux/scheduling reads."""

    ioPriority: IoPriority
    scheduler: Scheduler
    execCPUAffinity: dict[str, str]


class TimeOffset(TypedDict, total=False):
    """One of linux.timeOffsets."""

    secs: int
    nanosecs: int
