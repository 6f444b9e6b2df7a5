"""The same order in virtual machines, whose starts take long enough to meet them in the middle (T90, T95)."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.conftest import Daemon, end_daemon, eventually, new_daemon
from tests.faults.order import Asked, all_agree, ask, create, gone, groups, state

PATIENCE = 60  # seconds: guests are emulated


@pytest.fixture(scope="module")
def machines() -> Iterator[Daemon]:
    daemon = new_daemon("vm")
    daemon.ok("run", "--rm", "--network", "none", "busybox", "true", timeout=110)  # whatever is made once is there
    yield daemon
    end_daemon(daemon)


def starting(daemon: Daemon, identifier: str) -> Asked:
    """A start whose machine is being made."""
    start = Asked(daemon, "POST", f"/containers/{identifier}/start")
    eventually(lambda: bool(groups(daemon).get(identifier)) or not start.is_alive(), PATIENCE)
    return start


def test_a_removal_and_a_kill_during_the_start_of_a_machine(machines: Daemon) -> None:
    removed, killed = create(machines), create(machines)
    start = starting(machines, removed)
    removal = Asked(machines, "DELETE", f"/containers/{removed}?force=1")
    assert (start.answer(), removal.answer()) == (200, 200)
    assert gone(machines, removed)
    start = starting(machines, killed)
    kill = Asked(machines, "POST", f"/containers/{killed}/kill")
    assert (start.answer(), kill.answer()) == (200, 200)
    assert state(machines, killed)["Status"] == "exited"
    all_agree(machines, {removed, killed}, PATIENCE)


def test_a_client_that_leaves_during_the_start_of_a_machine_has_started_it(machines: Daemon) -> None:
    identifier = create(machines)
    ask(machines, "POST", f"/containers/{identifier}/start").close()
    eventually(lambda: bool(state(machines, identifier)["Running"]), PATIENCE)
    all_agree(machines, {identifier}, PATIENCE)
    machines.http.call("DELETE", f"/containers/{identifier}?force=1")


def test_a_daemon_that_is_killed_during_the_start_of_a_machine(machines: Daemon) -> None:
    identifier = create(machines)
    sock = ask(machines, "POST", f"/containers/{identifier}/start")
    eventually(lambda: bool(groups(machines).get(identifier)), PATIENCE)
    time.sleep(0.1)
    machines.kill()
    sock.close()
    machines.start()
    all_agree(machines, {identifier}, PATIENCE)
    machines.http.call("DELETE", f"/containers/{identifier}?force=1")
    assert not groups(machines).get(identifier)
