"""The commands on containers, but for those with a module of their own."""

from __future__ import annotations

from sampan.cli.arguments import each
from sampan.cli.flags import Values
from sampan.cli.output import table
from sampan.cli.session import copy_output, fail
from sampan.client.connection import engine
from sampan.client.http import Http, at, query

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def _stopping(verb: str) -> Callable[[Http, str, Values], None]:
    def action(http: Http, name: str, v: Values) -> None:
        wanted = query(t=v.number("timeout"), signal=v.text("signal") or None)
        http.call("POST", at("/containers/{}/{}", name, verb) + wanted)

    return action


def _post(verb: str) -> Callable[[Http, str, Values], None]:
    return lambda http, name, v: http.call("POST", at("/containers/{}/{}", name, verb))


stop = each(_stopping("stop"))
restart = each(_stopping("restart"))
pause = each(_post("pause"))
unpause = each(_post("unpause"))


@each
def kill(http: Http, name: str, v: Values) -> None:
    """kill"""
    http.call("POST", at("/containers/{}/kill", name) + query(signal=v.text("signal") or None))


@each
def wait(http: Http, name: str, v: Values) -> object:
    """wait: the exit code."""
    return http.call("POST", at("/containers/{}/wait", name))["StatusCode"]


@each
def rm(http: Http, name: str, v: Values) -> None:
    """rm"""
    wanted = query(force=v.on("force"), v=v.on("volumes"), link=v.on("link") or None)
    http.call("DELETE", at("/containers/{}", name) + wanted)


def rename(v: Values, names: list[str]) -> int:
    """rename"""
    engine().call("POST", at("/containers/{}/rename", names[0]) + query(name=names[1]))
    return 0


def port(v: Values, names: list[str]) -> int:
    """port: the published ports of a container."""
    published = engine().call("GET", at("/containers/{}/json", names[0]))["NetworkSettings"]["Ports"]
    wanted = (names[1] if "/" in names[1] else f"{names[1]}/tcp") if len(names) > 1 else None
    found = 0
    for key, rows in sorted(published.items()):
        for row in rows or []:
            if wanted in (None, key):
                address = f"[{row['HostIp']}]" if ":" in row["HostIp"] else row["HostIp"]
                print(f"{'' if wanted else key + ' -> '}{address}:{row['HostPort']}")
                found += 1
    if wanted and not found:
        return fail(Exception(f"no public port '{wanted}' published for {names[0]}"), 1)
    return 0


def logs(v: Values, names: list[str]) -> int:
    """logs"""
    wanted = query(
        stdout=True, stderr=True, follow=v.on("follow"), since=v.text("since") or None, until=v.text("until") or None,
        tail=v.text("tail"), timestamps=v.on("timestamps"), details=v.on("details") or None,
    )  # fmt: skip
    copy_output(engine().send("GET", at("/containers/{}/logs", names[0]) + wanted))
    return 0


def top(v: Values, names: list[str]) -> int:
    """top: the processes of a container."""
    answer = engine().call("GET", at("/containers/{}/top", names[0]) + query(ps_args=" ".join(names[1:]) or None))
    table([answer["Titles"], *answer["Processes"]])
    return 0


def diff(v: Values, names: list[str]) -> int:
    """diff: what a container has changed of its image's files."""
    for row in engine().call("GET", at("/containers/{}/changes", names[0])) or []:
        print("CAD"[row["Kind"]], row["Path"])
    return 0
