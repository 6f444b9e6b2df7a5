"""What the tests of order share: clients that leave, keepers that are held up, and the question whether all agree."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sampan.client.http import APIError, Http, encode_request
from tests.conftest import Daemon, eventually

Body = dict[str, Any]
ALIVE = ("running", "paused")


def create(daemon: Daemon, *command: str, name: str = "", config: Body | None = None, **host: Any) -> str:
    """A container without a network that sleeps unless told otherwise."""
    body = {"Image": "busybox", "Cmd": list(command or ("sleep", "600")), "HostConfig": {"NetworkMode": "none"} | host}
    query = f"?name={name}" if name else ""
    return str(daemon.http.call("POST", f"/containers/create{query}", body | (config or {}))["Id"])


def ask(daemon: Daemon, method: str, path: str, body: Body | None = None) -> socket.socket:
    """Sends a request, and does not wait for its answer."""
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(daemon.socket)
    sock.sendall(encode_request(method, path, body, False))
    return sock


class Asked(threading.Thread):
    """A request under way."""

    def __init__(self, daemon: Daemon, method: str, path: str, body: Body | None = None) -> None:
        super().__init__(daemon=True)
        self._http, self._request = Http(daemon.socket), (method, path, body)
        self.status = 0
        self.start()

    def run(self) -> None:
        try:
            self._http.call(*self._request)
            self.status = 200
        except APIError as error:
            self.status = error.status

    def answer(self, seconds: float = 60) -> int:
        """The answer's status; 200 for all that are good."""
        self.join(seconds)
        assert not self.is_alive(), f"{self._request} does not end"
        return self.status


@contextlib.contextmanager
def held(daemon: Daemon) -> Iterator[None]:
    """The keeper does nothing while this lasts, so that nothing comes to its end."""
    keeper = daemon.keeper_pid()
    os.kill(keeper, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(keeper, signal.SIGCONT)


def state(daemon: Daemon, identifier: str) -> Body:
    return dict(daemon.http.call("GET", f"/containers/{identifier}/json")["State"])


def gone(daemon: Daemon, identifier: str) -> bool:
    try:
        daemon.http.call("GET", f"/containers/{identifier}/json")
    except APIError as error:
        return error.status == 404
    return False


def groups(daemon: Daemon) -> dict[str, set[int]]:
    """The processes of each control group of this engine, by the container's id."""
    parent = f"/{daemon.containers_group}/"
    found: dict[str, set[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{entry}/cgroup").read_text().splitlines():
                    name = line.rpartition("/")[2]
                    if len(name) == 64 and parent in line:
                        found.setdefault(name, set()).add(int(entry))
    return found


def disagreements(daemon: Daemon, mine: set[str]) -> list[str]:
    """Where records, kernel and networks do not say the same of the containers `mine`, removed ones included."""
    rows = {row["Id"]: row for row in daemon.http.call("GET", "/containers/json?all=1")}
    wrong = []
    running = groups(daemon)
    for identifier in mine | set(rows):
        pids = running.get(identifier, set())
        runs = identifier in rows and rows[identifier]["State"] in ALIVE
        claimed = state(daemon, identifier)["Pid"] if runs else 0
        if claimed and claimed not in pids:
            wrong.append(f"{identifier[:12]} is called running and is not")
        if pids and not claimed:
            wrong.append(f"{identifier[:12]} runs as {pids} and is {rows.get(identifier, {}).get('State', 'nowhere')}")
    for network in daemon.http.call("GET", "/networks"):
        for identifier in daemon.http.call("GET", f"/networks/{network['Id']}")["Containers"]:
            if identifier not in rows or rows[identifier]["State"] not in ALIVE:
                wrong.append(f"{identifier[:12]} has a place on {network['Name']} and does not run")
    names = [row["Names"][0] for row in rows.values()]
    if len(names) != len(set(names)):
        wrong.append(f"two of one name: {names}")
    return wrong


def all_agree(daemon: Daemon, mine: set[str], seconds: float = 20) -> None:
    """Waits until there is no disagreement."""
    last: list[str] = []

    def agreed() -> bool:
        last[:] = disagreements(daemon, mine)
        return not last

    try:
        eventually(agreed, seconds)
    except AssertionError:
        raise AssertionError(f"{last}\n{(daemon.root / 'log').read_text()[-4000:]}") from None
