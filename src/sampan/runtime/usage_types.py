"""Types of what a container uses, in the shape of the API's `stats` (runtime/usage): nanoseconds and bytes.

Type checkers alone import this: at run time these are plain dicts, as guests tell them.
"""

from __future__ import annotations

from typing import TypedDict


class CpuUsage(TypedDict):
    """CPU time since the container was started, in nanoseconds."""

    total_usage: int
    usage_in_usermode: int
    usage_in_kernelmode: int


class Throttling(TypedDict):
    """How often and for how long its quota was used up; nanoseconds."""

    periods: int
    throttled_periods: int
    throttled_time: int


class CpuStats(TypedDict, total=False):
    """CPU time of the container, and of the whole host."""

    cpu_usage: CpuUsage
    system_cpu_usage: int
    online_cpus: int | None
    throttling_data: Throttling


class MemoryStats(TypedDict, total=False):
    """Bytes; `stats` is the kernel's memory.stat."""

    usage: int
    limit: int
    max_usage: int
    failcnt: int
    stats: dict[str, int]


class PidsStats(TypedDict, total=False):
    """Processes."""

    current: int
    limit: int


class NetworkStats(TypedDict):
    """Bytes and packets of one interface."""

    rx_bytes: int
    rx_packets: int
    rx_errors: int
    rx_dropped: int
    tx_bytes: int
    tx_packets: int
    tx_errors: int
    tx_dropped: int


class Usage(TypedDict, total=False):
    """What a container uses at a moment."""

    cpu_stats: CpuStats
    memory_stats: MemoryStats
    pids_stats: PidsStats
    networks: dict[str, NetworkStats]
