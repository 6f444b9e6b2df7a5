"""Signals by name or number."""

from __future__ import annotations

import os
import signal


def number(text: str) -> int:
    """ "TERM", "SIGTERM", "9", "RTMIN+3", "RTMAX-1" as a number (signal(7)). Raises ValueError."""
    name = text.upper().removeprefix("SIG")
    if name.isdecimal() and 0 < int(name) < signal.NSIG:
        return int(name)
    most = int(signal.SIGRTMAX) - int(signal.SIGRTMIN)
    base, plus, offset = name.partition("+")
    if base == "RTMIN" and (not plus or (offset.isdecimal() and int(offset) <= most)):
        return int(signal.SIGRTMIN) + int(offset or 0)
    base, minus, offset = name.partition("-")
    if base == "RTMAX" and (not minus or (offset.isdecimal() and int(offset) <= most)):
        return int(signal.SIGRTMAX) - int(offset or 0)
    try:
        return int(signal.Signals[f"SIG{name}"])
    except KeyError:
        raise ValueError(f"Invalid signal: {text}") from None


def to_pipe() -> int:
    """Takes every signal that can be taken, but for SIGCHLD and SIGPIPE; the numbers come out of the returned pipe."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number_ in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGPIPE}:
        try:
            signal.signal(number_, lambda *_: None)
        except (OSError, ValueError):
            continue  # the C library keeps some for itself
    return reader
