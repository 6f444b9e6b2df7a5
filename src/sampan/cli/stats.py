"""stats: what containers use."""

from __future__ import annotations

import sys

from sampan.cli.flags import Values
from sampan.cli.output import Row, human, rows_out
from sampan.client.connection import engine
from sampan.client.http import at, query

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_COLUMNS = [("CONTAINER ID", "ID"), ("NAME", "Name"), ("CPU %", "CPUPerc"), ("MEM USAGE / LIMIT", "MemUsage"), ("MEM %", "MemPerc"),
            ("NET I/O", "NetIO"), ("BLOCK I/O", "BlockIO"), ("PIDS", "PIDs")]  # fmt: skip


def stats(v: Values, names: list[str]) -> int:
    """stats: a table, again and again unless --no-stream."""
    http = engine()
    while True:
        wanted = query(all=v.on("all") or None)
        chosen = names or [row["Id"] for row in http.call("GET", f"/containers/json{wanted}")]
        shown = [
            _shown(http.call("GET", at("/containers/{}/stats?stream=0", name)), name, v.on("no-trunc"))
            for name in chosen
        ]
        if not v.on("no-stream") and sys.stdout.isatty():
            print("\033[H\033[2J", end="")
        rows_out(shown, _COLUMNS, v.text("format"))
        if v.on("no-stream"):
            return 0


def _shown(one: dict[str, Any], name: str, whole: bool) -> Row:
    cpu, before = one["cpu_stats"], one["precpu_stats"]
    used = cpu["cpu_usage"]["total_usage"] - before["cpu_usage"]["total_usage"]
    all_cpus = cpu.get("system_cpu_usage", 0) - before.get("system_cpu_usage", 0)
    percent = used / all_cpus * cpu.get("online_cpus", 1) * 100 if all_cpus > 0 else 0.0
    memory, networks = one["memory_stats"], (one.get("networks") or {}).values()
    usage, limit = memory.get("usage", 0), memory.get("limit", 0)
    fields = {
        "Container": name,
        "ID": one["id"] if whole else one["id"][:12],
        "Name": one["name"][1:],
        "CPUPerc": f"{percent:.2f}%",
        "MemUsage": f"{human(usage, 1024)} / {human(limit, 1024)}",
        "MemPerc": f"{usage / limit * 100 if limit else 0:.2f}%",
        "NetIO": f"{human(sum(row['rx_bytes'] for row in networks))} / {human(sum(row['tx_bytes'] for row in networks))}",
        "BlockIO": f"{human(_blocks(one, 'read'))} / {human(_blocks(one, 'write'))}",
        "PIDs": str(one["pids_stats"].get("current", 0)),
    }
    return Row(fields, "*container.statsContext")


def _blocks(one: dict[str, Any], operation: str) -> int:
    rows = (one.get("blkio_stats") or {}).get("io_service_bytes_recursive") or []
    return sum(int(row["value"]) for row in rows if row["op"].lower() == operation)
