"""What an engine needs while somebody attacks it, and whether others can go on meanwhile."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import Daemon

MOST = 200 << 20  # bytes of the daemon and its children, whoever attacks


def descendants(pid: int) -> list[int]:
    """A process and what it has started."""
    found = [pid]
    for each in found:
        try:
            for task in os.listdir(f"/proc/{each}/task"):
                found += map(int, Path(f"/proc/{each}/task/{task}/children").read_text().split())
        except OSError:
            continue
    return found


def memory(pid: int) -> int:
    """Bytes of its own that it and its children hold (PSS: what they share counts once)."""
    total = 0
    for each in descendants(pid):
        try:
            if Path(f"/proc/{each}/comm").read_text().startswith("sampan-"):
                continue  # the keeper's, which is nobody's of these
            text = Path(f"/proc/{each}/smaps_rollup").read_text()
        except OSError:
            continue
        total += next((int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith("Pss:")), 0)
    return total


class Watch:
    """Samples the daemon's memory, and drives other containers, in a thread of its own."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon, self._over = daemon, threading.Event()
        self.peak, self._recent, self.rounds, self.failures = 0, 0, 0, list[str]()
        assert daemon.process is not None
        self._pid = daemon.process.pid
        self._threads = [threading.Thread(target=self._sample), threading.Thread(target=self._drive)]

    def take(self) -> int:
        """The most memory since it was asked last."""
        recent, self._recent = self._recent, 0
        return recent

    def _sample(self) -> None:
        while not self._over.is_set():
            now = memory(self._pid)
            self.peak, self._recent = max(self.peak, now), max(self._recent, now)
            time.sleep(0.1)

    def _drive(self) -> None:
        """One that runs goes on, and another starts."""
        while not self._over.is_set():
            done = self._daemon.sampan("exec", "steady", "echo", "on")
            if done.stdout != b"on\n":
                self.failures.append(f"exec: {done.stderr!r}")
            done = self._daemon.sampan("run", "--rm", "--network", "none", "busybox", "echo", "new")
            if done.stdout != b"new\n":
                self.failures.append(f"run: {done.stderr!r}")
            self.rounds += 1
            self._over.wait(1.0)

    def begin(self) -> None:
        self._daemon.ok("run", "-d", "--name", "steady", "--network", "none", "busybox", "sleep", "3600")
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)
        self._daemon.ok("rm", "-f", "steady")


@contextlib.contextmanager
def watched(daemon: Daemon) -> Iterator[Watch]:
    """While something hostile is done: the daemon lives, others go on, memory is bounded, nothing is left."""
    before = leftovers(daemon)
    watch = Watch(daemon)
    watch.begin()
    try:
        yield watch
    finally:
        watch.end()
    assert daemon.process is not None
    assert daemon.process.poll() is None
    assert watch.rounds > 0
    assert watch.failures == []
    assert watch.peak < MOST, f"{watch.peak >> 20} MiB"
    left = leftovers(daemon)
    assert left == before, left


def leftovers(daemon: Daemon) -> dict[str, list[str]]:
    """What lies where temporary things do, and the images."""
    data = daemon.root / "data"
    found = {
        name: sorted(os.listdir(data / name))
        for name in ("images/tmp", "images/partial", "builds/work")
        if (data / name).is_dir()
    }
    found["images"] = sorted(row["Id"] for row in daemon.http.call("GET", "/images/json?all=1"))
    return found
