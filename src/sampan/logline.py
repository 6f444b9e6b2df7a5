"""Log lines on standard error: `sampand: warn: text`. A message is one line, whoever's words are in it.

For all our processes: the daemon's `logging` writes them by api/daemonlog; the keeper and a guest, to which `logging` would be
memory and time of every container's, by write().
"""

from __future__ import annotations

import os
import sys

# The levels, as dockerd calls them, with the priorities of syslog(3).
PRIORITIES = {"debug": 7, "info": 6, "warn": 4, "error": 3, "fatal": 2}


def one_line(text: str) -> str:
    """A text that makes no further lines, and is no command to who reads it in a terminal."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


def to_journal(fd: int = 2) -> bool:
    """Whether a descriptor is the one that systemd has connected to its journal (systemd.exec(5), JOURNAL_STREAM)."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        found = os.fstat(fd)
    except OSError:
        return False
    return (device, inode) == (str(found.st_dev), str(found.st_ino))


def line(who: str, level: str, text: str, journal: bool) -> str:
    """A line without its end; for the journal with its priority (sd-daemon(3)), which does not show there. Information has no level."""
    priority = f"<{PRIORITIES[level]}>" if journal else ""
    return f"{priority}{who}: {'' if level == 'info' else f'{level}: '}{one_line(text)}"


def write(who: str, level: str, text: str) -> None:
    """Writes one to standard error, at once."""
    sys.stderr.write(line(who, level, text, to_journal()) + "\n")
    sys.stderr.flush()
