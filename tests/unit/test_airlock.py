"""Calls without a memory of Python's: laid out by one process, finished and made by its copy."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sampan.linux import airlock

_SCRIPT = """
import os
from sampan.linux import airlock
from sampan.linux.syscall import NR

path, row = airlock.Buffer(b"/bin/none" + bytes(1)), [b"echo" + bytes(1), b"early" + bytes(1), 0]
nowhere = dict.fromkeys(("failed", "zero", "positive"), airlock.NOWHERE)
calls = [
    airlock.Call("execve", NR["execve"], [path, row, [0]]),
    airlock.Call("exit_group", NR["exit_group"], [8], label=airlock.FAILED, **nowhere),
]
airlock.foresee()
pages = airlock.lay_out(calls, airlock.Buffer(bytes(8 * (len(calls) + 1))))
for late, expected in ((b"", 8), (b"late", 0), (b"x" * 100_000, 0)):
    pid = os.fork()
    if pid == 0:
        if late:
            pages.fill(path, b"/bin/echo" + bytes(1))
            pages.point(row, 1, late + bytes(1))
        pages.enter()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == expected
"""


def test_what_is_known_late_is_put_in_place() -> None:
    done = subprocess.run([sys.executable, "-c", _SCRIPT], stdout=subprocess.PIPE, check=True, timeout=60)
    assert done.stdout.split() == [b"late", b"x" * 100_000]


@pytest.mark.skipif(not airlock.possible(), reason="no instructions for this machine")
def test_more_than_execve_takes_is_refused() -> None:
    row: list[int | bytes] = [b"", 0]
    call = airlock.Call("execve", 59, [row], label=airlock.FAILED)
    pages = airlock.lay_out([call], airlock.Buffer(bytes(16)))
    pages.point(row, 0, bytes(128 << 10))
    with pytest.raises(OSError, match="Argument list too long"):
        pages.point(row, 0, bytes(128 << 10))
    with pytest.raises(OSError, match="Argument list too long"):
        airlock.lay_out(
            [airlock.Call("execve", 59, [bytes(17 << 20)], label=airlock.FAILED)], airlock.Buffer(bytes(16))
        )
