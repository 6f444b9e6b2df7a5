"""The command `volume`."""

from __future__ import annotations

import json

from sampan.cli.arguments import confirmed, each, filters, need
from sampan.cli.flags import LIST, STR, Flag, UsageError, parse
from sampan.cli.options import pairs
from sampan.cli.output import human, rows_out
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
    elif verb == "prune":
        v, _ = parse([Flag("all", "a"), Flag("force", "f"), Flag("filter", "", LIST)], rest)
        if confirmed("all anonymous volumes not used by a container", v["force"]):
            wanted = json.dumps({"all": ["true"]}) if v["all"] else None
            answer = http.call("POST", "/volumes/prune" + query(filters=wanted))
            print("\n".join([*answer["VolumesDeleted"], f"Total reclaimed space: {human(answer['SpaceReclaimed'])}"]))
    else:
        raise UsageError(f"unknown command: sampan volume {verb}")
    return 0
