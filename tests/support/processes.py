"""Processes of the host as /proc shows them: who began them, what they may, how they were called."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_OURS = 0x60000000  # the first of the users that machines' processes are


def children_of(pid: int) -> list[int]:
    """Whom the main thread of a process has begun."""
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def status_of(pid: int) -> dict[str, str]:
    """The rows of its /proc/PID/status."""
    rows = (line.partition(":") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {key: value.strip() for key, _, value in rows}


def named(name: str, within: int) -> list[int]:
    """Processes of a name that are children of a process."""
    return [pid for pid in children_of(within) if status_of(pid)["Name"] == name]


def check_harmless(pid: int, capabilities: int = 0) -> int:
    """That a process of a machine may do nothing; returns its user, which is nobody else's."""
    found = status_of(pid)
    uids = {int(text) for text in (found["Uid"] + " " + found["Gid"]).split()}
    assert len(uids) == 1
    assert min(uids) >= _OURS
    assert found["Groups"] == ""
    for key in ("CapInh", "CapPrm", "CapEff", "CapAmb", "CapBnd"):
        assert int(found[key], 16) & ~capabilities == 0, key
    assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")
    return uids.pop()


def command_lines() -> Iterator[bytes]:
    """Of all processes, each word ended by a zero."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield path.read_bytes()
        except OSError:
            continue
