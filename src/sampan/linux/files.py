"""Small text files."""

from __future__ import annotations


def read_or_empty(path: str) -> str:
    """The text of a file, or "" when it can't be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
