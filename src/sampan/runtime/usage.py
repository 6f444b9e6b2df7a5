"""What a container uses, from its control group, in the shape of the API's `stats` and `top`.

What is below /proc/PID comes from who knows that the number is the container's still (Container.open_process, pidfd.held_members).
"""

from __future__ import annotations

import os
import time

from sampan.linux import pidfd
from sampan.linux.cgroup import Cgroup
from sampan.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sampan.runtime.usage_types import CpuStats, MemoryStats, NetworkStats, Usage


def _numbers(path: str) -> dict[str, int]:
    try:
        with open(path, encoding="ascii") as file:
            rows = [line.split() for line in file]
    except OSError:
        return {}
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdecimal()}


def _number(path: str) -> int:
    try:
        with open(path, encoding="ascii") as file:
            text = file.read().strip()
    except OSError:
        return 0
    return int(text) if text.isdecimal() else 0


def _system_usage() -> int:
    """CPU time of the whole host in nanoseconds, from the first line of /proc/stat."""
    with open("/proc/stat", encoding="ascii") as file:
        fields = file.readline().split()[1:8]
    return sum(int(field) for field in fields) * (10**9 // os.sysconf("SC_CLK_TCK"))


def _memory_total() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def sample(group: Cgroup, devices: bytes) -> Usage:
    """cpu_stats, memory_stats, pids_stats and networks of a container; `devices` is the text of its /proc/net/dev."""
    v1 = group.directories()
    top = group.v2_directory or ""
    if "cpuacct" in v1:
        usage = _number(f"{v1['cpuacct']}/cpuacct.usage")
        user = _number(f"{v1['cpuacct']}/cpuacct.usage_user")
        throttling = _numbers(f"{v1.get('cpu')}/cpu.stat")
        throttled = throttling.get("throttled_time", 0)
    else:
        throttling = _numbers(f"{top}/cpu.stat")
        usage, user = throttling.get("usage_usec", 0) * 1000, throttling.get("user_usec", 0) * 1000
        throttled = throttling.get("throttled_usec", 0) * 1000
    cpu: CpuStats = {
        "cpu_usage": {"total_usage": usage, "usage_in_usermode": user, "usage_in_kernelmode": max(0, usage - user)},
        "system_cpu_usage": _system_usage(),
        "online_cpus": os.cpu_count(),
        "throttling_data": {
            "periods": throttling.get("nr_periods", 0),
            "throttled_periods": throttling.get("nr_throttled", 0),
            "throttled_time": throttled,
        },
    }
    pids = v1.get("pids", top)
    return {
        "cpu_stats": cpu,
        "memory_stats": _memory(v1.get("memory"), top),
        "pids_stats": {
            "current": _number(f"{pids}/pids.current"),
            "limit": _number(f"{pids}/pids.max") or 2**64 - 1,
        },
        "networks": _networks(devices),
    }


@record
class Reading:
    """What a container uses at a moment: CPU time in nanoseconds, memory and its limit in bytes, (received, sent) by interface."""

    cpu: int
    memory: int
    limit: int
    processes: int
    networks: dict[str, tuple[int, int]]


def reading(group: Cgroup, devices: bytes) -> Reading:
    """The few numbers of sample() that a list of containers shows, in a few small files: a thousand of them are read at a time."""
    v1, top, total = group.directories(), group.v2_directory or "", _memory_total()
    memory, pids = v1.get("memory"), v1.get("pids", top)
    if "cpuacct" in v1:
        cpu = _quick_number(f"{v1['cpuacct']}/cpuacct.usage")
    else:
        words = _quick(f"{top}/cpu.stat").split(None, 2)
        cpu = int(words[1]) * 1000 if words[:1] == [b"usage_usec"] else 0
    used, most = ("memory.usage_in_bytes", "memory.limit_in_bytes") if memory else ("memory.current", "memory.max")
    limit = _quick_number(f"{memory or top}/{most}") or total
    return Reading(
        cpu=cpu,
        memory=_quick_number(f"{memory or top}/{used}"),
        limit=min(limit, total),
        processes=_quick_number(f"{pids}/pids.current"),
        networks={name: (values[0], values[8]) for name, values in _interfaces(devices)},
    )


def _quick(path: str) -> bytes:
    """The beginning of a small file, without the layers of open(); nothing when it is gone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, 4096)
    except OSError:
        return b""
    finally:
        os.close(fd)


def _quick_number(path: str) -> int:
    text = _quick(path).strip()
    return int(text) if text.isdigit() else 0


def _interfaces(devices: bytes) -> Iterator[tuple[str, list[int]]]:
    """(name, the numbers) of each line of a /proc/net/dev, but for the loopback's."""
    for line in devices.splitlines()[2:]:
        name, _, rest = line.partition(b":")
        values = rest.split()
        if len(values) > 11 and name.strip() != b"lo":
            yield name.strip().decode(errors="replace"), [int(value) for value in values]


def _memory(v1: str | None, top: str) -> MemoryStats:
    total = _memory_total()
    if v1:
        limit = min(_number(f"{v1}/memory.limit_in_bytes") or total, total)
        details = _numbers(f"{v1}/memory.stat")
        peak = _number(f"{v1}/memory.max_usage_in_bytes")
        return {"usage": _number(f"{v1}/memory.usage_in_bytes"), "max_usage": peak, "stats": details, "limit": limit}
    limit = _number(f"{top}/memory.max") or total
    return {
        "usage": _number(f"{top}/memory.current"),
        "stats": _numbers(f"{top}/memory.stat"),
        "limit": min(limit, total),
    }


def _networks(devices: bytes) -> dict[str, NetworkStats]:
    return {
        name: {
            "rx_bytes": values[0],
            "rx_packets": values[1],
            "rx_errors": values[2],
            "rx_dropped": values[3],
            "tx_bytes": values[8],
            "tx_packets": values[9],
            "tx_errors": values[10],
            "tx_dropped": values[11],
        }
        for name, values in _interfaces(devices)
    }


def processes(members: Callable[[], list[int]]) -> list[list[str]]:
    """The columns of `ps -ef` (with numeric users) of the processes that `members()` lists."""
    ticks = os.sysconf("SC_CLK_TCK")
    rows = []
    for pid, directory in pidfd.held_members(lambda: sorted(members())):
        try:
            head, _, tail = pidfd.read_at(directory, "stat").rpartition(b")")
            command = pidfd.read_at(directory, "cmdline").replace(b"\0", b" ").decode(errors="replace").strip()
            uid = os.fstat(directory).st_uid
        except OSError:
            continue
        fields = tail.split()
        seconds = (int(fields[11]) + int(fields[12])) // ticks
        started = time.strftime("%H:%M", time.localtime(_boot_time() + int(fields[19]) / ticks))
        name = command or f"[{head.partition(b'(')[2].decode(errors='replace')}]"
        clock = f"{seconds // 3600:02}:{seconds % 3600 // 60:02}:{seconds % 60:02}"
        rows.append([str(uid), str(pid), fields[1].decode(), "0", started, "?", clock, name])
    return rows


def _boot_time() -> float:
    with open("/proc/uptime", encoding="ascii") as file:
        return time.time() - float(file.read().split()[0])
