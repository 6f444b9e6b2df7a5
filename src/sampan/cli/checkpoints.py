"""The command `checkpoint`: the engine says that it has none, as Docker's does without its experimental features."""

from __future__ import annotations

from sampan.cli.flags import Values
from sampan.client.connection import engine
from sampan.client.http import at, query


def create(v: Values, names: list[str]) -> int:
    """checkpoint create"""
    body = {"CheckpointID": names[1], "CheckpointDir": v.text("checkpoint-dir"), "Exit": not v.on("leave-running")}
    engine().call("POST", at("/containers/{}/checkpoints", names[0]), body)
    print(names[1])
    return 0


def ls(v: Values, names: list[str]) -> int:
    """checkpoint ls"""
    found = engine().call(
        "GET", at("/containers/{}/checkpoints", names[0]) + query(dir=v.text("checkpoint-dir") or None)
    )
    print("\n".join(["CHECKPOINT NAME", *(row["Name"] for row in found)]))
    return 0


def rm(v: Values, names: list[str]) -> int:
    """checkpoint rm"""
    wanted = query(dir=v.text("checkpoint-dir") or None)
    engine().call("DELETE", at("/containers/{}/checkpoints/{}", *names) + wanted)
    return 0
