"""The commands that need no streams: containers, images, volumes, the engine."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import IO, Any

from sampan.cli.connection import engine
from sampan.cli.flags import BOOL, INT, LIST, STR, Flag, UsageError, parse
from sampan.cli.options import size
from sampan.cli.output import human, rows_out, since, table
from sampan.cli.run import fail
from sampan.cli.session import copy_output, write_all
from sampan.client.http import APIError, Http, query


def _need(names: list[str], count: int, usage: str) -> None:
    if len(names) < count:
        raise UsageError(
            f"'sampan {usage.split()[0]}' requires at least {count} argument{'s' if count > 1 else ''}: {usage}"
        )


def each(
    usage: str, flags: list[Flag], action: Callable[[Http, str, dict[str, Any]], Any]
) -> Callable[[list[str]], int]:
    """A command that does one thing to each name, goes on after a failure and exits 1 then."""

    def command(args: list[str]) -> int:
        values, names = parse(flags, args)
        _need(names, 1, usage)
        http, status = engine(), 0
        for name in names:
            try:
                answer = action(http, name, values)
                print(name if answer is None else answer)
            except APIError as error:
                status = fail(error, 1)
        return status

    command.__doc__ = usage
    return command


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
    _need(names, 2, "rename CONTAINER NEW_NAME")
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


def _filters(items: list[str]) -> str | None:
    found: dict[str, list[str]] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals:
            raise UsageError(f'invalid argument {item!r} for "--filter" flag: expected name=value')
        found.setdefault(key, []).append(value)
    return json.dumps(found) if found else None


def ps(args: list[str]) -> int:
    """ps"""
    flags = [Flag("all", "a"), Flag("filter", "f", LIST), Flag("format", "", STR), Flag("last", "n", INT), Flag("latest", "l"),
             Flag("no-trunc"), Flag("quiet", "q"), Flag("size", "s")]  # fmt: skip
    v, _ = parse(flags, args)
    limit = 1 if v["latest"] else v["last"]
    rows = engine().call("GET", "/containers/json" + query(all=v["all"] or None, limit=limit, size=v["size"] or None, filters=_filters(v["filter"])))  # fmt: skip
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
            "Ports": "",
            "Names": ",".join(name.removeprefix("/") for name in row["Names"]),
            "Labels": ",".join(f"{k}={x}" for k, x in row["Labels"].items()),
            "State": row["State"],
        }
        for row in rows
    ]
    columns = [("CONTAINER ID", "ID"), ("IMAGE", "Image"), ("COMMAND", "Command"), ("CREATED", "CreatedAt"), ("STATUS", "Status"),
               ("PORTS", "Ports"), ("NAMES", "Names")]  # fmt: skip
    return rows_out(shown, columns, v["format"])


def images(args: list[str]) -> int:
    """images"""
    flags = [
        Flag("all", "a"),
        Flag("digests"),
        Flag("filter", "f", LIST),
        Flag("format", "", STR),
        Flag("no-trunc"),
        Flag("quiet", "q"),
    ]
    v, names = parse(flags, args)
    wanted = v["filter"] + [f"reference={name}" for name in names]
    shown = []
    for row in engine().call("GET", "/images/json" + query(filters=_filters(wanted))):
        for name in row["RepoTags"] or ["<none>:<none>"]:
            repository, _, tag = name.rpartition(":")
            identifier = row["Id"] if v["no-trunc"] else row["Id"][7:19]
            shown.append(
                {
                    "Repository": repository,
                    "Tag": tag,
                    "ID": identifier,
                    "CreatedSince": since(row["Created"]),
                    "Size": human(row["Size"]),
                }
            )
    if v["quiet"]:
        for identifier in dict.fromkeys(row["ID"] for row in shown):
            print(identifier)
        return 0
    columns = [
        ("REPOSITORY", "Repository"),
        ("TAG", "Tag"),
        ("IMAGE ID", "ID"),
        ("CREATED", "CreatedSince"),
        ("SIZE", "Size"),
    ]
    return rows_out(shown, columns, v["format"])


def inspect(args: list[str]) -> int:
    """inspect NAME..."""
    v, names = parse([Flag("format", "f", STR), Flag("size", "s"), Flag("type", "", STR)], args)
    _need(names, 1, "inspect NAME|ID...")
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
    _need(names, 1, "logs CONTAINER")
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
    _need(args, 1, "top CONTAINER [ps OPTIONS]")
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
    _need(args, 1, "diff CONTAINER")
    for row in engine().call("GET", f"/containers/{args[0]}/changes") or []:
        print("CAD"[row["Kind"]], row["Path"])
    return 0


def cp(args: list[str]) -> int:
    """cp CONTAINER:SRC DEST|- ; cp SRC|- CONTAINER:DEST"""
    from sampan.cli.copy import copy

    v, names = parse([Flag("archive", "a"), Flag("follow-link", "L"), Flag("quiet", "q")], args)
    _need(names, 2, "cp SRC DEST")
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
    _need(names, 1, "commit CONTAINER [REPOSITORY[:TAG]]")
    wanted = query(
        container=names[0],
        repo=names[1] if len(names) > 1 else None,
        comment=v["message"] or None,
        pause=v["pause"],
        changes=v["change"],
    )
    print(engine().call("POST", f"/commit{wanted}")["Id"])
    return 0


def chunks(file: IO[bytes]) -> Iterator[bytes]:
    """A file in pieces."""
    while block := file.read(1 << 20):
        yield block


def _to_file(path: str, parts: Iterator[bytes]) -> int:
    if not path and sys.stdout.isatty():
        raise UsageError("cowardly refusing to save to a terminal. Use the -o flag or redirect")
    if not path:
        for part in parts:
            write_all(1, part)
        return 0
    temporary = f"{path}.part"
    with open(temporary, "wb") as file:
        for part in parts:
            file.write(part)
    os.rename(temporary, path)
    return 0


def export(args: list[str]) -> int:
    """export CONTAINER"""
    v, names = parse([Flag("output", "o", STR)], args)
    _need(names, 1, "export CONTAINER")
    return _to_file(v["output"], engine().send("GET", f"/containers/{names[0]}/export").chunks())


def save(args: list[str]) -> int:
    """save IMAGE..."""
    v, names = parse([Flag("output", "o", STR), Flag("platform", "", STR)], args)
    _need(names, 1, "save IMAGE...")
    return _to_file(v["output"], engine().send("GET", "/images/get" + query(names=names)).chunks())


def _open(path: str) -> IO[bytes]:
    if os.path.isdir(path):  # an OCI layout as a directory
        import tarfile
        import tempfile

        spool = tempfile.TemporaryFile()
        with tarfile.open(fileobj=spool, mode="w") as tar:
            tar.add(path, arcname=".")
        spool.seek(0)
        return spool
    return open(path, "rb") if path and path != "-" else sys.stdin.buffer


def load(args: list[str]) -> int:
    """load"""
    v, _ = parse([Flag("input", "i", STR), Flag("quiet", "q"), Flag("platform", "", STR)], args)
    try:
        file = _open(v["input"])
    except OSError as error:
        return fail(Exception(f"open {v['input']}: {error.strerror}"), 1)
    with file:
        for line in engine().send("POST", "/images/load", stream=chunks(file)).lines():
            sys.stdout.write(json.loads(line).get("stream", ""))
    return 0


def import_(args: list[str]) -> int:
    """import FILE|- [NAME[:TAG]]"""
    v, names = parse([Flag("change", "c", LIST), Flag("message", "m", STR), Flag("platform", "", STR)], args)
    _need(names, 1, "import FILE|- [REPOSITORY[:TAG]]")
    wanted = query(
        fromSrc="-", repo=names[1] if len(names) > 1 else None, message=v["message"] or None, changes=v["change"]
    )
    with _open(names[0]) as file:
        for line in engine().send("POST", f"/images/create{wanted}", stream=chunks(file)).lines():
            print(json.loads(line)["status"])
    return 0


def rmi(args: list[str]) -> int:
    """rmi IMAGE..."""
    v, names = parse([Flag("force", "f"), Flag("no-prune")], args)
    _need(names, 1, "rmi IMAGE...")
    http, status = engine(), 0
    for name in names:
        try:
            for row in http.call("DELETE", f"/images/{name}" + query(force=v["force"])):
                for key, value in row.items():
                    print(f"{key}: {value}")
        except APIError as error:
            status = fail(error, 1)
    return status


def tag(args: list[str]) -> int:
    """tag SOURCE TARGET"""
    _need(args, 2, "tag SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]")
    engine().call("POST", f"/images/{args[0]}/tag" + query(repo=args[1]))
    return 0


def history(args: list[str]) -> int:
    """history IMAGE"""
    v, names = parse(
        [Flag("no-trunc"), Flag("quiet", "q"), Flag("human", "H", BOOL, "", True), Flag("format", "", STR)], args
    )
    _need(names, 1, "history IMAGE")
    shown = [
        {"ID": row["Id"][7:19] if row["Id"].startswith("sha256:") else row["Id"], "CreatedSince": since(row["Created"]),
         "CreatedBy": row["CreatedBy"] if v["no-trunc"] else row["CreatedBy"][:45], "Size": human(row["Size"]), "Comment": row["Comment"]}
        for row in engine().call("GET", f"/images/{names[0]}/history")
    ]  # fmt: skip
    columns = [
        ("IMAGE", "ID"),
        ("CREATED", "CreatedSince"),
        ("CREATED BY", "CreatedBy"),
        ("SIZE", "Size"),
        ("COMMENT", "Comment"),
    ]
    return rows_out(shown, columns, v["format"])


def events(args: list[str]) -> int:
    """events"""
    v, _ = parse(
        [Flag("filter", "f", LIST), Flag("format", "", STR), Flag("since", "", STR), Flag("until", "", STR)], args
    )
    wanted = query(filters=_filters(v["filter"]), since=v["since"] or None, until=v["until"] or None)
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


def _confirmed(question: str, force: bool) -> bool:
    if force:
        return True
    print(f"WARNING! This will remove {question}.\nAre you sure you want to continue? [y/N] ", end="", flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def system(args: list[str]) -> int:
    """system df|prune|info|events"""
    _need(args, 1, "system df|prune|info|events")
    if args[0] in ("info", "events"):
        return {"info": info, "events": events}[args[0]](args[1:])
    http = engine()
    if args[0] == "prune":
        v, _ = parse([Flag("all", "a"), Flag("force", "f"), Flag("volumes"), Flag("filter", "", LIST)], args[1:])
        if not _confirmed("all stopped containers and unused images", v["force"]):
            return 0
        freed = http.call("POST", "/containers/prune")["SpaceReclaimed"]
        dangling = json.dumps({"dangling": ["false" if v["all"] else "true"]})
        freed += http.call("POST", "/images/prune" + query(filters=dangling))["SpaceReclaimed"]
        if v["volumes"]:
            freed += http.call("POST", "/volumes/prune")["SpaceReclaimed"]
        print(f"Total reclaimed space: {human(freed)}")
        return 0
    if args[0] != "df":
        raise UsageError(f"unknown command: sampan system {args[0]}")
    found = http.call("GET", "/system/df")
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


def volume(args: list[str]) -> int:
    """volume create|ls|inspect|rm|prune"""
    _need(args, 1, "volume create|ls|inspect|rm|prune")
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
        labels, opts = ({k: x for k, _, x in (i.partition("=") for i in v[key])} for key in ("label", "opt"))
        body = {"Name": names[0] if names else "", "Labels": labels, "DriverOpts": opts, "Driver": v["driver"]}
        print(http.call("POST", "/volumes/create", body)["Name"])
    elif verb == "ls":
        v, _ = parse([Flag("filter", "f", LIST), Flag("quiet", "q"), Flag("format", "", STR)], rest)
        found = http.call("GET", "/volumes" + query(filters=_filters(v["filter"])))["Volumes"]
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
        if _confirmed("all anonymous volumes not used by a container", v["force"]):
            wanted = json.dumps({"all": ["true"]}) if v["all"] else None
            answer = http.call("POST", "/volumes/prune" + query(filters=wanted))
            print("\n".join([*answer["VolumesDeleted"], f"Total reclaimed space: {human(answer['SpaceReclaimed'])}"]))
    else:
        raise UsageError(f"unknown command: sampan volume {verb}")
    return 0


def bootstrap(args: list[str]) -> int:
    """bootstrap debian:SUITE|ubuntu:SUITE|busybox"""
    _need(args, 1, "bootstrap debian:SUITE|ubuntu:SUITE|busybox")
    for name in args:
        print(f"making {name} from this host's packages ...", file=sys.stderr)
        print(engine().call("POST", "/sampan/bootstrap" + query(name=name))["Id"])
    return 0


def daemon(args: list[str]) -> int:
    """daemon: runs sampand in the foreground"""
    from importlib import import_module

    sys.argv = ["sampand", *args]
    import_module("sampan.api.daemon").main()
    return 0
