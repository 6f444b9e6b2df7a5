"""run, create, start, exec and attach: commands that carry a process's streams."""

from __future__ import annotations

import os
import sys

from sampan import quickjson
from sampan.cli import options, session
from sampan.cli.flags import UsageError, Values
from sampan.cli.session import fail
from sampan.client.connection import engine
from sampan.client.http import APIError, Http, at, query

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def start_failure_code(error: APIError) -> int:
    """Docker's exit code for a start that failed: 127 not found, 126 not executable, else 125."""
    text = str(error)
    if "executable file not found" in text or "no such file or directory" in text:
        return 127
    return 126 if "permission denied" in text or "is a directory" in text or "exec format error" in text else 125


def _create(http: Http, values: Values, rest: list[str], detached: bool = False) -> tuple[dict[str, Any], str]:
    """Creates a container. Returns (the request's body, its id). Raises UsageError, APIError."""
    body = options.request(values, rest[0], rest[1:], detached)
    if values.on("tty"):
        body["HostConfig"]["ConsoleSize"] = list(session.window_size())
    if values.text("cidfile") and os.path.exists(values.text("cidfile")):
        raise UsageError(
            f"container ID file found, make sure the other container isn't running or delete {values.text('cidfile')}"
        )
    if values.text("isolation") == "vm":
        _prepare_machine(http, body["HostConfig"])
    answer = _create_or_pull(http, values, body)
    if values.on("use-api-socket"):
        from sampan.cli import apisocket

        apisocket.put(http, answer["Id"])
    if answer.get("Isolation") == "vm" and values.text("isolation") != "vm":  # by policy, or the engine's default
        _prepare_machine(http, body["HostConfig"])
    if values.text("cidfile"):
        with open(values.text("cidfile"), "w", encoding="ascii") as file:
            file.write(answer["Id"])
    for warning in answer.get("Warnings") or []:
        session.warn(warning)
    return body, str(answer["Id"])


def _create_or_pull(http: Http, values: Values, body: dict[str, Any]) -> Any:
    """Creates the container; an image that is missing, or always wanted anew, is pulled first."""
    wanted = values.text("pull")
    if wanted not in ("always", "missing", "never"):
        raise UsageError(f"invalid pull option: '{wanted}': must be one of 'always', 'missing' or 'never'")
    path = "/containers/create" + query(name=values.text("name") or None, platform=values.text("platform") or None)
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


def _prepare_machine(http: Http, host: dict[str, object]) -> None:
    """Has ready what a virtual machine needs, which the first takes half a minute to make."""
    from contextlib import redirect_stdout

    from sampan.cli import transfers

    with redirect_stdout(sys.stderr):
        transfers.show(http.send("POST", "/sampan/vm/prepare" + query(quiet=True), host).lines())


def _pull(http: Http, values: Values, image: str) -> None:
    from contextlib import redirect_stdout

    from sampan.cli import registries

    with redirect_stdout(sys.stderr):  # what the container writes is all that is on standard output
        registries.pull_image(http, _with_tag(image), values.text("platform"), values.on("quiet"))


def _with_tag(image: str) -> str:
    last = image.rpartition("/")[2]
    return image if ":" in last or "@" in last else f"{image}:latest"


def _start(http: Http, path: str, wanted: str = "") -> None:
    response = http.send("POST", f"{path}/start{wanted}")
    response.read()
    for text in response.head.warnings:
        session.warn(text)


def run(values: Values, rest: list[str]) -> int:
    """run: creates, starts and follows a container."""
    http = engine()
    try:
        body, container = _create(http, values, rest, values.on("detach"))
    except APIError as error:
        return fail(error)
    path = at("/containers/{}", container)
    if values.on("detach"):
        try:
            _start(http, path)
        except APIError as error:
            return fail(error, start_failure_code(error))
        print(container)
        return 0
    wanted = query(stream=True, stdin=body["AttachStdin"], stdout=body["AttachStdout"], stderr=body["AttachStderr"],
                   detachKeys=values.text("detach-keys") or None)  # fmt: skip
    attached = Http(http._path).send("POST", f"{path}/attach{wanted}", upgrade=True)
    condition = "removed" if values.on("rm") else "next-exit"
    waiting = Http(http._path).send("POST", f"{path}/wait?condition={condition}")
    try:
        _start(http, path)
    except APIError as error:
        return fail(error, start_failure_code(error))
    if values.on("sig-proxy") and not body["Tty"]:
        session.forward_signals(_signaller(http, path))
    session.converse(attached, body["AttachStdin"], body["Tty"], _resizer(http, path))
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


def create(values: Values, rest: list[str]) -> int:
    """create"""
    try:
        _, container = _create(engine(), values, rest)
    except APIError as error:
        return fail(error, 1)
    print(container)
    return 0


def exec_(values: Values, rest: list[str]) -> int:
    """exec: a further process in a container."""
    http = engine()
    body = {
        "AttachStdin": values.on("interactive") and not values.on("detach"),
        "AttachStdout": not values.on("detach"),
        "AttachStderr": not values.on("detach"),
        "Tty": values.on("tty"),
        "KillOnDisconnect": values.on("kill-on-disconnect"),
        "DetachKeys": values.text("detach-keys"),
        "Cmd": rest[1:],
        "Env": options.environment(values),
        "User": values.text("user"),
        "WorkingDir": values.text("workdir"),
        "Privileged": values.on("privileged"),
    }
    rows, columns = session.window_size()
    if values.on("tty") and rows:
        body["ConsoleSize"] = [rows, columns]
    try:
        identifier = http.call("POST", at("/containers/{}/exec", rest[0]), body)["Id"]
        start = {"Detach": values.on("detach"), "Tty": values.on("tty")}
        if values.on("detach"):
            http.call("POST", f"/exec/{identifier}/start", start)
            return 0
        response = Http(http._path).send("POST", f"/exec/{identifier}/start", start, upgrade=True)
    except APIError as error:
        return fail(error, start_failure_code(error) if start_failure_code(error) != 125 else 1)
    session.converse(response, bool(body["AttachStdin"]), values.on("tty"), _resizer(http, f"/exec/{identifier}"))
    return int(http.call("GET", f"/exec/{identifier}/json")["ExitCode"] or 0)


def _checkpoint(values: Values) -> str:
    """What `start` asks for of checkpoints, which the engine has none of and says so."""
    if not values.text("checkpoint") and not values.text("checkpoint-dir"):
        return ""
    return query(**{"checkpoint": values.text("checkpoint"), "checkpoint-dir": values.text("checkpoint-dir")})


def start(values: Values, names: list[str]) -> int:
    """start"""
    http = engine()
    if values.on("attach") or values.on("interactive"):
        if len(names) > 1:
            raise UsageError("you cannot start and attach multiple containers at once", 1)
        keys, stdin = values.text("detach-keys"), values.on("interactive")
        return _attach(http, names[0], keys, stdin, begin=True, wanted=_checkpoint(values))
    status, wanted = 0, _checkpoint(values)
    for name in names:
        try:
            _start(http, at("/containers/{}", name), wanted)
            print(name)
        except APIError as error:
            status = fail(error, 1)
    return status


def attach(values: Values, names: list[str]) -> int:
    """attach"""
    stdin, proxy = not values.on("no-stdin"), values.on("sig-proxy")
    return _attach(engine(), names[0], values.text("detach-keys"), stdin, begin=False, proxy=proxy)


def attach_console(name: str, detach_keys: str) -> int:
    """Attaches to a container with standard input, and without a proxy for signals. Returns the exit code."""
    return _attach(engine(), name, detach_keys, stdin=True, begin=False, proxy=False)


def _attach(http: Http, name: str, keys: str, stdin: bool, begin: bool, proxy: bool = True, wanted: str = "") -> int:
    try:
        found = http.call("GET", at("/containers/{}/json", name))
        if not begin and not found["State"]["Running"]:
            print("You cannot attach to a stopped container, start it first", file=sys.stderr)
            return 1
        tty, stdin = found["Config"]["Tty"], stdin and found["Config"]["OpenStdin"]
        path = at("/containers/{}", found["Id"])
        streams = query(stream=True, stdin=stdin, stdout=True, stderr=True, detachKeys=keys or None)
        response = Http(http._path).send("POST", f"{path}/attach{streams}", upgrade=True)
        waiting = Http(http._path).send("POST", f"{path}/wait?condition=next-exit")
        if begin:
            _start(http, path, wanted)
        elif not http.call("GET", f"{path}/json")["State"]["Running"]:  # it ended before we were there to see
            return 0 if tty else int(http.call("GET", f"{path}/json")["State"]["ExitCode"])
    except APIError as error:
        return fail(error, 1)
    if proxy and not tty:
        session.forward_signals(_signaller(http, path))
    session.converse(response, stdin, tty, _resizer(http, path))
    if tty and _still_running(http, path):
        return 0
    return int(quickjson.loads(waiting.read())["StatusCode"])


def _signaller(http: Http, path: str) -> Callable[[str], object]:
    return lambda number: Http(http._path).call("POST", f"{path}/kill?signal={number}")


def _resizer(http: Http, path: str) -> Callable[[int, int], object]:
    return lambda rows, columns: Http(http._path).call("POST", f"{path}/resize?h={rows}&w={columns}")
