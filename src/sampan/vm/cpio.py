"""Archives in cpio's newc format, as the kernel unpacks them (initramfs-buffer-format.rst)."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Member:
    """A file of an archive. `mode` has the type; a symlink's target is its data."""

    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def directory(name: str) -> Member:
    """A directory."""
    return Member(name, stat.S_IFDIR | 0o755)


def file(name: str, data: bytes, executable: bool = False) -> Member:
    """A regular file."""
    return Member(name, stat.S_IFREG | (0o755 if executable else 0o644), data)


def link(name: str, target: str) -> Member:
    """A symlink."""
    return Member(name, stat.S_IFLNK | 0o777, target.encode())


def archive(members: Iterable[Member]) -> bytes:
    """The whole archive; directories that members need are added before them. Equal members give equal bytes."""
    parts: list[bytes] = []
    made: set[str] = set()
    for member in members:
        for parent in _parents(member.name):
            if parent not in made:
                made.add(parent)
                parts.append(_entry(len(made), directory(parent)))
        if member.name not in made:
            made.add(member.name)
            parts.append(_entry(len(made), member))
    parts.append(_entry(0, Member("TRAILER!!!", 0)))
    return b"".join(parts)


def _parents(name: str) -> list[str]:
    parts = name.split("/")[:-1]
    return ["/".join(parts[: count + 1]) for count in range(len(parts))]


def _entry(inode: int, member: Member) -> bytes:
    name = member.name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(member.mode) else 1
    fields = (inode, member.mode, 0, 0, links, 0, len(member.data), 0, 0, *member.device, len(name), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name
    head += bytes(-len(head) % 4)
    return head + member.data + bytes(-len(member.data) % 4)
