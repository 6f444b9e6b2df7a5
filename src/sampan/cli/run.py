"""run, create, start, exec and attach: commands that carry a process's streams."""

from __future__ import annotations

import os
import sys

from sampan import quickjson
from sampan.cli import options, session
from sampan.cli.flags import BOOL, LIST, STR, Flag, UsageError, parse
from sampan.client.connection import engine
from sampan.client.http import APIError, Http, query

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

EXEC_FLAGS = [
    Flag("detach", "d", BOOL, "Detached mode: run command in the background"),
    Flag("detach-keys", "", STR, "Override the key sequence for detaching"),
    Flag("env", "e", LIST, "Set environment variables"),
    Flag("env-file", "", LIST, "Read in a file of environment variables"),
    Flag("interactive", "i", BOOL, "Keep STDIN open even if not attached"),
    Flag("kill-on-disconnect", "", BOOL, "End the command, and all it started, when this client ends"),
    Flag("privileged", "", BOOL, "Give extended privileges to the command"),
    Flag("tty", "t", BOOL, "Allocate a pseudo-TTY"),
    Flag("user", "u", STR, "Username or UID (format: <name|uid>[:<group|gid>])"),
    Flag("workdir", "w", STR, "Working directory inside the container"),
]


def fail(error: Exception, code: int = 125) -> int:
    """Prints an error as Docker's CLI does."""
    print(f"sampan: {error}", file=sys.stderr)
    return code


def start_failure_code(error: APIError) -> int:
    """Docker's exit code for a start that failed: 127 not found, 126 not executable, else 125."""
    text = str(error)
    if "executable file not found" in text or "no such file or directory" in text:
        return 127
    return 126 if "permission denied" in text or "is a directory" in text or "exec format error" in text else 125


def _create(http: Http, args: list[str], command: str) -> tuple[dict[str, Any], dict[str, Any], str]:
    values, rest = parse(options.FLAGS, args, interspersed=False)
    if not rest:
        raise UsageError(f"'sampan {command}' requires at least 1 argument: IMAGE")
    body = options.request(values, rest[0], rest[1:])
    if values["tty"]:
        body["HostConfig"]["ConsoleSize"] = list(session.window_size())
    if values["cidfile"] and os.path.exists(values["cidfile"]):
        raise UsageError(
            f"container ID file found, make sure the other container isn't running or delete {values['cidfile']}"
        )
    if values["isolation"] == "vm":
        _prepare_machine(http, body["HostConfig"])
    answer = _create_or_pull(http, values, body)
    if answer.get("Isolation") == "vm" and values["isolation"] != "vm":  # by policy, or the engine's default
        _prepare_machine(http, body["HostConfig"])
    if values["cidfile"]:
        with open(values["cidfile"], "w", encoding="ascii") as file:
            file.write(answer["Id"])
    for warning in answer.get("Warnings") or []:
        print(f"WARNING: {warning}", file=sys.stderr)
    return values, body, answer["Id"]


def _create_or_pull(http: Http, values: dict[str, Any], body: dict[str, Any]) -> Any:
    """Creates the container; an image that is missing, or always wanted anew, is pulled first."""
    wanted = values["pull"] or "missing"
    if wanted not in ("always", "missing", "never"):
        raise UsageError(f"invalid pull option: '{wanted}': must be one of 'always', 'missing' or 'never'")
    path = "/containers/create" + query(name=values["name"] or None, platform=values["platform"] or None)
    if wanted == "always":
        _pull(http, values, body["Image"])
    try:
        return http.call("POST", path, body)
    except APIError as error:
        if error.status != 404 or wanted != "missing" or "No such image" not in str(error):
            raise
    print(f"Unable to find image '{_with_tag(body['Image'])}' locally", file=sys.stderr)
    _pull(http, values, body["Image"])
    return http.call("POST", path, body)


def _prepare_machine(http: Http, host: dict[str, Any]) -> None:
    """Has ready what a virtual machine needs, which the first takes half a minute to make."""
    from contextlib import redirect_stdout

    from sampan.cli import transfers

    with redirect_stdout(sys.stderr):
        transfers.show(http.send("POST", "/sampan/vm/prepare" + query(quiet=True), host).lines())


def _pull(http: Http, values: dict[str, Any], image: str) -> None:
    from contextlib import redirect_stdout

    from sampan.cli import registries

    with redirect_stdout(sys.stderr):  # what the container writes is all that is on standard output
        registries.pull_image(http, _with_tag(image), values["platform"], values["quiet"])


def _with_tag(image: str) -> str:
    last = image.rpartition("/")[2]
    return image if ":" in last or "@" in last else f"{image}:latest"


def _start(http: Http, path: str) -> None:
    response = http.send("POST", f"{path}/start")
    response.read()
    for text in response.head.warnings:
        print(f"WARNING: {text}", file=sys.stderr)


def run(args: list[str]) -> int:
    """sampan run"""
    http = engine()
    try:
        values, body, container = _create(http, args, "run")
    except APIError as error:
        return fail(error)
    path = f"/containers/{container}"
    if values["detach"]:
        try:
            _start(http, path)
        except APIError as error:
            return fail(error, start_failure_code(error))
        print(container)
        return 0
    wanted = query(stream=True, stdin=body["AttachStdin"], stdout=body["AttachStdout"], stderr=body["AttachStderr"])
    attached = Http(http._path).send("POST", f"{path}/attach{wanted}", upgrade=True)
    condition = "removed" if values["rm"] else "next-exit"
    waiting = Http(http._path).send("POST", f"{path}/wait?condition={condition}")
    try:
        _start(http, path)
    except APIError as error:
        return fail(error, start_failure_code(error))
    if values["sig-proxy"] and not body["Tty"]:
        session.forward_signals(lambda number: Http(http._path).call("POST", f"{path}/kill?signal={number}"))

    def resize(rows: int, columns: int) -> None:
        Http(http._path).call("POST", f"{path}/resize?h={rows}&w={columns}")

    session.converse(attached, body["AttachStdin"], body["Tty"], resize)
    if body["Tty"] and _still_running(http, path):
        return 0  # detached with the keys
    return int(quickjson.loads(waiting.read())["StatusCode"])


def _still_running(http: Http, path: str) -> bool:
    try:
        return bool(http.call("GET", f"{path}/json")["State"]["Running"])
    except APIError as error:
        if error.status == 404:
            return False
        raise


def create(args: list[str]) -> int:
    """sampan create"""
    try:
        _, _, container = _create(engine(), args, "create")
    except APIError as error:
        return fail(error, 1)
    print(container)
    return 0


def exec_(args: list[str]) -> int:
    """sampan exec"""
    values, rest = parse(EXEC_FLAGS, args, interspersed=False)
    if len(rest) < 2:
        raise UsageError("'sampan exec' requires at least 2 arguments: CONTAINER COMMAND [ARG...]")
    http = engine()
    body = {
        "AttachStdin": values["interactive"] and not values["detach"],
        "AttachStdout": not values["detach"],
        "AttachStderr": not values["detach"],
        "Tty": values["tty"],
        "KillOnDisconnect": values["kill-on-disconnect"],
        "DetachKeys": values["detach-keys"] or "",
        "Cmd": rest[1:],
        "Env": options.environment(values),
        "User": values["user"],
        "WorkingDir": values["workdir"],
        "Privileged": values["privileged"],
    }
    rows, columns = session.window_size()
    if values["tty"] and rows:
        body["ConsoleSize"] = [rows, columns]
    try:
        identifier = http.call("POST", f"/containers/{rest[0]}/exec", body)["Id"]
        start = {"Detach": values["detach"], "Tty": values["tty"]}
        if values["detach"]:
            http.call("POST", f"/exec/{identifier}/start", start)
            return 0
        response = Http(http._path).send("POST", f"/exec/{identifier}/start", start, upgrade=True)
    except APIError as error:
        return fail(error, start_failure_code(error) if start_failure_code(error) != 125 else 1)

    def resize(rows: int, columns: int) -> None:
        Http(http._path).call("POST", f"/exec/{identifier}/resize?h={rows}&w={columns}")

    session.converse(response, bool(body["AttachStdin"]), bool(values["tty"]), resize)
    return int(http.call("GET", f"/exec/{identifier}/json")["ExitCode"] or 0)


def start(args: list[str]) -> int:
    """sampan start"""
    flags = [Flag("attach", "a", BOOL, "Attach STDOUT/STDERR and forward signals"),
             Flag("interactive", "i", BOOL, "Attach container's STDIN"),
             Flag("detach-keys", "", STR, "Override the key sequence for detaching")]  # fmt: skip
    values, names = parse(flags, args)
    if not names:
        raise UsageError("'sampan start' requires at least 1 argument: CONTAINER")
    http = engine()
    if values["attach"] or values["interactive"]:
        return _attach(http, names[0], values["interactive"], begin=True)
    status = 0
    for name in names:
        try:
            _start(http, f"/containers/{name}")
            print(name)
        except APIError as error:
            status = fail(error, 1)
    return status


def attach(args: list[str]) -> int:
    """sampan attach"""
    flags = [Flag("no-stdin", "", BOOL, "Do not attach STDIN"), Flag("sig-proxy", "", BOOL, "Proxy signals", True),
             Flag("detach-keys", "", STR, "Override the key sequence for detaching")]  # fmt: skip
    values, names = parse(flags, args)
    if len(names) != 1:
        raise UsageError("'sampan attach' requires 1 argument: CONTAINER")
    return _attach(engine(), names[0], not values["no-stdin"], begin=False)


def _attach(http: Http, name: str, stdin: bool, begin: bool) -> int:
    try:
        found = http.call("GET", f"/containers/{name}/json")
        if not begin and not found["State"]["Running"]:
            print("You cannot attach to a stopped container, start it first", file=sys.stderr)
            return 1
        stdin = stdin and found["Config"]["OpenStdin"]
        path = f"/containers/{found['Id']}"
        response = Http(http._path).send(
            "POST", f"{path}/attach" + query(stream=True, stdin=stdin, stdout=True, stderr=True), upgrade=True
        )
        waiting = Http(http._path).send("POST", f"{path}/wait?condition=next-exit")
        if begin:
            _start(http, path)
        elif not http.call("GET", f"{path}/json")["State"]["Running"]:  # it ended before we were there to see
            return 0 if found["Config"]["Tty"] else int(http.call("GET", f"{path}/json")["State"]["ExitCode"])
    except APIError as error:
        return fail(error, 1)

    def resize(rows: int, columns: int) -> None:
        Http(http._path).call("POST", f"{path}/resize?h={rows}&w={columns}")

    session.converse(response, stdin, found["Config"]["Tty"], resize)
    if found["Config"]["Tty"] and _still_running(http, path):
        return 0
    return int(quickjson.loads(waiting.read())["StatusCode"])
