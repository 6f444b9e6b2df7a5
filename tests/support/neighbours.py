"""Daemons beside each other: in one network namespace, and in pid namespaces of their own if a test wants it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import Daemon, end_daemon, eventually


class Neighbour(Daemon):
    """A daemon in the network namespace of a process and, if another is named, in its pid namespace."""

    def __init__(self, net: int, pids: int = 0) -> None:
        super().__init__(Path(tempfile.mkdtemp(prefix="sampan-test-")))
        self.inside = ["nsenter", f"--net=/proc/{net}/ns/net"]
        self.prefix = self.inside + (["nsenter", "-t", str(pids), "-p", "-m"] if pids else [])

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Signals the daemon itself: nsenter has forked where it changes the pid namespace."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        inside = [pid for pid in children if b"sampand" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        os.kill(int(inside[0]) if inside else self.process.pid, number)
        self.process.wait(15)

    def stop(self) -> None:
        self.kill(signal.SIGTERM)

    def kill_keeper(self) -> None:
        os.kill(self.keeper_pid(), signal.SIGKILL)

    @property
    def short(self) -> str:
        return str(self.http.call("GET", "/info")["ID"])[:8]


@contextlib.contextmanager
def holder(*kinds: str) -> Iterator[int]:
    """A process in new namespaces; with a pid namespace it is the first in it."""
    command = ["unshare", *kinds, "--kill-child", "--fork", "sleep", "3600"]
    process = subprocess.Popen(command)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    eventually(lambda: bool(children.read_text()) and _is_sleeping(int(children.read_text().split()[0])))
    try:
        yield int(children.read_text().split()[0])
    finally:
        process.kill()
        process.wait()


def _is_sleeping(pid: int) -> bool:
    return Path(f"/proc/{pid}/comm").read_text() == "sleep\n"


@contextlib.contextmanager
def neighbours(kind: str, count: int = 2) -> Iterator[list[Neighbour]]:
    """Two engines in one network namespace; with "pids" each in a pid namespace of its own."""
    with contextlib.ExitStack() as stack:
        net = stack.enter_context(holder("--net"))
        subprocess.run(["nsenter", "-t", str(net), "-n", "ip", "link", "set", "lo", "up"], check=True)
        daemons: list[Neighbour] = []
        for _ in range(count):
            daemon = Neighbour(net, stack.enter_context(holder("--pid", "--mount-proc")) if kind == "pids" else 0)
            daemon.start()
            stack.callback(end_daemon, daemon)
            daemon.ok("bootstrap", "busybox")
            daemons.append(daemon)
        yield daemons
