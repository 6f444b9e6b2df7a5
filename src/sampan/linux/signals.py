"""Signals by name or number."""

from __future__ import annotations

import signal


def number(text: str) -> int:
    """ "TERM", "SIGTERM", "9", "RTMIN+3", "RTMAX-1" as a number (signal(7)). Raises ValueError."""
    name = text.upper().removeprefix("SIG")
    if name.isdecimal() and 0 < int(name) < signal.NSIG:
        return int(name)
    base, plus, offset = name.partition("+")
    if base == "RTMIN" and (not plus or offset.isdecimal()):
        return int(signal.SIGRTMIN) + int(offset or 0)
    base, minus, offset = name.partition("-")
    if base == "RTMAX" and (not minus or offset.isdecimal()):
        return int(signal.SIGRTMAX) - int(offset or 0)
    try:
        return int(signal.Signals[f"SIG{name}"])
    except KeyError:
        raise ValueError(f"Invalid signal: {text}") from None
