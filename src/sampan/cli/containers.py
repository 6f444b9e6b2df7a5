"""The commands on containers, but for those that carry streams."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

from sampan.cli.arguments import each, filters, need, to_file
from sampan.cli.flags import BOOL, INT, LIST, STR, Flag, parse
from sampan.cli.options import size
from sampan.cli.output import human, rows_out, since, table
from sampan.cli.run import fail
from sampan.cli.session import copy_output
from sampan.client.connection import engine
from sampan.client.http import Http, query

_TIME = [Flag("time", "t", INT, "Seconds to wait before killing the container"), Flag("timeout", "", INT, "Same as --time"),
         Flag("signal", "s", STR, "Signal to send to the container")]  # fmt: skip


def _stopping(verb: str) -> Callable[[Http, str, dict[str, Any]], Any]:
    def action(http: Http, name: str, v: dict[str, Any]) -> None:
        seconds = v["time"] if v["time"] is not None else v["timeout"]
        http.call("POST", f"/containers/{name}/{verb}" + query(t=seconds, signal=v["signal"] or None))

    return action


stop = each("stop CONTAINER...", _TIME, _stopping("stop"))


restart = each("restart CONTAINER...", _TIME, _stopping("restart"))


kill = each("kill CONTAINER...", [Flag("signal", "s", STR, "Signal to send", "KILL")],
            lambda http, name, v: http.call("POST", f"/containers/{name}/kill" + query(signal=v["signal"])))  # fmt: skip


pause = each("pause CONTAINER...", [], lambda http, name, v: http.call("POST", f"/containers/{name}/pause"))


unpause = each("unpause CONTAINER...", [], lambda http, name, v: http.call("POST", f"/containers/{name}/unpause"))


wait = each("wait CONTAINER...", [], lambda http, name, v: http.call("POST", f"/containers/{name}/wait")["StatusCode"])


rm = each("rm CONTAINER...", [Flag("force", "f"), Flag("volumes", "v"), Flag("link", "l")],
          lambda http, name, v: http.call("DELETE", f"/containers/{name}" + query(force=v["force"], v=v["volumes"])))  # fmt: skip


def rename(args: list[str]) -> int:
    """rename CONTAINER NEW_NAME"""
    _, names = parse([], args)
    need(names, 2, "rename CONTAINER NEW_NAME")
    engine().call("POST", f"/containers/{names[0]}/rename" + query(name=names[1]))
    return 0


_UPDATE = [Flag("memory", "m", STR), Flag("memory-swap", "", STR), Flag("memory-reservation", "", STR), Flag("cpus", "", STR),
           Flag("cpu-shares", "c", INT), Flag("cpu-period", "", INT), Flag("cpu-quota", "", INT), Flag("cpuset-cpus", "", STR),
           Flag("cpuset-mems", "", STR), Flag("pids-limit", "", INT), Flag("blkio-weight", "", INT), Flag("restart", "", STR)]  # fmt: skip


def _update(http: Http, name: str, v: dict[str, Any]) -> None:
    policy, _, retries = v["restart"].partition(":")
    body = {
        "Memory": size(v["memory"], "memory") if v["memory"] else 0,
        "MemorySwap": size(v["memory-swap"], "memory-swap") if v["memory-swap"] else 0,
        "MemoryReservation": size(v["memory-reservation"], "memory-reservation") if v["memory-reservation"] else 0,
        "NanoCpus": round(float(v["cpus"]) * 10**9) if v["cpus"] else 0,
        "CpuShares": v["cpu-shares"], "CpuPeriod": v["cpu-period"], "CpuQuota": v["cpu-quota"],
        "CpusetCpus": v["cpuset-cpus"], "CpusetMems": v["cpuset-mems"], "PidsLimit": v["pids-limit"],
        "BlkioWeight": v["blkio-weight"],
        "RestartPolicy": {"Name": policy, "MaximumRetryCount": int(retries or 0)} if policy else None,
    }  # fmt: skip
    answer = http.call("POST", f"/containers/{name}/update", {k: x for k, x in body.items() if x})
    for warning in answer.get("Warnings") or []:
        print(f"WARNING: {warning}", file=sys.stderr)


update = each("update CONTAINER...", _UPDATE, _update)


def ps(args: list[str]) -> int:
    """ps"""
    flags = [Flag("all", "a"), Flag("filter", "f", LIST), Flag("format", "", STR), Flag("last", "n", INT), Flag("latest", "l"),
             Flag("no-trunc"), Flag("quiet", "q"), Flag("size", "s")]  # fmt: skip
    v, _ = parse(flags, args)
    limit = 1 if v["latest"] else v["last"]
    rows = engine().call("GET", "/containers/json" + query(all=v["all"] or None, limit=limit, size=v["size"] or None, filters=filters(v["filter"])))  # fmt: skip
    if v["quiet"]:
        for row in rows:
            print(row["Id"] if v["no-trunc"] else row["Id"][:12])
        return 0
    shown = [
        {
            "ID": row["Id"] if v["no-trunc"] else row["Id"][:12],
            "Image": row["Image"],
            "Command": json.dumps(
                row["Command"] if v["no-trunc"] or len(row["Command"]) <= 20 else row["Command"][:19] + "…",
                ensure_ascii=False,
            ),
            "CreatedAt": since(row["Created"]),
            "Status": row["Status"],
            "Ports": _ports(row["Ports"]),
            "Names": ",".join(name.removeprefix("/") for name in row["Names"]),
            "Labels": ",".join(f"{k}={x}" for k, x in row["Labels"].items()),
            "State": row["State"],
        }
        for row in rows
    ]
    columns = [("CONTAINER ID", "ID"), ("IMAGE", "Image"), ("COMMAND", "Command"), ("CREATED", "CreatedAt"), ("STATUS", "Status"),
               ("PORTS", "Ports"), ("NAMES", "Names")]  # fmt: skip
    return rows_out(shown, columns, v["format"])


def _ports(rows: list[dict[str, Any]]) -> str:
    """The PORTS column: "0.0.0.0:8080->80/tcp, 443/tcp"."""
    shown = []
    for row in rows:
        address = f"[{row['IP']}]" if ":" in row.get("IP", "") else row.get("IP", "")
        public = f"{address}:{row['PublicPort']}->" if "PublicPort" in row else ""
        shown.append(f"{public}{row['PrivatePort']}/{row['Type']}")
    return ", ".join(shown)


def port(args: list[str]) -> int:
    """port CONTAINER [PORT[/PROTOCOL]]"""
    need(args, 1, "port CONTAINER [PORT[/PROTOCOL]]")
    published = engine().call("GET", f"/containers/{args[0]}/json")["NetworkSettings"]["Ports"]
    wanted = (args[1] if "/" in args[1] else f"{args[1]}/tcp") if len(args) > 1 else None
    found = 0
    for key, rows in sorted(published.items()):
        for row in rows or []:
            if wanted in (None, key):
                address = f"[{row['HostIp']}]" if ":" in row["HostIp"] else row["HostIp"]
                print(f"{'' if wanted else key + ' -> '}{address}:{row['HostPort']}")
                found += 1
    if wanted and not found:
        return fail(Exception(f"no public port '{wanted}' published for {args[0]}"), 1)
    return 0


def logs(args: list[str]) -> int:
    """logs CONTAINER"""
    flags = [
        Flag("details"),
        Flag("follow", "f"),
        Flag("since", "", STR),
        Flag("tail", "n", STR, "", "all"),
        Flag("timestamps", "t"),
        Flag("until", "", STR),
    ]
    v, names = parse(flags, args)
    need(names, 1, "logs CONTAINER")
    response = engine().send(
        "GET",
        f"/containers/{names[0]}/logs"
        + query(stdout=True, stderr=True, follow=v["follow"], since=v["since"] or None, until=v["until"] or None,
                tail=v["tail"], timestamps=v["timestamps"]),
    )  # fmt: skip
    copy_output(response)
    return 0


def top(args: list[str]) -> int:
    """top CONTAINER [ps OPTIONS]"""
    need(args, 1, "top CONTAINER [ps OPTIONS]")
    answer = engine().call("GET", f"/containers/{args[0]}/top" + query(ps_args=" ".join(args[1:]) or None))
    table([answer["Titles"], *answer["Processes"]])
    return 0


def stats(args: list[str]) -> int:
    """stats [CONTAINER...]"""
    v, names = parse([Flag("all", "a"), Flag("format", "", STR), Flag("no-stream"), Flag("no-trunc")], args)
    http = engine()
    while True:
        chosen = names or [row["Id"] for row in http.call("GET", "/containers/json" + query(all=v["all"] or None))]
        shown = []
        for name in chosen:
            one = http.call("GET", f"/containers/{name}/stats?stream=0")
            cpu, before = one["cpu_stats"], one["precpu_stats"]
            used = cpu["cpu_usage"]["total_usage"] - before["cpu_usage"]["total_usage"]
            whole = cpu.get("system_cpu_usage", 0) - before.get("system_cpu_usage", 0)
            percent = used / whole * cpu.get("online_cpus", 1) * 100 if whole > 0 else 0.0
            memory = one["memory_stats"]
            usage, limit = memory.get("usage", 0), memory.get("limit", 0)
            shown.append({"ID": one["id"][:12], "Name": one["name"][1:], "CPUPerc": f"{percent:.2f}%",
                          "MemUsage": f"{human(usage, 1024)} / {human(limit, 1024)}",
                          "MemPerc": f"{usage / limit * 100 if limit else 0:.2f}%",
                          "PIDs": str(one["pids_stats"].get("current", 0))})  # fmt: skip
        columns = [
            ("CONTAINER ID", "ID"),
            ("NAME", "Name"),
            ("CPU %", "CPUPerc"),
            ("MEM USAGE / LIMIT", "MemUsage"),
            ("MEM %", "MemPerc"),
            ("PIDS", "PIDs"),
        ]
        if not v["no-stream"] and sys.stdout.isatty():
            print("\033[H\033[2J", end="")
        rows_out(shown, columns, v["format"])
        if v["no-stream"]:
            return 0


def diff(args: list[str]) -> int:
    """diff CONTAINER"""
    need(args, 1, "diff CONTAINER")
    for row in engine().call("GET", f"/containers/{args[0]}/changes") or []:
        print("CAD"[row["Kind"]], row["Path"])
    return 0


def cp(args: list[str]) -> int:
    """cp CONTAINER:SRC DEST|- ; cp SRC|- CONTAINER:DEST"""
    from sampan.cli.copy import copy

    v, names = parse([Flag("archive", "a"), Flag("follow-link", "L"), Flag("quiet", "q")], args)
    need(names, 2, "cp SRC DEST")
    return copy(engine(), names[0], names[1], v["follow-link"])


def commit(args: list[str]) -> int:
    """commit CONTAINER [NAME[:TAG]]"""
    v, names = parse(
        [
            Flag("author", "a", STR),
            Flag("change", "c", LIST),
            Flag("message", "m", STR),
            Flag("pause", "p", BOOL, "", True),
        ],
        args,
    )
    need(names, 1, "commit CONTAINER [REPOSITORY[:TAG]]")
    wanted = query(
        container=names[0],
        repo=names[1] if len(names) > 1 else None,
        comment=v["message"] or None,
        pause=v["pause"],
        changes=v["change"],
    )
    print(engine().call("POST", f"/commit{wanted}")["Id"])
    return 0


def export(args: list[str]) -> int:
    """export CONTAINER"""
    v, names = parse([Flag("output", "o", STR)], args)
    need(names, 1, "export CONTAINER")
    return to_file(v["output"], engine().send("GET", f"/containers/{names[0]}/export").chunks())
