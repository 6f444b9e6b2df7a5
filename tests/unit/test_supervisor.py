"""The keeper's children: whose zombies are nobody's, and what becomes of one that can't be followed."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sampan.keeper.protocol import LogOptions, Start
from sampan.keeper.setups import Setups
from sampan.keeper.standby import Estate
from sampan.keeper.supervisor import Supervisor
from sampan.keeper.tasks import Pipes, Task
from sampan.runtime import spawn


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[Supervisor]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "keeper.sock"))
        listener.listen()
        yield Supervisor(listener, Estate())


class Client:
    """A connection that keeps what it is sent."""

    open = True

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []

    def send(self, message: dict[str, Any], fds: object = None) -> None:
        self.sent.append(message)


def begin(setups: Setups, identifier: str, moving: bool) -> tuple[socket.socket, spawn.Child, Client]:
    """A process that is being set up: the other end of its channel, and who wants it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    pid = os.fork()
    if pid == 0:
        theirs.recv(1)
        os._exit(0)
    child, client = spawn.Child(pid, os.pidfd_open(pid), ours, moving=moving), Client()
    wanted: Any = client
    setups.begin(wanted, 1, child, Task(identifier, pid, child.pidfd, 0), [])
    return theirs, child, client


def zombie() -> int:
    pid = os.fork()
    if pid == 0:
        os._exit(7)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pid


def test_a_zombie_may_be_that_of_a_process_that_is_not_told_yet(keeper: Supervisor) -> None:
    """An exec's process can have ended before the keeper reads which it is: its exit code was lost, and with it the keeper."""
    theirs, child, _ = begin(keeper._setups, "x", moving=True)
    ended = zombie()
    keeper._reap_strays()
    assert os.waitid(os.P_PID, ended, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None
    child.moving = False
    keeper._reap_strays()
    with pytest.raises(ChildProcessError):
        os.waitpid(ended, os.WNOHANG)
    theirs.close()
    os.kill(child.pid, 9)
    os.waitpid(child.pid, 0)


def test_a_start_without_descriptors_to_be_had_leaves_none(keeper: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(Pipes, "make", fail)
    request: Any = {"spec": {"process": {}, "linux": {"namespaces": []}}}
    before = os.listdir("/proc/self/fd")
    root = {"root": os.open("/", os.O_PATH)}
    client: Any = Client()
    with pytest.raises(OSError, match="Too many"):
        keeper._start(client, 1, Start("x", request, "/nonexistent", False, LogOptions(), root))
    assert os.listdir("/proc/self/fd") == before


def test_one_that_can_not_be_followed_is_told_to_who_wants_it(
    keeper: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, child, client = begin(keeper._setups, "x", moving=True)

    def fail(*_: object) -> None:
        raise ProcessLookupError(3, "No such process")

    monkeypatch.setattr(spawn.Child, "hear", fail)
    theirs.send(b"anything")
    for _ in range(50):
        if client.sent:
            break
        keeper._loop.turn(0.1)
    assert client.sent[0]["seq"] == 1
    assert "No such process" in client.sent[0]["error"]
    assert "x" not in keeper._setups
    with pytest.raises(ChildProcessError):
        os.waitpid(child.pid, os.WNOHANG)
    theirs.close()
