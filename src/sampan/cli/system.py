"""The commands on the engine as a whole."""

from __future__ import annotations

import json
import sys

from sampan.cli.arguments import filters, need
from sampan.cli.flags import LIST, STR, Flag, UsageError, parse
from sampan.cli.output import human, table
from sampan.cli.run import fail
from sampan.client.connection import engine
from sampan.client.http import APIError, query


def inspect(args: list[str]) -> int:
    """inspect NAME..."""
    v, names = parse([Flag("format", "f", STR), Flag("size", "s"), Flag("type", "", STR)], args)
    need(names, 1, "inspect NAME|ID...")
    http, found, status = engine(), [], 0
    kinds = {
        "container": "/containers/{}/json",
        "image": "/images/{}/json",
        "volume": "/volumes/{}",
        "network": "/networks/{}",
    }
    wanted = [v["type"]] if v["type"] else list(kinds)
    for name in names:
        for kind in wanted:
            try:
                found.append(http.call("GET", kinds[kind].format(name)))
                break
            except APIError as error:
                if error.status != 404:
                    raise
        else:
            status = fail(APIError(404, f"no such object: {name}"), 1)
    if v["format"]:
        from sampan.cli.output import expand

        for item in found:
            print(expand(v["format"], item))
    else:
        print(json.dumps(found, indent=4))
    return status


def events(args: list[str]) -> int:
    """events"""
    v, _ = parse(
        [Flag("filter", "f", LIST), Flag("format", "", STR), Flag("since", "", STR), Flag("until", "", STR)], args
    )
    wanted = query(filters=filters(v["filter"]), since=v["since"] or None, until=v["until"] or None)
    for line in engine().send("GET", f"/events{wanted}").lines():
        if v["format"] == "json":
            print(line.decode(), flush=True)
            continue
        event = json.loads(line)
        attributes = ", ".join(f"{k}={x}" for k, x in sorted(event["Actor"]["Attributes"].items()))
        import datetime

        when = datetime.datetime.fromtimestamp(event["time"], datetime.UTC).isoformat()
        print(f"{when} {event['Type']} {event['Action']} {event['Actor']['ID']} ({attributes})", flush=True)
    return 0


def info(args: list[str]) -> int:
    """info"""
    v, _ = parse([Flag("format", "f", STR)], args)
    found = engine().call("GET", "/info")
    if v["format"]:
        from sampan.cli.output import expand

        print(expand(v["format"], found))
        return 0
    for key in ("Containers", "ContainersRunning", "ContainersPaused", "ContainersStopped", "Images", "ServerVersion", "Driver", "CgroupDriver",
                "CgroupVersion", "KernelVersion", "OperatingSystem", "Architecture", "NCPU", "MemTotal", "DockerRootDir"):  # fmt: skip
        print(f"{key}: {found[key]}")
    for text in found.get("Warnings") or []:
        print(text, file=sys.stderr)
    return 0


def version(args: list[str]) -> int:
    """version"""
    import sampan

    print(f"Client: {sampan.__version__}")
    found = engine().call("GET", "/version")
    print(
        f"Engine: {found['Version']} (API {found['ApiVersion']}, minimum {found['MinAPIVersion']}, kernel {found['KernelVersion']})"
    )
    return 0


def system(args: list[str]) -> int:
    """system df|prune|info|events"""
    need(args, 1, "system df|prune|info|events")
    if args[0] in ("info", "events"):
        return {"info": info, "events": events}[args[0]](args[1:])
    if args[0] == "prune":
        from sampan.cli import pruning

        return pruning.system(args[1:])
    if args[0] != "df":
        raise UsageError(f"unknown command: sampan system {args[0]}")
    found = engine().call("GET", "/system/df")
    rows = [["TYPE", "TOTAL", "ACTIVE", "SIZE"]]
    rows.append(
        [
            "Images",
            str(len(found["Images"])),
            str(sum(1 for i in found["Images"] if i["Containers"])),
            human(found["LayersSize"]),
        ]
    )
    running = sum(1 for c in found["Containers"] if c["State"] == "running")
    rows.append(
        [
            "Containers",
            str(len(found["Containers"])),
            str(running),
            human(sum(c["SizeRw"] for c in found["Containers"])),
        ]
    )
    used = sum(1 for x in found["Volumes"] if x["UsageData"]["RefCount"])
    rows.append(
        [
            "Local Volumes",
            str(len(found["Volumes"])),
            str(used),
            human(sum(x["UsageData"]["Size"] for x in found["Volumes"])),
        ]
    )
    table(rows)
    return 0


def daemon(args: list[str]) -> int:
    """daemon: runs sampand in the foreground"""
    from importlib import import_module

    sys.argv = ["sampand", *args]
    import_module("sampan.api.daemon").main()
    return 0
