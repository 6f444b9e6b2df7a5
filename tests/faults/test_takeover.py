"""The keeper, its standby and the daemon die, one by one and together (T92): nothing that runs is lost sight of."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Daemon, eventually
from tests.support.commands import NONE

pytestmark = [pytest.mark.e2e]
SOAK = bool(os.environ.get("SAMPAN_SOAK"))
TALKER = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.02; done"


def state(daemon: Daemon, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(daemon.ok("inspect", name))[0]["State"]
    return found


def kill(daemon: Daemon, *names: str) -> None:
    """Kills the keeper or its standby, or both, and waits until both are there again."""
    old = [daemon.keeper_pid(name) for name in names]
    for pid in old:
        os.kill(pid, signal.SIGKILL)

    def both_new() -> bool:
        with contextlib.suppress(AssertionError):
            found = [daemon.keeper_pid("sampan-keeper"), daemon.keeper_pid("sampan-standby")]
            return not set(found) & set(old) or (len(names) == 1 and old[0] not in found)
        return False

    eventually(both_new, 20)


def counts(text: str) -> list[int]:
    return [int(line) for line in text.split()]


BOTH = ("sampan-keeper", "sampan-standby")
DEATHS = [(BOTH, True), (BOTH, False), (BOTH[:1], True), (BOTH[1:], False)]


@pytest.mark.parametrize(("victims", "with_daemon"), DEATHS + ([(BOTH[:1], False), (BOTH[1:], True)] if SOAK else []))
def test_containers_go_on_and_are_supervised(own_daemon: Daemon, victims: tuple[str, ...], with_daemon: bool) -> None:
    own_daemon.ok("run", "-d", *NONE, "--name", "talker", "busybox", "sh", "-c", TALKER)
    own_daemon.ok(
        "run",
        "-d",
        *NONE,
        "--name",
        "coder",
        "busybox",
        "sh",
        "-c",
        "trap 'exit 21' TERM; while :; do sleep 0.02; done",
    )
    own_daemon.ok("run", "-d", *NONE, "--name", "victim", "busybox", "sleep", "600")
    pids = [state(own_daemon, name)["Pid"] for name in ("talker", "coder", "victim")]
    if with_daemon:
        own_daemon.kill()
    if with_daemon and len(victims) == 2:
        for pid in [own_daemon.keeper_pid(name) for name in victims]:
            os.kill(pid, signal.SIGKILL)
    else:
        kill(own_daemon, *victims)
    if with_daemon:
        own_daemon.start()
    everything = with_daemon and len(victims) == 2  # nobody is left who had the pipes: a writer ends with SIGPIPE
    eventually(lambda: own_daemon.sampan("exec", "coder", "true").returncode == 0)
    assert [state(own_daemon, name)["Pid"] for name in ("coder", "victim")] == pids[1:]
    os.kill(pids[1], signal.SIGTERM)
    eventually(lambda: state(own_daemon, "coder")["Status"] == "exited")
    assert state(own_daemon, "coder")["ExitCode"] == 21
    if not everything:
        before = len(counts(own_daemon.ok("logs", "talker")))
        eventually(lambda: len(counts(own_daemon.ok("logs", "talker"))) > before)
        said = counts(own_daemon.ok("logs", "talker"))
        assert said == list(range(len(said)))
        own_daemon.ok("kill", "talker")
        assert state(own_daemon, "talker")["ExitCode"] == 137
    own_daemon.ok("rm", "-f", "victim")
    assert not Path(f"/proc/{pids[2]}").exists() or Path(f"/proc/{pids[2]}/stat").read_text().split()[2] == "Z"


def test_ends_while_nobody_looks(own_daemon: Daemon) -> None:
    """Containers end while the daemon, the keeper or both are away: each end is noticed, once, with its code."""
    names = [f"c{number}" for number in range(300 if SOAK else 12)]
    for name in names:
        own_daemon.ok(
            "create", "-i", *NONE, "--name", name, "busybox", "sh", "-c", f"read x; exit {100 + int(name[1:]) % 20}"
        )
        own_daemon.ok("start", name)
    pids = {name: state(own_daemon, name)["Pid"] for name in names}
    for number, name in enumerate(names):
        if number % 8 == 2:
            kill(own_daemon, "sampan-keeper")
        if number % 8 == 4:
            own_daemon.kill()
        if number % 8 == 5:
            kill(own_daemon, "sampan-standby")
        _end(pids[name])
        if number % 8 == 6:
            own_daemon.start()
    for name in names:
        eventually(lambda name=name: state(own_daemon, name)["Status"] == "exited")  # type: ignore[misc]
        assert state(own_daemon, name)["ExitCode"] == 100 + int(name[1:]) % 20


def _end(pid: int) -> None:
    """Gives a container's shell the line that it waits for."""
    with open(f"/proc/{pid}/fd/0", "wb") as stdin:
        stdin.write(b"\n")


def test_takeovers_leave_nothing_behind(own_daemon: Daemon) -> None:
    """Neither stacks nor memory nor descriptors grow with the number of those that have died."""
    own_daemon.ok("run", "-d", *NONE, "--name", "talker", "busybox", "sh", "-c", TALKER)

    def round_() -> tuple[int, int]:
        kill(own_daemon, "sampan-keeper")
        kill(own_daemon, "sampan-standby")
        pids = (own_daemon.keeper_pid(), own_daemon.keeper_pid("sampan-standby"))
        descriptors = sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)
        private = sum(
            int(line.split()[1])
            for pid in pids
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            if line.startswith("Private_Dirty")
        )
        return descriptors, private

    for _ in range(3):
        first = round_()
    for _ in range(150 if SOAK else 5):
        last = round_()
    assert last[0] <= first[0] + 3
    assert last[1] < first[1] + 4000
    eventually(lambda: own_daemon.sampan("exec", "talker", "true").returncode == 0)
    said = counts(own_daemon.ok("logs", "talker"))
    assert said == list(range(len(said)))


def test_orphans_of_others_are_reaped(own_daemon: Daemon) -> None:
    """Without a pid namespace a container's orphans become children of the keeper, or of the standby when that has died."""

    def children(pid: int) -> set[int]:
        return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))

    def orphan(seconds: float) -> int:
        text = own_daemon.ok("exec", "host", "sh", "-c", f"sleep {seconds} >/dev/null 2>&1 & echo $!")
        eventually(lambda: int(text) in children(own_daemon.keeper_pid()))
        return int(text)

    own_daemon.ok("run", "-d", *NONE, "--pid", "host", "--name", "host", "busybox", "sleep", "600")
    first = orphan(1)
    eventually(lambda: not Path(f"/proc/{first}").exists())
    second = orphan(600)
    kill(own_daemon, "sampan-keeper")
    assert second in children(own_daemon.keeper_pid("sampan-standby"))
    os.kill(second, signal.SIGKILL)
    eventually(lambda: not Path(f"/proc/{second}").exists())


def test_an_exec_under_way(own_daemon: Daemon) -> None:
    """It goes on when the keeper dies, and ends, one way or the other, when its standby dies too."""
    own_daemon.ok("run", "-d", *NONE, "--name", "box", "busybox", "sleep", "600")
    for victims, expected in ((("sampan-keeper",), {7}), (("sampan-keeper", "sampan-standby"), {7, 137, 255})):
        script = "echo begun; while [ ! -e /go ]; do sleep 0.02; done; rm /go; exit 7"
        running = subprocess.Popen(
            ["sampan", "exec", "box", "sh", "-c", script], env=own_daemon.env, stdout=subprocess.PIPE
        )
        assert running.stdout is not None
        assert running.stdout.readline() == b"begun\n"
        kill(own_daemon, *victims)
        eventually(lambda: own_daemon.sampan("exec", "box", "touch", "/go").returncode == 0)
        assert running.wait(20) in expected


def test_a_start_under_way_is_whole_or_not_there(own_daemon: Daemon) -> None:
    """The keeper dies at some moment of a start: either the container runs and is known to, or nothing of it does."""
    for number in range(60 if SOAK else 8):
        own_daemon.ok("create", *NONE, "--name", f"s{number}", "busybox", "sleep", str(60_000 + number))
        starting = subprocess.Popen(["sampan", "start", f"s{number}"], env=own_daemon.env, stderr=subprocess.DEVNULL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            starting.wait(0.02 + number % 8 * 0.005)
        kill(own_daemon, "sampan-keeper")
        starting.wait(30)

        def settled(number: int = number) -> bool:
            running = state(own_daemon, f"s{number}")["Status"] == "running"
            return _runs(f"sleep\0{60_000 + number}\0") == running

        eventually(settled)


def _runs(command: str) -> bool:
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{entry}/cmdline").read_text() == command:
                    return True
    return False


def test_the_standby_is_small(own_daemon: Daemon) -> None:
    own_daemon.ok("run", "-d", *NONE, "busybox", "sleep", "600")
    pid = own_daemon.keeper_pid("sampan-standby")
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    private = sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty"))
    assert private < 8000
