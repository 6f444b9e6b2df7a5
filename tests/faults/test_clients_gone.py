"""Clients that leave at any moment: what they asked for is done or is not, and nothing in between (T90)."""

from __future__ import annotations

import contextlib
import io
import os
import random
import socket
import tarfile
import time

from sampan.client.http import APIError
from tests.conftest import Daemon, eventually
from tests.faults.order import Body, all_agree, ask, create, groups, held, state

SOAK = bool(os.environ.get("SAMPAN_SOAK"))
ROUNDS = 504 if SOAK else 40
LONGEST = 0.04  # seconds that a client stays


def _begun(daemon: Daemon) -> str:
    identifier = create(daemon, NetworkMode="bridge")
    daemon.http.call("POST", f"/containers/{identifier}/start")
    return identifier


def _requests(daemon: Daemon, number: int) -> tuple[str, str, str, Body | None]:
    """The container (or "" when it is yet to be made), and what is asked for."""
    body: Body = {"Image": "busybox", "Cmd": ["sleep", "600"], "HostConfig": {"NetworkMode": "none"}}
    match number % 8:
        case 0:
            identifier = create(daemon, NetworkMode="bridge")
            return identifier, "POST", f"/containers/{identifier}/start", None
        case 1:
            identifier = _begun(daemon)
            return identifier, "DELETE", f"/containers/{identifier}?force=1", None
        case 2:
            identifier = _begun(daemon)
            return identifier, "POST", f"/containers/{identifier}/restart?t=0", None
        case 3:
            identifier = _begun(daemon)
            return identifier, "POST", f"/containers/{identifier}/stop?t=0", None
        case 4:
            return "", "POST", f"/containers/create?name=gone{number}", body
        case 5:
            return "", "POST", "/networks/create", {"Name": f"gone{number}"}
        case 6:
            identifier = _begun(daemon)
            return identifier, "POST", f"/commit?container={identifier}&repo=gone", None
        case _:
            identifier = _begun(daemon)
            command = {"Cmd": ["sleep", "1"], "AttachStdout": True}
            session = daemon.http.call("POST", f"/containers/{identifier}/exec", command)["Id"]
            return identifier, "POST", f"/exec/{session}/start", {"Detach": False}


def test_clients_that_leave_at_random_moments(own_daemon: Daemon) -> None:
    daemon, mine = own_daemon, set()
    chance = random.Random(17)
    for number in range(ROUNDS):
        identifier, *request = _requests(daemon, number)
        if identifier:
            mine.add(identifier)
        sock = ask(daemon, *request)
        time.sleep(chance.uniform(0, LONGEST))
        sock.close()
        if number % 8 == 7:
            all_agree(daemon, mine)
            for row in daemon.http.call("GET", "/containers/json?all=1"):
                if row["State"] == "paused":
                    eventually(lambda row=row: not state(daemon, row["Id"])["Paused"])  # type: ignore[misc]
                daemon.http.call("DELETE", f"/containers/{row['Id']}?force=1")
            all_agree(daemon, mine)
            for network in daemon.http.call("GET", "/networks"):
                if network["Name"].startswith("gone"):
                    daemon.http.call("DELETE", f"/networks/{network['Id']}")
            mine.clear()
    assert sorted(os.listdir(daemon.root / "data/containers")) in ([], ["spare"])
    with contextlib.suppress(APIError):
        daemon.http.call("DELETE", "/images/gone?force=1")


def test_a_client_that_leaves_during_a_start_has_started_it(daemon: Daemon) -> None:
    """T90"""
    identifier = create(daemon)
    with held(daemon):
        sock = ask(daemon, "POST", f"/containers/{identifier}/start")
        time.sleep(0.05)
        sock.close()
        time.sleep(0.05)
        assert not groups(daemon).get(identifier)
    eventually(lambda: state(daemon, identifier)["Running"])
    all_agree(daemon, {identifier})


def test_a_step_of_a_build_whose_client_leaves_ends(daemon: Daemon) -> None:
    with held(daemon):
        dockerfile = b"FROM busybox\nRUN sleep 600\n"
        sock = _build(daemon, dockerfile)
        time.sleep(0.3)
        sock.close()
        time.sleep(0.1)
    eventually(lambda: not groups(daemon))
    sock = _build(daemon, dockerfile)
    eventually(lambda: b"sleep\x00600\x00" in {_command(pid) for pids in groups(daemon).values() for pid in pids})
    sock.close()
    eventually(lambda: not groups(daemon))


def _command(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except OSError:
        return b""


def _build(daemon: Daemon, dockerfile: bytes) -> socket.socket:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        entry = tarfile.TarInfo("Dockerfile")
        entry.size = len(dockerfile)
        tar.addfile(entry, io.BytesIO(dockerfile))
    data = stream.getvalue()
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(daemon.socket)
    head = f"POST /build?networkmode=none&nocache=1 HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-tar\r\nContent-Length: {len(data)}\r\n\r\n"
    sock.sendall(head.encode() + data)
    return sock
