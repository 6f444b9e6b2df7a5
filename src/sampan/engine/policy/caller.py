"""Who something is done for: a value that is made once, of the other end of the socket, and handed on to everything that acts for them."""

from __future__ import annotations

import os
import pwd
import time
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple


class Owner(NamedTuple):
    """Whose a thing is: the user who made it, and the tenant that an admin said it was for."""

    user: str
    claim: str = ""


class Door(Enum):
    """The way that a request came."""

    SOCKET = "socket"
    PAGE = "page"


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who asks. `pid` is 0 unless they are at the other end of the socket. What the engine does of itself (a restart policy,
    a health check, a start of the daemon) has no caller: it is done for the container's owner, whose rules are asked again."""

    user: str
    uid: int
    door: Door
    pid: int = 0

    @property
    def owner(self) -> Owner:
        """The owner of what they make."""
        return Owner(self.user)


_KEPT = 1.0  # seconds that a name is good for, if it does not come from the file below
_names: dict[int, tuple[str, tuple[int, int, int], float]] = {}


def user_name(uid: int) -> str:
    """A user's name, or the number of one that has none. Every request asks, so the last answer is kept until the file of
    users changes, and for a second at most: names may come from elsewhere."""
    now, file = time.monotonic(), _users_file()
    name, seen, until = _names.get(uid, ("", file, 0.0))
    if seen == file and now < until:
        return name
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
    if len(_names) > 1000:
        _names.clear()
    _names[uid] = name, file, now + _KEPT
    return name


def _users_file() -> tuple[int, int, int]:
    try:
        found = os.stat("/etc/passwd")
    except OSError:
        return 0, 0, 0
    return found.st_ino, found.st_ctime_ns, found.st_size


def _uid(user: str) -> int:
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        return int(user) if user.isdecimal() and len(user) < 11 else -1


def at_socket(pid: int, uid: int) -> Caller:
    """Whoever is at the other end of the socket (SO_PEERCRED, unix(7))."""
    return Caller(user_name(uid), uid, Door.SOCKET, pid)


def at_page(user: str) -> Caller:
    """Whoever has a key of the page, which a user got over the socket."""
    return Caller(user, _uid(user), Door.PAGE)
