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


class Limits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What can be changed while a container runs. 0 and "" are "not given" everywhere; negative is "no limit" where that is."""

    memory: int = 0  # bytes
    memory_swap: int = 0  # bytes of memory and swap together
    memory_reservation: int = 0  # bytes; enforced when memory is short
    memory_swappiness: int = 0  # shown: -1 and 0, the kernel's own, are all there is
    oom_kill_disable: bool = False
    nano_cpus: int = 0  # 1e-9 of a CPU
    cpu_shares: int = 0  # relative weight; 1024 is the middle
    cpu_period: int = 0  # microseconds
    cpu_quota: int = 0  # microseconds in each period
    cpuset_cpus: str = ""  # such as "0-2,4"
    cpuset_mems: str = ""
    pids_limit: int = 0
    blkio_weight: int = 0  # relative weight, 10 to 1000
