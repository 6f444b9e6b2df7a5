"""Who does not answer (T94): a keeper or a QEMU that is stopped keeps nobody waiting for ever, and is named."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import Daemon, eventually
from tests.support.commands import NONE

pytestmark = [pytest.mark.e2e]
SOAK = bool(os.environ.get("SAMPAN_SOAK"))
LIMIT = 60  # seconds: the limits are a third of that, and the machine may be busy


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_keeper_that_is_stopped(own_daemon: Daemon) -> None:
    """What needs it fails with an error that says so; what does not works; nothing is doubled or lost when it goes on."""
    daemon = own_daemon
    for name in ("box", "ends"):
        daemon.ok("run", "-d", *NONE, "--name", name, "busybox", "sleep", "600")
    daemon.ok("create", *NONE, "--name", "late", "busybox", "sleep", "71717")
    commands = (("start", "late"), ("stop", "-t", "1", "ends"), ("exec", "box", "true"))
    with stopped(daemon.keeper_pid()):
        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(daemon.sampan, *command, timeout=LIMIT) for command in commands]
            began = time.monotonic()
            for command in (
                ("ps", "-a"),
                ("inspect", "box"),
                ("logs", "box"),
                ("images",),
                ("create", *NONE, "busybox"),
            ):
                daemon.ok(*command)
            assert time.monotonic() - began < 10
            answers = [each.result() for each in asked]
        for command, answer in zip(commands, answers, strict=True):
            assert answer.returncode != 0, command
            assert b"keeper has not" in answer.stderr + answer.stdout, command
    eventually(lambda: daemon.sampan("exec", "box", "true").returncode == 0, 30)
    eventually(lambda: json.loads(daemon.ok("inspect", "ends"))[0]["State"]["Status"] == "exited")
    eventually(lambda: not _commands("sleep\x0071717\0"))
    assert not json.loads(daemon.ok("inspect", "late"))[0]["State"]["Running"]
    daemon.ok("start", "late")
    eventually(lambda: len(_commands("sleep\x0071717\0")) == 1)
    daemon.ok("rm", "-f", "late")


def test_a_daemon_starts_while_the_keeper_is_stopped(own_daemon: Daemon) -> None:
    daemon = own_daemon
    daemon.ok("run", "-d", *NONE, "--name", "box", "busybox", "sleep", "600")
    daemon.kill()
    with stopped(daemon.keeper_pid()):
        daemon.start()
        assert "box" in daemon.ok("ps", "--format", "{{.Names}}")
    eventually(lambda: daemon.sampan("exec", "box", "true").returncode == 0, 30)
    daemon.ok("rm", "-f", "box")


def _commands(line: str) -> list[int]:
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            try:
                if Path(f"/proc/{entry}/cmdline").read_text() == line:
                    found.append(int(entry))
            except (OSError, UnicodeDecodeError):
                continue
    return found


def _qemu(daemon: Daemon, name: str) -> int:
    """The QEMU of a machine: a descendant of its shim."""
    todo = [json.loads(daemon.ok("inspect", name))[0]["State"]["Pid"]]
    while todo:
        pid = todo.pop()
        if Path(f"/proc/{pid}/comm").read_text().startswith("qemu"):
            return int(pid)
        todo += [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    raise AssertionError("no QEMU")


def test_a_qemu_that_is_stopped(own_daemon: Daemon, tmp_path: Path) -> None:
    daemon = own_daemon
    names = ("guest", "other") if SOAK else ("guest",)
    for name in names:
        daemon.ok("run", "-d", "--isolation", "vm", *NONE, "--name", name, "busybox", "sleep", "600", timeout=300)
    (tmp_path / "file").write_text("x")
    commands = [
        ("top", "guest"),
        ("stats", "--no-stream", "guest"),
        ("exec", "guest", "true"),
        ("cp", str(tmp_path / "file"), "guest:/file"),
        *([("pause", "guest"), ("update", "--cpus", "1", "guest")] if SOAK else []),
    ]
    for name in names:
        os.kill(_qemu(daemon, name), signal.SIGSTOP)  # for good: they are killed
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(daemon.sampan, *command, timeout=LIMIT + 30) for command in commands]
        daemon.ok("ps")
        answers = [each.result() for each in asked]
    for command, answer in zip(commands, answers, strict=True):
        assert answer.returncode != 0, command
        assert b"guest" in answer.stderr + answer.stdout, command
        assert b"not answered" in answer.stderr + answer.stdout, command
    if SOAK:
        daemon.ok("kill", "other", timeout=LIMIT)
    daemon.ok("rm", "-f", "guest", timeout=LIMIT)
    assert daemon.ok("ps", "-q") == ""


def test_a_client_that_leaves_a_silent_keeper(own_daemon: Daemon) -> None:
    """A start whose client and keeper both do nothing any more: the container does not run unrecorded afterwards."""
    daemon = own_daemon
    daemon.ok("create", *NONE, "--name", "box", "busybox", "sleep", "72727")
    with stopped(daemon.keeper_pid()):
        client = subprocess.Popen(["sampan", "start", "box"], env=daemon.env)
        time.sleep(0.3)
        client.kill()
        client.wait()

    def agreed() -> bool:
        running = json.loads(daemon.ok("inspect", "box"))[0]["State"]["Running"]
        return len(_commands("sleep\x0072727\0")) == int(running)

    eventually(agreed, 40)


@pytest.mark.skipif(not SOAK, reason="a standstill is told after 20 s")
def test_a_qemu_that_is_stopped_within_a_start(own_daemon: Daemon) -> None:
    """It is given up, and named, long before one that is slow."""
    daemon = own_daemon
    daemon.ok("run", "--rm", "--isolation", "vm", *NONE, "busybox", "true", timeout=300)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(daemon.sampan, "run", "--isolation", "vm", *NONE, "busybox", "true", timeout=LIMIT + 30)
        eventually(lambda: bool(_booting(daemon)))
        os.kill(_booting(daemon)[0], signal.SIGSTOP)
        answer = asked.result()
    assert answer.returncode
    assert b"QEMU has done nothing for 20 s" in answer.stderr or b"monitor does not answer" in answer.stderr
    eventually(lambda: not _booting(daemon))


def _booting(daemon: Daemon) -> list[int]:
    """QEMUs whose guests have been let go on: they use the processor."""
    found = []
    todo = [daemon.keeper_pid()]
    while todo:
        pid = todo.pop()
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
            if "(qemu" in stat and int(stat.rpartition(")")[2].split()[11]) > 30:
                found.append(pid)
            todo += [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        except OSError:
            continue
    return found
