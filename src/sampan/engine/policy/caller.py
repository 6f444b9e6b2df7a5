"""Who the request at hand comes from; it goes along with every task that the request begins."""

from __future__ import annotations

import os
import pwd
from contextvars import ContextVar

_CALLER: ContextVar[str | None] = ContextVar("caller", default=None)


def user_name(uid: int) -> str:
    """A user's name, or the number of one that has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def enter(user: str) -> None:
    """Notes for this task, and those it begins, whom they are for."""
    _CALLER.set(user)


def caller() -> str:
    """The user whom this is done for; the engine's own when nobody asked."""
    return _CALLER.get() or user_name(os.geteuid())
