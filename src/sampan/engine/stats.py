"""Usage of a container from its control groups, in the shape of the API's `stats`; and `top`."""

from __future__ import annotations

import os
import pwd
import time
from typing import Any

from sampan.engine.container import ZERO_TIME, Container, timestamp
from sampan.engine.errors import BadRequest
from sampan.linux.cgroup import Cgroup


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


def sample(container: Container, previous: dict[str, Any] | None) -> dict[str, Any]:
    """One sample. `previous` fills precpu_stats."""
    now = timestamp(time.time_ns())
    empty = {"cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0}, "throttling_data": {
        "periods": 0, "throttled_periods": 0, "throttled_time": 0}}  # fmt: skip
    result: dict[str, Any] = {
        "read": now if container.running else ZERO_TIME,
        "preread": previous["read"] if previous else ZERO_TIME,
        "name": f"/{container.name}",
        "id": container.id,
        "num_procs": 0,
        "pids_stats": {},
        "cpu_stats": empty,
        "precpu_stats": previous["cpu_stats"] if previous else empty,
        "memory_stats": {},
        "blkio_stats": {"io_service_bytes_recursive": None, "io_serviced_recursive": None},
        "storage_stats": {},
        "networks": {},
    }
    if not container.running:
        return result
    group = Cgroup(container.cgroup)
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
    result["cpu_stats"] = {
        "cpu_usage": {"total_usage": usage, "usage_in_usermode": user, "usage_in_kernelmode": max(0, usage - user)},
        "system_cpu_usage": _system_usage(),
        "online_cpus": os.cpu_count(),
        "throttling_data": {
            "periods": throttling.get("nr_periods", 0),
            "throttled_periods": throttling.get("nr_throttled", 0),
            "throttled_time": throttled,
        },
    }
    result["memory_stats"] = _memory(v1.get("memory"), top)
    pids = v1.get("pids", top)
    result["pids_stats"] = {
        "current": _number(f"{pids}/pids.current"),
        "limit": _number(f"{pids}/pids.max") or 2**64 - 1,
    }
    result["networks"] = _networks(container)
    return result


def _memory(v1: str | None, top: str) -> dict[str, Any]:
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


def _networks(container: Container) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if container.host_config.get("NetworkMode") == "host":
        return found
    try:
        with open(f"/proc/{container.state['Pid']}/net/dev", encoding="ascii") as file:
            lines = file.readlines()[2:]
    except OSError:
        return found
    for line in lines:
        name, _, rest = line.partition(":")
        values = [int(item) for item in rest.split()]
        if name.strip() != "lo":
            keys = ("rx_bytes", "rx_packets", "rx_errors", "rx_dropped")
            found[name.strip()] = {
                **dict(zip(keys, values[:4], strict=True)),
                **dict(zip([k.replace("rx", "tx") for k in keys], values[8:12], strict=True)),
            }
    return found


def top(container: Container, arguments: str) -> dict[str, Any]:
    """Titles and processes. Without `arguments` (or with -ef) the columns of `ps -ef`; else ps(1) itself."""
    pids = container.pids()
    if arguments not in ("", "-ef"):
        return _ps(arguments, pids)
    ticks = os.sysconf("SC_CLK_TCK")
    rows = []
    for pid in sorted(pids):
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                head, _, tail = file.read().rpartition(b")")
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                command = file.read().replace(b"\0", b" ").decode(errors="replace").strip()
            uid = os.stat(f"/proc/{pid}").st_uid
        except OSError:
            continue
        fields = tail.split()
        seconds = (int(fields[11]) + int(fields[12])) // ticks
        started = time.strftime("%H:%M", time.localtime(_boot_time() + int(fields[19]) / ticks))
        name = command or f"[{head.partition(b'(')[2].decode(errors='replace')}]"
        clock = f"{seconds // 3600:02}:{seconds % 3600 // 60:02}:{seconds % 60:02}"
        rows.append([_user(uid), str(pid), fields[1].decode(), "0", started, "?", clock, name])
    return {"Titles": ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"], "Processes": rows}


def _ps(arguments: str, pids: list[int]) -> dict[str, Any]:
    import subprocess

    answer = subprocess.run(["ps", *arguments.split()], capture_output=True, text=True)
    if answer.returncode:
        raise BadRequest(f"ps {arguments}: {answer.stderr.strip()}")
    lines = answer.stdout.splitlines()
    titles = lines[0].split()
    if "PID" not in titles:
        raise BadRequest("Couldn't find PID field in ps output")
    column = titles.index("PID")
    rows = [line.split(None, len(titles) - 1) for line in lines[1:]]
    return {"Titles": titles, "Processes": [row for row in rows if int(row[column]) in pids]}


def _boot_time() -> float:
    with open("/proc/uptime", encoding="ascii") as file:
        return time.time() - float(file.read().split()[0])


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
