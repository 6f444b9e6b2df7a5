"""What a container may use of the machine: limits of its control group and of its processes (Docker's Resources)."""

from __future__ import annotations

import msgspec


class Ulimit(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A limit of each process (setrlimit(2)). `name` is that of RLIMIT_NAME in small letters; -1 is no limit."""

    name: str = ""
    soft: int = 0
    hard: int = 0


class Device(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A device node of the host's. `path` "" is the same path; `access` is of r, w and m, "" for all."""

    host_path: str = ""
    path: str = ""
    access: str = ""


class DeviceRate(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """How much a block device of the host's may be read or written: bytes or operations a second."""

    path: str = ""
    rate: int = 0


class DeviceWeight(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A relative weight, 10 to 1000, on a block device of the host's."""

    path: str = ""
    weight: int = 0


class Limits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What can be changed while a container runs. 0 and "" are "not given" everywhere; negative is "no limit" where that is."""

    memory: int = 0  # bytes
    memory_swap: int = 0  # bytes of memory and swap together
    memory_reservation: int = 0  # bytes; enforced when memory is short
    memory_swappiness: int = -1  # percent; -1 is "not given", and 0 is a value
    oom_kill_disable: bool = False
    nano_cpus: int = 0  # 1e-9 of a CPU
    cpu_shares: int = 0  # relative weight; 1024 is the middle
    cpu_period: int = 0  # microseconds
    cpu_quota: int = 0  # microseconds in each period
    cpuset_cpus: str = ""  # such as "0-2,4"
    cpuset_mems: str = ""
    pids_limit: int = 0
    realtime_period: int = 0  # microseconds
    realtime_runtime: int = 0  # microseconds in each period
    blkio_weight: int = 0  # relative weight, 10 to 1000
    device_weights: tuple[DeviceWeight, ...] = ()
    read_bps: tuple[DeviceRate, ...] = ()
    write_bps: tuple[DeviceRate, ...] = ()
    read_iops: tuple[DeviceRate, ...] = ()
    write_iops: tuple[DeviceRate, ...] = ()
