"""vm: virtual machines."""

from __future__ import annotations

from sampan import sizes
from sampan.cli import transfers
from sampan.cli.flags import INT, STR, Flag, UsageError, parse
from sampan.client.connection import engine
from sampan.client.http import query


def vm(args: list[str]) -> int:
    """vm prepare [--cpus N] [--memory SIZE]"""
    if args[:1] != ["prepare"]:
        raise UsageError("'sampan vm' knows prepare")
    v, rest = parse([Flag("cpus", "", INT), Flag("memory", "m", STR)], args[1:])
    if rest:
        raise UsageError("'sampan vm prepare' takes no arguments")
    try:
        memory = sizes.parse(v["memory"]) >> 20 if v["memory"] else None
    except ValueError as error:
        raise UsageError(f"invalid size: {error}") from None
    transfers.show(engine().send("POST", "/sampan/vm/prepare" + query(cpus=v["cpus"], memory=memory)).lines())
    return 0
