"""The commands on the engine as a whole."""

from __future__ import annotations

import sys

from sampan.cli.flags import Values
from sampan.cli.output import human, table
from sampan.client.connection import engine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_INFO = ("Containers", "ContainersRunning", "ContainersPaused", "ContainersStopped", "Images", "ServerVersion", "Driver", "CgroupDriver",
         "CgroupVersion", "KernelVersion", "OperatingSystem", "Architecture", "NCPU", "MemTotal", "DockerRootDir")  # fmt: skip


def info(v: Values, names: list[str]) -> int:
    """info"""
    found = engine().call("GET", "/info")
    if v.text("format"):
        from sampan.cli.output import expand

        print(expand("{{json .}}" if v.text("format") == "json" else v.text("format"), found))
        return 0
    for key in _INFO:
        print(f"{key}: {found[key]}")
    for text in found.get("Warnings") or []:
        print(text, file=sys.stderr)
    return 0


def version(v: Values, names: list[str]) -> int:
    """version"""
    import sampan

    print(f"Client: {sampan.__version__}")
    found = engine().call("GET", "/version")
    api = f"API {found['ApiVersion']}, minimum {found['MinAPIVersion']}"
    print(f"Engine: {found['Version']} ({api}, kernel {found['KernelVersion']})")
    return 0


def df(v: Values, names: list[str]) -> int:
    """system df: what takes room on the disk."""
    found = engine().call("GET", "/system/df")
    images, containers, volumes = found["Images"], found["Containers"], found["Volumes"]
    rows = [
        ["TYPE", "TOTAL", "ACTIVE", "SIZE"],
        _row("Images", images, [row for row in images if row["Containers"]], found["LayersSize"]),
        _row("Containers", containers, [row for row in containers if row["State"] == "running"], sum(row["SizeRw"] for row in containers)),
        _row("Local Volumes", volumes, [row for row in volumes if row["UsageData"]["RefCount"]], sum(row["UsageData"]["Size"] for row in volumes)),
    ]  # fmt: skip
    table(rows)
    return 0


def _row(title: str, found: list[dict[str, Any]], active: list[dict[str, Any]], size: int) -> list[str]:
    return [title, str(len(found)), str(len(active)), human(size)]


def daemon(v: Values, names: list[str]) -> int:
    """daemon: runs sampand in the foreground."""
    from importlib import import_module

    sys.argv = ["sampand", *names]
    import_module("sampan.api.daemon").main()
    return 0
