"""The command `volume`."""

from __future__ import annotations

from sampan.cli import pruning
from sampan.cli.arguments import each, filters, need
from sampan.cli.flags import LIST, STR, Flag, UsageError, parse
from sampan.cli.options import pairs
from sampan.cli.output import rows_out
from sampan.cli.system import inspect
from sampan.client.connection import engine
from sampan.client.http import query


def volume(args: list[str]) -> int:
    """volume create|ls|inspect|rm|prune"""
    need(args, 1, "volume create|ls|inspect|rm|prune")
    verb, rest = args[0], args[1:]
    if verb == "inspect":
        return inspect(["--type", "volume", *rest])
    if verb == "rm":
        return each(
            "rm VOLUME...",
            [Flag("force", "f")],
            lambda http, name, v: http.call("DELETE", f"/volumes/{name}" + query(force=v["force"])),
        )(rest)
    if verb == "prune":
        return pruning.volumes(rest)
    http = engine()
    if verb == "create":
        v, names = parse([Flag("label", "", LIST), Flag("driver", "d", STR), Flag("opt", "o", LIST)], rest)
        body = {"Name": names[0] if names else "", "Labels": pairs(v["label"]), "DriverOpts": pairs(v["opt"]),
                "Driver": v["driver"]}  # fmt: skip
        print(http.call("POST", "/volumes/create", body)["Name"])
    elif verb == "ls":
        v, _ = parse([Flag("filter", "f", LIST), Flag("quiet", "q"), Flag("format", "", STR)], rest)
        found = http.call("GET", "/volumes" + query(filters=filters(v["filter"])))["Volumes"]
        if v["quiet"]:
            print("\n".join(row["Name"] for row in found))
            return 0
        return rows_out(
            [{"Driver": row["Driver"], "Name": row["Name"]} for row in found],
            [("DRIVER", "Driver"), ("VOLUME NAME", "Name")],
            v["format"],
        )
    else:
        raise UsageError(f"unknown command: sampan volume {verb}")
    return 0
