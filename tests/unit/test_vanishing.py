"""Containers that end or are removed under an operation: what is raised says so, whatever it stumbled over."""

from __future__ import annotations

import errno
import os
import subprocess

import pytest

from sampan.engine import vanishing
from sampan.engine.container import Container
from sampan.engine.errors import BadRequest, Conflict, EngineError, NotFound
from sampan.engine.model import Config, HostConfig, State, Status
from sampan.linux import pidfd
from sampan.runtime.errors import RuntimeFailure

STUMBLES = [OSError(errno.ENOMEM, "clone3"), FileNotFoundError(errno.ENOENT, "gone"), BrokenPipeError(errno.EPIPE, "pipe"),
            RuntimeFailure("the request lacks 'user'"), EngineError("cannot pause")]  # fmt: skip


def running(pid: int) -> Container:
    state = State(status=Status.RUNNING, pid=pid)
    return Container(
        "ab" * 32, "box", 0, "", "", Config(), HostConfig(), state=state, start_time=pidfd.start_time(pid) or 7
    )


def test_a_process_that_has_ended_is_ending() -> None:
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        started = pidfd.start_time(process.pid) or 0
        assert pidfd.ending(process.pid, started)  # a zombie
    assert pidfd.ending(process.pid, started)
    own = pidfd.start_time(os.getpid()) or 0
    assert not pidfd.ending(os.getpid(), own)
    assert pidfd.ending(os.getpid(), own - 1)  # another had the number


@pytest.mark.parametrize("error", STUMBLES, ids=repr)
def test_what_fails_because_the_container_ended_says_so(error: Exception) -> None:
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(Conflict, match="is not running"), vanishing.named(running(process.pid)):
            raise error


@pytest.mark.parametrize("error", STUMBLES, ids=repr)
def test_what_fails_because_the_container_was_removed_says_so(error: Exception) -> None:
    container = running(os.getpid())
    container.removed = True
    with pytest.raises(NotFound, match="No such container"), vanishing.named(container):
        raise error


@pytest.mark.parametrize("error", STUMBLES, ids=repr)
def test_what_fails_in_a_container_that_runs_stays_what_it_is(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, vanishing.named(running(os.getpid())):
        raise error
    assert caught.value is error


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "full"), OSError(errno.EROFS, "read-only"), BadRequest("no")], ids=repr
)
def test_full_disks_and_refusals_are_named_as_such(error: Exception) -> None:
    container = running(os.getpid())
    container.removed = True
    with pytest.raises(type(error)) as caught, vanishing.named(container):
        raise error
    assert caught.value is error


def test_what_is_done_to_a_process_that_ends_is_not_needed() -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
        with vanishing.unless_ended(running(process.pid)):
            raise FileNotFoundError(errno.ENOENT, "/proc/1/ns/net")
    with pytest.raises(OSError, match="busy"), vanishing.unless_ended(running(os.getpid())):
        raise OSError(errno.EBUSY, "busy")
