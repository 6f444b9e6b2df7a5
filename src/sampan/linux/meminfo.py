"""The machine's memory (/proc/meminfo, proc(5))."""

from __future__ import annotations


def read() -> dict[str, int]:
    """Bytes by name, without the colon: MemTotal, MemAvailable, SUnreclaim, ..."""
    with open("/proc/meminfo", encoding="ascii") as file:
        return {name: int(rest.split()[0]) << 10 for name, _, rest in (line.partition(":") for line in file)}
