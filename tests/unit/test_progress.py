"""Whether a process does anything."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from sampan.vm import progress


@pytest.fixture
def process(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[bytes]]:
    made = subprocess.Popen(request.param)
    yield made
    made.kill()
    made.wait()


@pytest.mark.parametrize("process", [["sleep", "60"]], indirect=True)
def test_one_that_stands_still(process: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    watched = progress.Progress(process.pid)
    assert not watched.stands_still()  # it has not been looked at for long enough
    monkeypatch.setattr(progress, "STANDSTILL", 0.0)
    assert watched.stands_still()
    process.kill()
    process.wait()
    assert not watched.stands_still()  # others tell of its end
    watched.close()


@pytest.mark.parametrize("process", [["sh", "-c", "while :; do :; done"]], indirect=True)
def test_one_that_is_busy_and_one_that_is_stopped(
    process: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "STANDSTILL", 0.0)
    watched = progress.Progress(process.pid)
    used = watched._used
    deadline = time.monotonic() + 20
    while watched._read() - used < 0.2:  # however busy the machine is
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not watched.stands_still()
    os.kill(process.pid, signal.SIGSTOP)
    watched.stands_still()
    assert watched.stands_still()
    watched.close()
