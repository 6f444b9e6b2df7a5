"""Operations on one container at the same time: what is checked still holds when it is done (T95, T96, T97)."""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from sampan.client.http import APIError
from tests.conftest import Daemon, eventually
from tests.faults.order import Asked, all_agree, ask, create, gone, held, state

NONE = ["--network", "none"]


def test_a_removal_waits_for_the_start_under_way_and_ends_what_it_started(daemon: Daemon) -> None:
    """T95"""
    made = set()
    for number in range(5):
        identifier = create(daemon, NetworkMode="bridge" if number % 2 else "none")
        made.add(identifier)
        with held(daemon):
            start = Asked(daemon, "POST", f"/containers/{identifier}/start")
            time.sleep(0.02 * number)
            removal = Asked(daemon, "DELETE", f"/containers/{identifier}?force=1")
            removal.join(0.05)
            assert removal.is_alive() or not start.is_alive()  # where the removal was first, there is nothing to start
        assert (start.answer(), removal.answer()) in ((200, 200), (404, 200))
        assert gone(daemon, identifier)
    all_agree(daemon, made)


@pytest.mark.parametrize(
    ("method", "path", "status", "running"),
    [
        ("POST", "kill", 200, False),
        ("POST", "stop?t=0", 200, False),
        ("POST", "pause", 200, True),
        ("POST", "rename?name=other", 200, True),
        ("POST", "restart?t=0", 200, True),
        ("POST", "start", 200, True),
        ("DELETE", "", 409, True),
    ],
)
def test_what_is_asked_during_a_start_is_done_after_it(
    daemon: Daemon, method: str, path: str, status: int, running: bool
) -> None:
    identifier = create(daemon)
    with held(daemon):
        start = Asked(daemon, "POST", f"/containers/{identifier}/start")
        time.sleep(0.05)
        other = Asked(daemon, method, f"/containers/{identifier}/{path}".rstrip("/"))
        other.join(0.05)
    assert start.answer() == 200
    assert other.answer() == status
    assert state(daemon, identifier)["Running"] is running
    all_agree(daemon, {identifier})


def test_two_removals_at_once(daemon: Daemon) -> None:
    for _ in range(5):
        identifier = create(daemon)
        daemon.http.call("POST", f"/containers/{identifier}/start")
        asked = [Asked(daemon, "DELETE", f"/containers/{identifier}?force=1") for _ in range(4)]
        assert {each.answer() for each in asked} <= {200, 404}
        assert gone(daemon, identifier)
        all_agree(daemon, {identifier})


def test_of_two_containers_made_at_once_with_one_name_one_is_refused(daemon: Daemon) -> None:
    """Copying a volume's files leaves time between the check of a name and its use."""
    for number in range(3):
        body = {
            "Image": "busybox",
            "Cmd": ["true"],
            "HostConfig": {"NetworkMode": "none", "Binds": [f"same{number}:/bin"]},
        }
        asked = [Asked(daemon, "POST", f"/containers/create?name=same{number}", body) for _ in range(4)]
        assert sorted(each.answer() for each in asked) == [200, 409, 409, 409]


def test_a_container_that_is_removed_with_its_end_survives_a_restart(daemon: Daemon) -> None:
    """T96"""
    identifier = create(daemon, AutoRemove=True)
    daemon.http.call("POST", f"/containers/{identifier}/start")
    for _ in range(3):
        before = state(daemon, identifier)["Pid"]
        daemon.http.call("POST", f"/containers/{identifier}/restart?t=0")
        assert state(daemon, identifier)["Running"]
        assert state(daemon, identifier)["Pid"] != before
    daemon.http.call("POST", f"/containers/{identifier}/stop?t=0")
    eventually(lambda: gone(daemon, identifier))


def test_a_restart_that_fails_removes_what_is_removed_with_its_end(daemon: Daemon) -> None:
    identifier = create(daemon, "sh", "-c", "rm /bin/sh; exec sleep 600", AutoRemove=True)
    daemon.http.call("POST", f"/containers/{identifier}/start")
    eventually(lambda: "sleep" in str(daemon.http.call("GET", f"/containers/{identifier}/top")["Processes"]))
    with pytest.raises(APIError):
        daemon.http.call("POST", f"/containers/{identifier}/restart?t=0")
    eventually(lambda: gone(daemon, identifier))


@pytest.mark.parametrize("path", ["stop?t=1", "restart?t=1"])
def test_a_client_that_leaves_does_not_end_what_it_asked_for(daemon: Daemon, path: str) -> None:
    """T96: sleep as process 1 ignores SIGTERM, so that there is a second to leave in."""
    identifier = create(daemon)
    daemon.http.call("POST", f"/containers/{identifier}/start")
    before = state(daemon, identifier)["Pid"]
    ask(daemon, "POST", f"/containers/{identifier}/{path}").close()
    eventually(lambda: state(daemon, identifier)["Pid"] != before)
    eventually(lambda: state(daemon, identifier)["Running"] is path.startswith("restart"))
    all_agree(daemon, {identifier})


def test_start_with_attach_shows_every_run(daemon: Daemon) -> None:
    """T97"""
    daemon.ok("create", "--name", "box", *NONE, "busybox", "sh", "-c", "echo one; echo two >&2; exit 3")
    for _ in range(4):
        done = daemon.sampan("start", "-a", "box")
        assert (done.returncode, done.stdout, done.stderr) == (3, b"one\n", b"two\n")


def test_logs_that_are_followed_from_within_a_start_show_all_of_the_run(daemon: Daemon) -> None:
    """T97"""
    identifier = create(daemon, "sh", "-c", "echo begin; sleep 0.3; echo end")
    daemon.http.call("POST", f"/containers/{identifier}/start")
    daemon.http.call("POST", f"/containers/{identifier}/wait")
    with held(daemon), ThreadPoolExecutor(1) as pool:
        start = Asked(daemon, "POST", f"/containers/{identifier}/start")
        time.sleep(0.05)
        shown = pool.submit(daemon.ok, "logs", "-f", identifier)
        time.sleep(0.5)
        os.kill(daemon.keeper_pid(), 18)
        assert shown.result(60) == "begin\nend\n" * 2
    assert start.answer() == 200


def test_a_commit_does_not_stand_in_the_way_of_a_kill(daemon: Daemon) -> None:
    identifier = create(daemon, "sh", "-c", "dd if=/dev/zero of=/big bs=1M count=40; sleep 600")
    daemon.http.call("POST", f"/containers/{identifier}/start")
    eventually(lambda: "dd" not in str(daemon.http.call("GET", f"/containers/{identifier}/top")["Processes"]))
    commit = Asked(daemon, "POST", f"/commit?container={identifier}&repo=committed")
    eventually(lambda: state(daemon, identifier)["Paused"] or not commit.is_alive())
    daemon.http.call("POST", f"/containers/{identifier}/kill")
    assert not state(daemon, identifier)["Running"]
    assert commit.answer() == 200
    daemon.http.call("DELETE", "/images/committed")


def test_a_commit_is_gone_through_with_when_its_client_leaves(daemon: Daemon) -> None:
    identifier = create(daemon)
    daemon.http.call("POST", f"/containers/{identifier}/start")
    ask(daemon, "POST", f"/commit?container={identifier}&repo=left").close()
    eventually(lambda: "left:latest" in json.dumps(daemon.http.call("GET", "/images/json")))
    eventually(lambda: not state(daemon, identifier)["Paused"])
    daemon.http.call("DELETE", "/images/left")
