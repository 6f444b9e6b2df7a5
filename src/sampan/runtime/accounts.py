"""Users and groups of an image, read from its own files and never through the host's NSS.

What reads as a number is one, and never looked up as a name: a line of the image's /etc/passwd that is *called* 4294967296
or -1 would else give whoever asks for that number the ids of its choice (T55).
"""

from __future__ import annotations

import os
import stat

from sampan.linux import openat2
from sampan.record import record
from sampan.runtime.errors import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

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

    A number needs no entry. Raises RuntimeFailure for an unknown name, a number beyond 2³¹-1, which would wrap around
    to another user, and what is neither a plain number nor a name.
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
        supplementary = [number for _, number, members in groups_of(groups, login) if login in members]
    for wanted in extra_groups:
        supplementary.append(_group_id(groups, wanted))
    ordered = tuple(dict.fromkeys(item for item in (gid, *supplementary)))
    return Account(uid, gid, ordered, home or "/")


def of_numbers(rootfd: int, uid: int, gid: int, groups: list[int]) -> Account:
    """An account by its ids. Raises RuntimeFailure for one that is no id, like -1, which keeps what one is: root."""
    for number in (uid, gid, *groups):
        if type(number) is not int or not 0 <= number < 2**32 - 1:
            raise RuntimeFailure(f"user: {number!r} is no id")
    entry = _find_user(_read(rootfd, "/etc/passwd"), str(uid)) if uid <= _MAX_ID else None
    return Account(uid, gid, tuple(dict.fromkeys((gid, *groups))), (entry[3] if entry else "") or "/")


def is_number(text: str) -> bool:
    """Whether a user or group is given by its number. Raises RuntimeFailure for what some read as a number and others as a name."""
    digits = text.removeprefix("-")
    if digits.isascii() and digits.isdecimal():
        return True
    # +1, 0x1, 1_0, digits of other scripts, blanks around them
    if not _parses(text, 10) and not _parses(text, 0) and text.strip("\0 \t\r") == text:
        return False
    raise RuntimeFailure(f"invalid user or group {text!r}: neither a name nor a number from 0 to {_MAX_ID}")


def _parses(text: str, base: int) -> bool:
    try:
        int(text, base)
        return True
    except ValueError:
        return False


def _find_user(passwd: str, name: str) -> tuple[str, int, int, str] | None:
    """The first entry of that name or, for a number, that uid. Raises RuntimeFailure for one with impossible ids."""
    number = _number(name, "user") if is_number(name) else None
    for fields in _rows(passwd, 6):
        uid, gid = _id(fields[2]), _id(fields[3])
        if fields[0] != name if number is None else uid != number:
            continue
        if uid is None or gid is None:
            raise RuntimeFailure(f"user {name}: the ids in the image's passwd file are not from 0 to {_MAX_ID}")
        return fields[0], uid, gid, fields[5]
    return None


def groups_of(text: str, having: str = "") -> Iterator[tuple[str, int, list[str]]]:
    """(name, gid, members) rows of an /etc/group file, of lines with `having`; those that are not of that form are skipped."""
    for fields in _rows(text, 4, having):
        gid = _id(fields[2])
        if gid is not None:
            yield fields[0], gid, fields[3].split(",")


def _rows(text: str, fields: int, having: str = "") -> Iterator[list[str]]:
    for line in text.split("\n"):
        if having not in line:
            continue
        row = line.strip().split(":")
        if len(row) >= fields and row[0][:1] != "#":
            yield row


def _group_id(text: str, group: str) -> int:
    if not is_number(group):
        for name, number, _ in groups_of(text):
            if name == group:
                return number
    return _number(group, "group")


def _number(text: str, kind: str) -> int:
    if not is_number(text):
        raise RuntimeFailure(f"unable to find {kind} {text}: no matching entries in the image's {kind} file")
    if len(text) > 12 or not 0 <= int(text) <= _MAX_ID:
        raise RuntimeFailure(f"{kind} id {text[:40]} is out of range: ids go from 0 to {_MAX_ID}")
    return int(text)


def _id(text: str) -> int | None:
    """An id as the files have it; None for anything else, which no reader may take for 0."""
    if not text.isascii() or not text.isdecimal() or len(text) > 12 or int(text) > _MAX_ID:
        return None
    return int(text)


def _read(rootfd: int, path: str) -> str:
    """A file of the image, "" when there is none. What is no regular file is not opened, and a part of one not believed."""
    try:
        seen = openat2.open_in_root(rootfd, path)
    except OSError:
        return ""
    fd = -1
    try:
        info = os.fstat(seen)
        if not stat.S_ISREG(info.st_mode):
            return ""
        fd = openat2.open_in_root(rootfd, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        if not os.path.samestat(os.fstat(fd), info):
            raise RuntimeFailure(f"the image's {path} was exchanged while it was read")
        data, room = b"", min(info.st_size, _MAX_FILE) + 1  # no more: a buffer of megabytes costs each exec page faults
        while len(data) <= _MAX_FILE and (block := os.read(fd, room)):
            data += block
    except OSError:
        return ""
    finally:
        os.close(seen)
        if fd >= 0:
            os.close(fd)
    if len(data) > _MAX_FILE:
        raise RuntimeFailure(f"the image's {path} is larger than {_MAX_FILE >> 20} MiB: its users are not looked up")
    return data.decode(errors="surrogateescape")
