"""Users and groups of an image, read from its own files and never through the host's NSS."""

from __future__ import annotations

import os

from sampan.linux import openat2
from sampan.record import record
from sampan.runtime.errors import RuntimeFailure

_MAX_ID = 2**31 - 1
_MAX_FILE = 4 << 20


@record
class Account:
    """Numeric ids to run as, and the home directory ("/" when the user has no entry)."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


def resolve(rootfd: int, user: str, extra_groups: tuple[str, ...] = ()) -> Account:
    """Resolves Docker's USER forms: "", "u", "u:g", names or numbers.

    A number needs no entry. Raises RuntimeFailure for an unknown name or a number beyond 2³¹-1, which
    would wrap around to another user.
    """
    name, _, group = user.partition(":")
    passwd = _read(rootfd, "/etc/passwd")
    groups = _read(rootfd, "/etc/group")
    entry = _find_user(passwd, name or "0")
    if entry is None:
        uid, primary, home, login = _number(name or "0", "user"), 0, "/", None
    else:
        login, uid, primary, home = entry
    gid = primary if not group else _group_id(groups, group)
    supplementary: list[int] = []
    if not group and login is not None:
        supplementary = [number for _, number, members in groups_of(groups) if login in members]
    for wanted in extra_groups:
        supplementary.append(_group_id(groups, wanted))
    ordered = tuple(dict.fromkeys(item for item in (gid, *supplementary)))
    return Account(uid, gid, ordered, home or "/")


def _find_user(passwd: str, name: str) -> tuple[str, int, int, str] | None:
    for line in passwd.splitlines():
        fields = line.split(":")
        if len(fields) < 6 or not fields[2].isdecimal() or not fields[3].isdecimal():
            continue
        if fields[0] == name or (name.isdecimal() and int(fields[2]) == int(name)):
            return fields[0], _number(fields[2], "user"), _number(fields[3], "group"), fields[5]
    return None


def groups_of(text: str) -> list[tuple[str, int, list[str]]]:
    """(name, gid, members) rows of an /etc/group file; lines that are not of that form are skipped."""
    rows = []
    for line in text.splitlines():
        fields = line.split(":")
        if len(fields) >= 4 and fields[2].isdecimal() and int(fields[2]) <= _MAX_ID:
            rows.append((fields[0], int(fields[2]), fields[3].split(",")))
    return rows


def _group_id(text: str, group: str) -> int:
    for name, number, _ in groups_of(text):
        if name == group:
            return number
    return _number(group, "group")


def _number(text: str, kind: str) -> int:
    if not text.isdecimal() or not text.isascii():
        raise RuntimeFailure(f"unable to find {kind} {text}: no matching entries in the image's {kind} file")
    if len(text) > 10 or int(text) > _MAX_ID:
        raise RuntimeFailure(f"{kind} id {text} is out of range: ids go from 0 to {_MAX_ID}")
    return int(text)


def _read(rootfd: int, path: str) -> str:
    try:
        fd = openat2.open_in_root(rootfd, path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return ""
    try:
        return os.read(fd, _MAX_FILE).decode(errors="surrogateescape")
    except OSError:
        return ""
    finally:
        os.close(fd)
