"""What reaches the keeper, and what it does with an end that nobody can write down (T77, T91)."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sampan.client.http import APIError
from sampan.keeper import exits
from sampan.keeper.protocol import End
from tests.conftest import Daemon, eventually
from tests.support.commands import NONE

pytestmark = [pytest.mark.e2e]


def raw(daemon: Daemon) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(f"{daemon.root}/run/keeper.sock")
    sock.settimeout(10)
    return sock


def packed(body: bytes) -> bytes:
    return struct.pack("!I", len(body)) + body


def reply(sock: socket.socket) -> Any:
    (length,) = struct.unpack("!I", sock.recv(4, socket.MSG_WAITALL))
    return json.loads(sock.recv(length, socket.MSG_WAITALL))


BAD = [
    b"\xff" * 100,
    packed(b"{"),
    packed(b"[]"),
    packed(b"{}"),
    packed(b'{"op": "ping"}'),
    packed(b'{"op": 7, "seq": "x"}'),
    packed(b'{"op": "ping", "seq": 1, "fds": 99}'),
]
REFUSED = [
    {"op": "nosuch"},
    {"op": "start"},
    {"op": "start", "id": 7},
    {"op": "start", "id": "x", "request": [], "directory": "/nonexistent", "stdin": False, "log": {}},
    {"op": "start", "id": "x", "request": {"spec": {"linux": {"namespaces": [{"path": "@9"}]}}}},
    {"op": "exec", "id": "x", "request": {"process": {}}},
    {"op": "adopt", "id": "x", "streams": 5},
    {"op": "adopt", "id": "x", "pid": 1, "start_time": 1, "directory": "", "tty": False, "log": {}, "streams": [], "has_stdin": False},
    {"op": "hold", "id": ["x"]},
    {"op": "prepare"},
    {"op": "acknowledge", "keys": 3},
    {"op": "mount", "id": "x", "overlay": 1},
    {"op": "stdin", "id": None},
]  # fmt: skip


def test_a_bad_message_ends_its_connection_only(daemon: Daemon) -> None:
    daemon.ok("run", "-d", *NONE, "--name", "box", "busybox", "sleep", "600")
    keeper = daemon.keeper_pid()
    descriptors = len(os.listdir(f"/proc/{keeper}/fd"))
    for data in BAD * 4:
        with raw(daemon) as sock:
            socket.send_fds(sock, [data], [0, 1, 2])
            try:
                while sock.recv(1 << 16):
                    pass
            except ConnectionResetError:
                pass
    with raw(daemon) as sock:
        for number, message in enumerate(REFUSED, 1):
            sock.send(packed(json.dumps({**message, "seq": number}).encode()))
            answer = reply(sock)
            assert answer["seq"] == number
            assert answer["error"], message
    with raw(daemon) as sock:  # one that stops in the middle
        sock.send(packed(b'{"op": "ping", "seq": 1}')[:-3])
    with raw(daemon) as silent:  # and one that asks and never reads
        silent.settimeout(0.2)
        request = packed(b'{"op": "list", "seq": 1}')
        try:
            for _ in range(20_000):
                silent.send(request)
        except (TimeoutError, BrokenPipeError, ConnectionResetError):
            pass
        assert daemon.ok("exec", "box", "echo", "here") == "here\n"
    assert daemon.keeper_pid() == keeper
    eventually(lambda: len(os.listdir(f"/proc/{keeper}/fd")) <= descriptors + 10)  # a spare, perhaps


def test_a_request_that_is_too_long_is_refused_by_name(daemon: Daemon) -> None:
    """T77: an environment of more than 16 MiB; the keeper never sees it, and nobody notices."""
    daemon.ok("run", "-d", *NONE, "--name", "box", "busybox", "sleep", "600")
    keeper = daemon.keeper_pid()
    body = {"Image": "busybox", "Cmd": ["true"], "Env": [f"V{i}=" + "x" * 100_000 for i in range(170)],
            "HostConfig": {"NetworkMode": "none"}}  # fmt: skip

    def run() -> None:
        identifier = daemon.http.call("POST", "/containers/create", body)["Id"]
        daemon.http.call("POST", f"/containers/{identifier}/start")

    with pytest.raises(APIError) as caught:
        run()
    assert caught.value.status in (400, 413)
    assert daemon.ok("exec", "box", "echo", "here") == "here\n"
    assert daemon.keeper_pid() == keeper


def test_ends_on_a_full_disk(daemon: Daemon) -> None:
    """An end that can't be written is told all the same, and the code is the right one."""
    daemon.ok("create", *NONE, "-i", "--name", "box", "busybox", "sh", "-c", "read x; exit 21")
    identifier = json.loads(daemon.ok("inspect", "box"))[0]["Id"]
    directory = daemon.root / f"data/containers/{identifier}"
    waiting = subprocess.Popen(["sampan", "start", "-ai", "box"], env=daemon.env, stdin=subprocess.PIPE)
    eventually(lambda: json.loads(daemon.ok("inspect", "box"))[0]["State"]["Running"])
    assert (directory / "exit.tmp").stat().st_size == len(exits.PAD)
    (directory / "exit.tmp").unlink()
    (directory / "exit.tmp").mkdir()  # what can't be written into, on any file system and as any user
    waiting.communicate(b"x\n", timeout=30)
    assert waiting.returncode == 21
    state = json.loads(daemon.ok("inspect", "box"))[0]["State"]
    assert (state["Status"], state["ExitCode"]) == ("exited", 21)


def test_an_end_is_kept_until_it_is_recorded(tmp_path: Path) -> None:
    """Acknowledged ends are forgotten, those that nobody could write are tried again, and those that nobody asks for are synced."""
    kept = exits.Exits()
    one, two = (End(name, 0, 1, 5) for name in ("one", "two"))
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        exits.prepare(str(tmp_path / name))
    kept.add(one, str(tmp_path / "one"))
    (tmp_path / "two/exit.tmp").unlink()
    (tmp_path / "two/exit.tmp").mkdir()
    kept.add(two, str(tmp_path / "two"))
    assert json.loads((tmp_path / "one/exit.json").read_bytes()) == vars(one)
    assert kept.all() == [one, two]
    assert kept.must_stay
    (tmp_path / "two/exit.tmp").rmdir()
    kept.tick()
    assert json.loads((tmp_path / "two/exit.json").read_bytes()) == vars(two)
    for end in (one, two):
        kept.acknowledge(end.key)
    assert kept.all() == []
    assert not kept.must_stay
    kept.add(one, str(tmp_path / "gone"))  # a directory that was removed meanwhile
    assert not kept.must_stay


def test_processes_made_ahead_may_die(daemon: Daemon) -> None:
    """A spare that is killed at any moment costs an exec nothing but the time of a clone."""
    daemon.ok("run", "-d", "--network", "none", "--name", "box", "busybox", "sleep", "600")
    keeper, killed = daemon.keeper_pid(), 0
    for number in range(20):
        assert daemon.sampan("exec", "box", "sh", "-c", f"exit {number}").returncode == number
        if number % 3:
            eventually(lambda: bool(_spares(keeper)))
            for pid in _spares(keeper):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed += 1
    assert killed
    assert daemon.keeper_pid() == keeper


def _spares(keeper: int) -> list[int]:
    found = []
    for pid in Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split():
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text() == "sampan-spare\n":
                found.append(int(pid))
    return found
