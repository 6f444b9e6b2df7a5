"""Where on the host a file is that was opened elsewhere: what a policy is asked about is a path of the host, not the name that
a client in its own mount namespace has for it (T52).
"""

from __future__ import annotations

import os
from dataclasses import dataclass

_MOST = 32 << 20  # bytes of a mountinfo: 100,000 mounts, which is the most there are


@dataclass(frozen=True, slots=True)
class _Mount:
    """A line of /proc/PID/mountinfo (proc(5))."""

    number: int
    device: int
    root: str
    place: str


def find(fd: int, pid: int = 0) -> str | None:
    """The path on the host of what `fd` refers to, a process `pid` having opened it; None when it is on no mount of the host.

    It is what is there now, compared with the file itself.
    """
    ours, number = _mounts("self"), _mount_number(fd)
    shown = os.readlink(f"/proc/self/fd/{fd}")
    if any(each.number == number for each in ours):
        return shown if _is(shown, fd) else None
    theirs = next((each for each in _mounts(str(pid)) if each.number == number), None) if pid else None
    if theirs is None:
        return None
    inside = _below(shown, theirs.place)
    if inside is None:
        return None
    whole = f"{theirs.root.rstrip('/')}{inside}"
    for each in ours:
        rest = _below(whole, each.root) if each.device == theirs.device else None
        if rest is not None and _is(path := f"{each.place.rstrip('/')}{rest}" or "/", fd):
            return path
    return None


def here(fd: int) -> bool:
    """Whether it is on a mount of this process's own namespace, so that it can be mounted elsewhere."""
    number = _mount_number(fd)
    return any(each.number == number for each in _mounts("self"))


def _below(path: str, top: str) -> str | None:
    """What is left of a path below `top`, with its slash; None when it is not below."""
    top = top.rstrip("/")
    if path == top or path.startswith(f"{top}/"):
        return path[len(top) :]
    return None


def _is(path: str, fd: int) -> bool:
    try:
        found = os.lstat(path)
    except (OSError, ValueError):
        return False
    own = os.fstat(fd)
    return (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino)


def _mount_number(fd: int) -> int:
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
        for line in file:
            if line.startswith("mnt_id:"):
                return int(line.split()[1])
    return -1


def _mounts(process: str) -> list[_Mount]:
    try:
        with open(f"/proc/{process}/mountinfo", "rb") as file:
            text = file.read(_MOST)
    except OSError:
        return []
    found = []
    for line in text.split(b"\n"):
        fields = line.split(b" ")
        if len(fields) > 5:
            major, _, minor = fields[2].partition(b":")
            device = os.makedev(int(major), int(minor))
            found.append(_Mount(int(fields[0]), device, _plain(fields[3]), _plain(fields[4])))
    return found


def _plain(field: bytes) -> str:
    """A field without its escapes (\\040 for a space)."""
    parts = field.split(b"\\")
    return os.fsdecode(parts[0] + b"".join(bytes([int(part[:3], 8)]) + part[3:] for part in parts[1:]))
