"""Logs (T26, T71, T78, T93): from the end, in bounded pieces, past damage, through a disk that is full or read-only."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from sampan.client.http import Http
from sampan.keeper import logs
from tests.conftest import Daemon, eventually
from tests.support.commands import NONE

pytestmark = [pytest.mark.e2e]
SOAK = bool(os.environ.get("SAMPAN_SOAK"))


def log_directory(daemon: Daemon, name: str) -> Path:
    identifier = json.loads(daemon.ok("inspect", name))[0]["Id"]
    return daemon.root / f"data/containers/{identifier}/log"


def stopped(daemon: Daemon, name: str) -> logs.Writer:
    """A writer for the log of a container that does not run."""
    daemon.ok("create", *NONE, "--name", name, "busybox", "true")
    return logs.Writer(str(log_directory(daemon, name)))


class Pings:
    """Asks the engine for its name all the time, and remembers the longest answer."""

    def __init__(self, daemon: Daemon) -> None:
        self.worst, self._stop = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._run, args=(daemon.socket,))

    def _run(self, socket: str) -> None:
        http = Http(socket)
        while not self._stop.wait(0.005):
            began = time.monotonic()
            http.send("GET", "/_ping").read()
            self.worst = max(self.worst, time.monotonic() - began)

    def __enter__(self) -> Pings:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def test_the_end_of_a_long_log(daemon: Daemon) -> None:
    """T71, T78: the last line costs the same however much came before, and nobody waits meanwhile."""
    writer = stopped(daemon, "long")
    for number in range(2_000_000 if SOAK else 150_000):
        writer.append(b"%d\n" % number, logs.STDOUT)
    for _ in range(300 if SOAK else 40):
        writer.append(b"x" * 999_999 + b"\n", logs.STDOUT)
    writer.append(b"last\n", logs.STDERR)
    took = []
    for _ in range(3):  # the machine may be busy with others
        began = time.monotonic()
        assert daemon.http.send("GET", "/containers/long/logs?stdout=1&stderr=1&tail=1").read()[8:] == b"last\n"
        took.append(time.monotonic() - began)
    assert min(took) < 3
    with Pings(daemon) as pings:
        whole = daemon.http.send("GET", "/containers/long/logs?stdout=1&stderr=1").read()
    assert len(whole) > 40_000_000
    assert pings.worst < 2


def test_a_long_log_does_not_delay_a_start(daemon: Daemon) -> None:
    """T78: what a start repairs of a log does not grow with it."""
    writer = stopped(daemon, "again")
    for number in range(2_000_000 if SOAK else 200_000):
        writer.append(b"%d\n" % number, logs.STDOUT)
    began = time.monotonic()
    daemon.ok("start", "again")
    assert time.monotonic() - began < 5


def test_a_line_without_an_end(daemon: Daemon) -> None:
    """T71: 150 MB without a newline: pieces of 16 KiB, as Docker gives them."""
    writer = stopped(daemon, "line")
    size = 150 if SOAK else 30
    for _ in range(size * 10):
        writer.append(b"y" * 100_000, logs.STDOUT)
    with Pings(daemon) as pings:
        assert len(daemon.sampan("logs", "line").stdout) == size * 1_000_000
        last = daemon.sampan("logs", "--tail", "1", "line").stdout
    assert set(last) == {ord("y")}
    assert len(last) <= 16 << 10
    assert pings.worst < 2


def test_damage_costs_what_it_is_in(daemon: Daemon) -> None:
    """T78: one header that is gone takes its own frame, and nothing of what follows; the next run goes on after it."""
    daemon.ok("create", *NONE, "--name", "hurt", "busybox", "echo", "new")
    writer = logs.Writer(str(log_directory(daemon, "hurt")))
    for number in range(1000):
        writer.append(b"line %d\n" % number, logs.STDOUT)
    writer.close()
    [path] = log_directory(daemon, "hurt").glob("*.frames")
    content = bytearray(path.read_bytes())
    at = content.index(b"line 500\n")
    content[at - 20 : at + 3] = b"\0" * 23
    path.write_bytes(content)
    daemon.ok("start", "-a", "hurt")
    expected = [f"line {number}" for number in range(1000) if number != 500] + ["new"]
    assert daemon.ok("logs", "hurt").splitlines() == expected
    assert daemon.ok("logs", "--tail", "3", "hurt").splitlines() == expected[-3:]


def test_tails(daemon: Daemon) -> None:
    """Any number of lines, of either stream, since any time, is what one gets by reading everything."""
    daemon.ok("create", *NONE, "--name", "both", "busybox", "true")
    writer = logs.Writer(str(log_directory(daemon, "both")), max_size=9000, max_files=4)
    for number in range(3000):
        writer.append(b"%d a" % number, 1 + number % 7 // 6)
        writer.append(b"bc\nd\n" if number % 3 else b"bc", 1 + number % 7 // 6)
    for streams in ("stdout=1", "stderr=1", "stdout=1&stderr=1"):
        whole = list(daemon.http.send("GET", f"/containers/both/logs?{streams}").frames())
        for count in (0, 1, 2, 10, 200, len(whole) - 1, len(whole), 10**6):
            tail = list(daemon.http.send("GET", f"/containers/both/logs?{streams}&tail={count}").frames())
            assert tail == (whole[-count:] if count else [])


def test_a_follower_of_a_log_of_one_file_loses_nothing(daemon: Daemon) -> None:
    """T26"""
    options = ("--log-opt", "max-file=1", "--log-opt", "max-size=2k")
    script = "read go; i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done"
    daemon.ok("create", "-i", *NONE, *options, "--name", "small", "busybox", "sh", "-c", script)
    daemon.ok("start", "small")
    follower = subprocess.Popen(["sampan", "logs", "-f", "small"], env=daemon.env, stdout=subprocess.PIPE)
    attached = subprocess.Popen(["sampan", "attach", "small"], env=daemon.env,
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    eventually(lambda: _readers(daemon) >= 2)
    whole = "".join(f"line {number}\n" for number in range(3000)).encode()
    assert attached.communicate(b"go\n", timeout=30)[0] == whole
    assert follower.communicate(timeout=30)[0] == whole


def _readers(daemon: Daemon) -> int:
    assert daemon.process is not None
    found = 0
    for entry in os.listdir(f"/proc/{daemon.process.pid}/fd"):
        try:
            found += os.readlink(f"/proc/{daemon.process.pid}/fd/{entry}").endswith("/log")
        except OSError:
            continue
    return found


def test_a_disk_that_takes_no_log(daemon: Daemon) -> None:
    """T93: full, then read-only, then with space again: the container writes on, and its output is kept when it can be."""
    script = "while read line; do head -c 300000 /dev/zero; echo $line; echo $line >/said; done"
    daemon.ok("create", "-i", *NONE, "--log-opt", "max-size=100k", "--log-opt", "max-file=2",
              "--name", "full", "busybox", "sh", "-c", script)  # fmt: skip
    daemon.ok("create", *NONE, "--name", "other", "busybox", "sh", "-c", "while sleep 0.05; do echo mine; done")
    directory = log_directory(daemon, "full")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", directory], check=True)
    attached = None
    try:
        daemon.ok("start", "full", "other")
        attached = subprocess.Popen(["sampan", "attach", "full"], env=daemon.env,
                                    stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)  # fmt: skip
        assert attached.stdin is not None

        def say(word: str) -> None:
            assert attached is not None
            assert attached.stdin is not None
            attached.stdin.write(f"{word}\n".encode())
            attached.stdin.flush()
            eventually(lambda: daemon.sampan("exec", "full", "cat", "/said").stdout == f"{word}\n".encode())

        (directory / "ballast").write_bytes(bytes(150_000))
        say("full")
        say("still")
        subprocess.run(["mount", "-o", "remount,size=4m", directory], check=True)
        say("space")
        eventually(lambda: daemon.sampan("logs", "--tail", "1", "full").stdout.endswith(b"space\n"))
    finally:
        if attached is not None:
            attached.kill()
            attached.wait()
        subprocess.run(["umount", "-l", directory], check=True)
    assert set(daemon.ok("logs", "other").split()) == {"mine"}
