"""Daemon and keeper killed at bad moments: afterwards records, keeper and kernel say the same (T90, T92)."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Daemon, end_daemon, eventually, new_daemon
from tests.faults.order import Asked, all_agree, ask, create, groups, state

SOAK = bool(os.environ.get("SAMPAN_SOAK"))
KILLS = 75 if SOAK else 5


@pytest.fixture(scope="module")
def mortal() -> Iterator[Daemon]:
    daemon = new_daemon()
    yield daemon
    end_daemon(daemon)


@pytest.fixture
def victim(mortal: Daemon) -> Iterator[Daemon]:
    """A daemon that the test may kill, and starts again."""
    yield mortal
    for row in mortal.http.call("GET", "/containers/json?all=1"):
        mortal.http.call("DELETE", f"/containers/{row['Id']}?force=1")


def start(daemon: Daemon, *command: str, name: str = "", **host: object) -> str:
    identifier = create(daemon, *command, name=name, **host)
    daemon.http.call("POST", f"/containers/{identifier}/start")
    return identifier


def log(daemon: Daemon) -> str:
    return (daemon.root / "log").read_text()


def test_a_daemon_that_is_killed_within_a_start(victim: Daemon) -> None:
    """T90: whatever its record says then, nothing runs that is not called running."""
    daemon, mine, chance = victim, set(), random.Random(23)
    for number in range(KILLS):
        identifier = create(daemon, NetworkMode="bridge" if number % 2 else "none")
        mine.add(identifier)
        sock = ask(daemon, "POST", f"/containers/{identifier}/start")
        time.sleep(chance.uniform(0, 0.04))
        daemon.kill()
        sock.close()
        daemon.start()
        all_agree(daemon, mine)
        daemon.http.call("DELETE", f"/containers/{identifier}?force=1")
        assert not groups(daemon).get(identifier)
    all_agree(daemon, mine)


def die_with_a_start_in_the_keepers_socket(daemon: Daemon, identifier: str) -> None:
    keeper = daemon.keeper_pid()
    os.kill(keeper, signal.SIGSTOP)
    sock = ask(daemon, "POST", f"/containers/{identifier}/start")
    time.sleep(0.1)
    daemon.kill()
    sock.close()
    os.kill(keeper, signal.SIGCONT)
    daemon.start()


def test_a_start_that_the_keeper_comes_to_when_the_daemon_is_dead(victim: Daemon) -> None:
    """T90, at the worst moment: the request lies in the keeper's socket."""
    daemon = victim
    identifier = create(daemon, name="box")
    die_with_a_start_in_the_keepers_socket(daemon, identifier)
    all_agree(daemon, {identifier})
    assert not state(daemon, identifier)["Running"]
    assert "while the container was being started" in state(daemon, identifier)["Error"]
    daemon.ok("start", "box")
    all_agree(daemon, {identifier})


def test_a_start_that_was_begun_is_repeated_for_those_that_always_run(victim: Daemon) -> None:
    daemon = victim
    identifier = create(daemon, RestartPolicy={"Name": "always"})
    die_with_a_start_in_the_keepers_socket(daemon, identifier)
    eventually(lambda: bool(state(daemon, identifier)["Running"]))
    all_agree(daemon, {identifier})


def _alter(daemon: Daemon, identifier: str, change: str) -> None:
    """What a dead daemon did not come to write."""
    database = sqlite3.connect(daemon.root / "data/sampan.db")
    with database:
        database.execute(f"UPDATE records SET body = json_set(body, {change}) WHERE key = ?", (identifier,))
    database.close()


def test_what_runs_and_is_recorded_as_created_is_ended_and_named(victim: Daemon) -> None:
    daemon = victim
    identifier = start(daemon, name="stranger")
    daemon.kill()
    _alter(daemon, identifier, "'$.state.status', 'created', '$.state.pid', 0")
    daemon.start()
    assert not groups(daemon).get(identifier)
    assert "stranger runs although no record says so" in log(daemon)
    events = daemon.sampan("events", "--since", "0", "--until", str(int(time.time()) + 1), "--format", "json").stdout
    dies = [json.loads(line) for line in events.splitlines() if b'"die"' in line]
    assert any(event["Actor"]["ID"] == identifier for event in dies)
    all_agree(daemon, {identifier})
    daemon.ok("start", "stranger")
    daemon.ok("rm", "-f", "stranger")


def test_what_runs_after_both_died_is_recorded_as_created_and_is_ended(victim: Daemon) -> None:
    """No keeper has it: its control group does."""
    daemon = victim
    identifier = start(daemon)
    keeper = daemon.keeper_pid()
    daemon.kill()
    os.kill(keeper, signal.SIGKILL)
    _alter(daemon, identifier, "'$.state.status', 'created', '$.state.pid', 0")
    daemon.start()
    all_agree(daemon, {identifier})
    assert not groups(daemon).get(identifier)


def test_containers_go_on_being_supervised_after_both_died(victim: Daemon) -> None:
    """T92"""
    daemon = victim
    killed, removed, ended = (
        start(daemon, "sh", "-c", "while [ ! -e /go ]; do sleep 0.05; done; exit 7") for _ in range(3)
    )
    keeper = daemon.keeper_pid()
    daemon.kill()
    os.kill(keeper, signal.SIGKILL)
    daemon.start()
    assert all(state(daemon, identifier)["Running"] for identifier in (killed, removed, ended))
    waiting = Asked(daemon, "POST", f"/containers/{ended}/wait")
    Path(f"/proc/{state(daemon, ended)['Pid']}/root/go").touch()
    assert waiting.answer() == 200
    assert state(daemon, ended)["Status"] == "exited"
    daemon.http.call("POST", f"/containers/{killed}/kill")
    assert state(daemon, killed)["Status"] == "exited"
    daemon.http.call("DELETE", f"/containers/{removed}?force=1")
    all_agree(daemon, {killed, removed, ended})


def test_an_end_between_two_daemons_is_noticed_once(victim: Daemon) -> None:
    """T92: containers that end at any moment of a restart of the daemon."""
    daemon = victim
    for _ in range(20 if SOAK else 1):
        made = [
            start(daemon, "sh", "-c", f"usleep {20_000 * number}; exit {number}")
            for number in range(40 if SOAK else 12)
        ]
        daemon.kill()
        daemon.start()
        for number, identifier in enumerate(made):
            assert daemon.http.call("POST", f"/containers/{identifier}/wait") == {"StatusCode": number}
            assert daemon.http.call("GET", f"/containers/{identifier}/json")["RestartCount"] == 0
            daemon.http.call("DELETE", f"/containers/{identifier}")


def test_an_exec_ends_although_the_keeper_does_not_say_so(victim: Daemon) -> None:
    """T92"""
    daemon = victim
    identifier = start(daemon)
    session = daemon.http.call(
        "POST", f"/containers/{identifier}/exec", {"Cmd": ["sleep", "500"], "AttachStdout": True}
    )["Id"]
    sock = ask(daemon, "POST", f"/exec/{session}/start", {"Detach": False})
    eventually(lambda: bool(daemon.http.call("GET", f"/exec/{session}/json")["Pid"]))
    pid = daemon.http.call("GET", f"/exec/{session}/json")["Pid"]
    os.kill(daemon.keeper_pid(), signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    sock.settimeout(30)
    while sock.recv(4096):
        pass
    found = daemon.http.call("GET", f"/exec/{session}/json")
    assert (found["Running"], found["ExitCode"]) in ((False, 137), (False, 255))


def _freezer(identifier: str) -> Path:
    """What freezes the control group of a container."""
    for top, file in (("/sys/fs/cgroup/freezer", "freezer.state"), ("/sys/fs/cgroup", "cgroup.freeze")):
        for path, directories, _ in os.walk(top):
            if identifier in directories and (Path(path) / identifier / file).exists():
                return Path(path) / identifier / file
    raise AssertionError(f"no control group of {identifier}")


def test_a_container_that_a_commit_left_frozen_goes_on(victim: Daemon) -> None:
    daemon = victim
    identifier = start(daemon)
    freezer = _freezer(identifier)
    daemon.kill()
    freezer.write_text("FROZEN" if freezer.name == "freezer.state" else "1")
    daemon.start()
    eventually(lambda: freezer.read_text().strip() in ("THAWED", "0"))
    assert state(daemon, identifier)["Status"] == "running"


def test_a_paused_container_is_paused_after_a_restart_of_the_daemon(victim: Daemon) -> None:
    daemon = victim
    identifier = start(daemon)
    daemon.http.call("POST", f"/containers/{identifier}/pause")
    daemon.kill()
    daemon.start()
    assert state(daemon, identifier)["Status"] == "paused"
    daemon.http.call("POST", f"/containers/{identifier}/unpause")
    daemon.http.call("POST", f"/containers/{identifier}/pause")
    daemon.kill()
    _freezer(identifier).write_text("THAWED" if _freezer(identifier).name == "freezer.state" else "0")
    daemon.start()
    eventually(lambda: state(daemon, identifier)["Status"] == "running")


def test_a_created_container_whose_files_the_power_took_starts(victim: Daemon) -> None:
    daemon = victim
    identifier = create(daemon, "true")
    daemon.kill()
    shutil.rmtree(daemon.root / f"data/containers/{identifier}")
    daemon.start()
    daemon.http.call("POST", f"/containers/{identifier}/start")
    assert daemon.http.call("POST", f"/containers/{identifier}/wait") == {"StatusCode": 0}
