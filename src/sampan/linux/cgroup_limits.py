"""Resource limits of the runtime specification as writes to cgroup v1 and v2 files. Pure functions, and the error of a write."""

from __future__ import annotations

from collections.abc import Collection

from sampan.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.linux.spec_types import BlockLimits, CpuLimits, DeviceRate, MemoryLimits, Resources

V1_CONTROLLERS = ("memory", "cpu", "cpuacct", "cpuset", "pids", "devices", "freezer", "blkio",
                  "hugetlb", "net_cls", "net_prio", "perf_event", "rdma", "misc")  # fmt: skip


class LimitRefused(OSError):
    """The kernel does not take a limit: `strerror` names it with its value, `filename` its file."""

    def __str__(self) -> str:
        return f"{self.strerror} ({self.filename})"


@record
class Change:
    """One write: `value` to `file` of `controller`. `what` names the option for messages."""

    controller: str
    file: str
    value: str
    what: str
    optional: bool = False


def extra_controllers(resources: Resources) -> tuple[str, ...]:
    """The v1 controllers that these limits need beyond those every container joins."""
    extra = []
    cpu = resources.get("cpu") or {}
    if cpu.get("cpus") or cpu.get("mems"):
        extra.append("cpuset")
    if resources.get("hugepageLimits"):
        extra.append("hugetlb")
    if resources.get("network"):
        extra += ["net_cls", "net_prio"]
    return tuple(extra)


def changes(resources: Resources, v1: Collection[str], v2: Collection[str]) -> list[Change]:
    """All writes for `linux.resources`, for the hierarchies on which each controller lives."""
    out: list[Change] = []
    out += _memory(resources.get("memory") or {}, "memory" in v1)
    out += _cpu(resources.get("cpu") or {}, "cpu" in v1)
    limit = (resources.get("pids") or {}).get("limit")
    if limit:
        out.append(Change("pids", "pids.max", "max" if limit < 0 else str(limit), "pids limit"))
    out += _block_io(resources.get("blockIO") or {}, "blkio" in v1)
    for entry in resources.get("hugepageLimits") or []:
        name = f"hugetlb.{entry['pageSize']}." + ("limit_in_bytes" if "hugetlb" in v1 else "max")
        out.append(Change("hugetlb", name, str(entry["limit"]), "huge page limit"))
    for name, value in (resources.get("unified") or {}).items():
        out.append(Change(name.split(".")[0], name, str(value), f"unified {name}"))
    return out


def before(content: str, value: str) -> list[str]:
    """What has to be written to a file with this content, so that it says again what it said before `value` was written."""
    lines = content.splitlines()
    device, _, limit = value.partition(" ")
    if ":" not in device:
        return lines
    # A line for each device that has a limit: those that have none have no line.
    own = [line for line in lines if line.partition(" ")[0] == device]
    if "=" in limit:
        return [f"{device} {limit.partition('=')[0]}=max", *own]
    return own or [f"{device} 0"]


def _memory(memory: MemoryLimits, v1: bool) -> list[Change]:
    limit, swap = memory.get("limit"), memory.get("swap")
    reservation = memory.get("reservation")
    out: list[Change] = []

    def text(value: int) -> str:
        return ("-1" if v1 else "max") if value < 0 else str(value)

    if v1:
        if limit:
            # memory.limit must stay under memsw.limit at every moment, whichever way both move:
            # lift the roof first, then set the limit, then the real roof.
            if swap:
                out.append(Change("memory", "memory.memsw.limit_in_bytes", "-1", "memory swap", True))
            out.append(Change("memory", "memory.limit_in_bytes", text(limit), "memory"))
        if swap:
            out.append(Change("memory", "memory.memsw.limit_in_bytes", text(swap), "memory swap", True))
        if reservation:
            name = "memory.soft_limit_in_bytes"
            out.append(Change("memory", name, text(reservation), "memory reservation", True))
        swappiness = memory.get("swappiness")
        if swappiness is not None and swappiness >= 0:
            out.append(Change("memory", "memory.swappiness", str(swappiness), "memory swappiness", True))
        if memory.get("disableOOMKiller"):
            out.append(Change("memory", "memory.oom_control", "1", "oom-kill-disable", True))
        return out
    if limit:
        out.append(Change("memory", "memory.max", text(limit), "memory"))
    if swap:
        # v1 counts memory and swap together, v2 swap alone.
        value = -1 if swap < 0 else max(0, swap - max(limit or 0, 0))
        out.append(Change("memory", "memory.swap.max", text(value), "memory swap", True))
    if reservation:
        out.append(Change("memory", "memory.low", text(reservation), "memory reservation"))
    return out


def cpu_weight(shares: int) -> int:
    """cgroup v2's cpu.weight for v1's cpu.shares (2..262144 → 1..10000, linear, as in crun and runc)."""
    return 1 + (min(max(shares, 2), 262144) - 2) * 9999 // 262142


def _cpu(cpu: CpuLimits, v1: bool) -> list[Change]:
    out: list[Change] = []
    shares, quota, period = cpu.get("shares"), cpu.get("quota"), cpu.get("period")
    if shares:
        name, value = ("cpu.shares", shares) if v1 else ("cpu.weight", cpu_weight(shares))
        out.append(Change("cpu", name, str(value), "cpu shares"))
    if v1:
        if period:
            out.append(Change("cpu", "cpu.cfs_period_us", str(period), "cpu period"))
        if quota:
            out.append(Change("cpu", "cpu.cfs_quota_us", str(quota), "cpu quota"))
        if cpu.get("realtimePeriod"):
            out.append(Change("cpu", "cpu.rt_period_us", str(cpu["realtimePeriod"]), "cpu real-time period", True))
        if cpu.get("realtimeRuntime"):
            out.append(Change("cpu", "cpu.rt_runtime_us", str(cpu["realtimeRuntime"]), "cpu real-time runtime", True))
    elif quota or period:
        first = "max" if not quota or quota < 0 else str(quota)
        out.append(Change("cpu", "cpu.max", f"{first} {period or 100000}", "cpu quota"))
    for key in ("cpus", "mems"):
        if cpu.get(key):
            out.append(Change("cpuset", f"cpuset.{key}", str(cpu[key]), f"cpuset {key}"))
    return out


_THROTTLE = {
    "throttleReadBpsDevice": ("blkio.throttle.read_bps_device", "rbps"),
    "throttleWriteBpsDevice": ("blkio.throttle.write_bps_device", "wbps"),
    "throttleReadIOPSDevice": ("blkio.throttle.read_iops_device", "riops"),
    "throttleWriteIOPSDevice": ("blkio.throttle.write_iops_device", "wiops"),
}


def _block_io(io: BlockLimits, v1: bool) -> list[Change]:
    controller = "blkio" if v1 else "io"
    out: list[Change] = []
    if io.get("weight"):
        if v1:
            out.append(Change(controller, "blkio.weight", str(io["weight"]), "blkio weight", True))
        else:
            weight = 1 + (io["weight"] - 10) * 9999 // 990
            out.append(Change(controller, "io.weight", f"default {weight}", "blkio weight", True))
    for row in io.get("weightDevice") or []:
        file, weight = (
            ("blkio.weight_device", row["weight"]) if v1 else ("io.weight", 1 + (row["weight"] - 10) * 9999 // 990)
        )
        out.append(
            Change(controller, file, f"{row['major']}:{row['minor']} {weight}", "blkio weight of a device", True)
        )
    for key, (v1_file, v2_key) in _THROTTLE.items():
        rates: list[DeviceRate] | None = io.get(key)  # type: ignore[assignment]
        for entry in rates or []:
            device = f"{entry['major']}:{entry['minor']}"
            if v1:
                out.append(Change(controller, v1_file, f"{device} {entry['rate']}", key))
            else:
                out.append(Change(controller, "io.max", f"{device} {v2_key}={entry['rate']}", key))
    return out
