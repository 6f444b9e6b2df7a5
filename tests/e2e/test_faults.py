"""SIGKILL at bad moments, and nothing left behind (P088, P091)."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import time
from pathlib import Path

from tests.conftest import Daemon, eventually
from tests.support.commands import NONE

# `make soak` runs what the first issue asks for; every run of the tests a part of it.
SOAK = bool(os.environ.get("SAMPAN_SOAK"))
COUNT, KILLS, LINES, CYCLES = (20, 50, 2500, 2000) if SOAK else (8, 8, 400, 150)
SCRIPT = "i=0; while [ $i -lt {n} ]; do echo line $i; i=$((i+1)); usleep 5000; done; exit {code}"


def start_writers(daemon: Daemon, lines: int) -> list[str]:
    names = [f"writer{number}" for number in range(COUNT)]
    for number, name in enumerate(names):
        daemon.ok("run", "-d", *NONE, "--name", name, "busybox", "sh", "-c", SCRIPT.format(n=lines, code=number + 10))
    return names


def check_writers(daemon: Daemon, names: list[str], lines: int) -> None:
    expected = "".join(f"line {number}\n" for number in range(lines))
    for number, name in enumerate(names):
        assert daemon.ok("wait", name).strip() == str(number + 10)
        assert daemon.ok("logs", name) == expected, name


def test_killing_sampand_loses_nothing(own_daemon: Daemon) -> None:
    names = start_writers(own_daemon, LINES)
    for _ in range(KILLS):
        time.sleep(random.uniform(0, 0.2))
        own_daemon.kill()
        own_daemon.start()
    check_writers(own_daemon, names, LINES)


def test_killing_the_keeper_loses_nothing(own_daemon: Daemon) -> None:
    names = start_writers(own_daemon, LINES)
    for _ in range(KILLS):
        time.sleep(random.uniform(0, 0.2))
        old = own_daemon.keeper_pid()
        os.kill(old, signal.SIGKILL)
        eventually(lambda old=old: _new_keeper(own_daemon, old))  # type: ignore[misc]
    check_writers(own_daemon, names, LINES)


def _new_keeper(daemon: Daemon, old: int) -> bool:
    try:
        return daemon.keeper_pid() != old
    except AssertionError:
        return False


def test_a_container_that_ends_while_sampand_is_dead(own_daemon: Daemon) -> None:
    own_daemon.ok("run", "-d", *NONE, "--name", "box", "busybox", "sh", "-c", "sleep 0.5; echo last; exit 21")
    own_daemon.kill()
    time.sleep(1)
    own_daemon.start()
    state = json.loads(own_daemon.ok("inspect", "box"))[0]["State"]
    assert (state["Status"], state["ExitCode"]) == ("exited", 21)
    assert own_daemon.ok("logs", "box") == "last\n"


def test_an_earlier_runs_exit_is_not_taken_for_this_ones(own_daemon: Daemon) -> None:
    """Keeper, standby and sampand end together: nobody saw how the second run ended, and the first one's code must not stand."""
    own_daemon.ok(
        "create", *NONE, "--name", "box", "busybox", "sh", "-c", "[ -e /was ] && sleep 600; touch /was; exit 21"
    )
    own_daemon.ok("start", "box")
    assert own_daemon.ok("wait", "box").strip() == "21"
    own_daemon.ok("start", "box")
    pid = json.loads(own_daemon.ok("inspect", "box"))[0]["State"]["Pid"]
    keepers = [own_daemon.keeper_pid("sampan-standby"), own_daemon.keeper_pid()]
    own_daemon.kill()
    for keeper in keepers:
        os.kill(keeper, signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    own_daemon.start()
    state = json.loads(own_daemon.ok("inspect", "box"))[0]["State"]
    assert (state["Status"], state["ExitCode"]) == ("exited", 255)
    assert "exit code unknown" in state["Error"]


def test_restart_policy_always_survives_a_restart_of_sampand(own_daemon: Daemon) -> None:
    own_daemon.ok("run", "-d", *NONE, "--name", "box", "--restart", "always", "busybox", "sleep", "600")
    pid = json.loads(own_daemon.ok("inspect", "box"))[0]["State"]["Pid"]
    own_daemon.kill()
    own_daemon.start()
    assert json.loads(own_daemon.ok("inspect", "box"))[0]["State"]["Pid"] == pid
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: json.loads(own_daemon.ok("inspect", "box"))[0]["State"]["Pid"] not in (0, pid))


def test_a_damaged_record_harms_no_other(own_daemon: Daemon) -> None:
    """P088"""
    for name in ("good", "broken"):
        own_daemon.ok("create", *NONE, "--name", name, "busybox", "true")
    own_daemon.kill()
    database = sqlite3.connect(own_daemon.root / "data/sampan.db")
    with database:
        database.execute("UPDATE records SET body = '{' WHERE body LIKE '%\"broken\"%'")
    database.close()
    own_daemon.start()
    names = own_daemon.ok("ps", "-a", "--format", "{{.Names}} {{.Status}}").splitlines()
    assert "good Created" in names
    assert len(names) == 2
    assert "damaged" in (own_daemon.root / "log").read_text()


def _traces(daemon: Daemon) -> tuple[int, int, int, int]:
    mounts = Path("/proc/self/mountinfo").read_text().count(str(daemon.root))
    groups = sum(
        not name.startswith("spare-")
        for path, directories, _ in os.walk("/sys/fs/cgroup")
        if path.endswith(f"/{daemon.containers_group}")
        for name in directories
    )
    assert daemon.process is not None
    descriptors = len(os.listdir(f"/proc/{daemon.process.pid}/fd")) + len(os.listdir(f"/proc/{daemon.keeper_pid()}/fd"))
    children = Path(f"/proc/{daemon.keeper_pid()}/task/{daemon.keeper_pid()}/children").read_text().split()
    return mounts, groups, descriptors, sum(not _is_spare(pid) for pid in children)


def _is_spare(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text() == "sampan-spare\n"
    except OSError:
        return False


def test_cycles_leave_nothing_behind(own_daemon: Daemon) -> None:
    http = own_daemon.http

    def cycle(command: str) -> None:
        body = {"Image": "busybox", "Cmd": [command], "HostConfig": {"NetworkMode": "none"}}
        identifier = http.call("POST", "/containers/create", body)["Id"]
        try:
            http.call("POST", f"/containers/{identifier}/start")
        except Exception:
            assert command == "nope"
        http.call("POST", f"/containers/{identifier}/wait")
        http.call("DELETE", f"/containers/{identifier}")

    cycle("true")
    eventually(lambda: _traces(own_daemon)[3] == 0)
    before = _traces(own_daemon)
    for number in range(CYCLES):
        cycle("nope" if number % 10 == 0 else "true")
    eventually(lambda: _traces(own_daemon)[3] == 0)
    after = _traces(own_daemon)
    assert after[0] == before[0]
    assert after[1] == before[1]
    assert after[2] <= before[2] + 2
    assert os.listdir(own_daemon.root / "data/containers") in ([], ["spare"])


def test_a_full_disk(own_daemon: Daemon) -> None:
    """P089: an image that does not fit is refused by name and leaves nothing; then all goes on."""
    import subprocess

    mountpoint = own_daemon.root / "data/images/tmp"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mountpoint)], check=True)
    try:
        saved = own_daemon.sampan("save", "busybox").stdout
        done = own_daemon.sampan("load", input=saved)
        assert done.returncode == 1
        assert b"no space" in done.stderr.lower()
        assert os.listdir(mountpoint) == []
    finally:
        subprocess.run(["umount", str(mountpoint)], check=True)
    assert own_daemon.sampan("load", input=saved).returncode == 0


def test_many_at_once(own_daemon: Daemon) -> None:
    """P117: each gets its own output and exit code."""
    from concurrent.futures import ThreadPoolExecutor

    def one(number: int) -> tuple[int, str]:
        done = own_daemon.sampan(
            "run", "--rm", *NONE, "-h", f"h{number}", "busybox", "sh", "-c", f"hostname; exit {number}"
        )
        return done.returncode, done.stdout.decode().strip()

    with ThreadPoolExecutor(10) as pool:
        assert list(pool.map(one, range(40))) == [(number, f"h{number}") for number in range(40)]
    assert own_daemon.http.call("GET", "/containers/json?all=1") == []
