"""The commands on the engine as a whole."""

from __future__ import annotations

import os
import sys

from sampan.cli.flags import Values
from sampan.cli.output import Row, object_out
from sampan.client.connection import engine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

API = "1.51"  # what this client asks for
_INFO = ("Containers", "ContainersRunning", "ContainersPaused", "ContainersStopped", "Images", "ServerVersion", "Driver", "CgroupDriver",
         "CgroupVersion", "KernelVersion", "OperatingSystem", "Architecture", "NCPU", "MemTotal", "DockerRootDir")  # fmt: skip


def info(v: Values, names: list[str]) -> int:
    """info"""
    found = engine().call("GET", "/info")
    if v.text("format"):
        return object_out(found, v.text("format"))
    for key in _INFO:
        print(f"{key}: {found[key]}")
    for text in found.get("Warnings") or []:
        print(text, file=sys.stderr)
    return 0


def version(v: Values, names: list[str]) -> int:
    """version"""
    import sampan

    if v.text("format"):
        client = {"Version": sampan.__version__, "ApiVersion": API, "Os": "linux", "Arch": os.uname().machine}
        return object_out(
            {"Client": _by_go(client), "Server": _by_go(engine().call("GET", "/version"))}, v.text("format")
        )
    print(f"Client: {sampan.__version__}")
    found = engine().call("GET", "/version")
    api = f"API {found['ApiVersion']}, minimum {found['MinAPIVersion']}"
    print(f"Engine: {found['Version']} ({api}, kernel {found['KernelVersion']})")
    return 0


def _by_go(found: dict[str, Any]) -> Row:
    """The fields of a version by the names that templates have for them."""
    names = {"ApiVersion": "APIVersion"}
    return Row({names.get(key, key): value for key, value in found.items()}, "*command.versionInfo", original=found)


def daemon(v: Values, names: list[str]) -> int:
    """daemon: runs sampand in the foreground."""
    from importlib import import_module

    sys.argv = ["sampand", *names]
    import_module("sampan.api.daemon").main()
    return 0
