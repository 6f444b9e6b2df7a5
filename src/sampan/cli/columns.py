"""Columns of text as Go's tabwriter sets them, and how wide a terminal shows a text."""

from __future__ import annotations

_LEAST, _BETWEEN = 10, 3  # cells, as in Docker's tables


def width(text: str) -> int:
    """The cells that a terminal takes for a text: wide characters two, combining ones none."""
    if text.isascii():
        return len(text)
    import unicodedata  # 3 ms: only for texts that need it

    cells = 0
    for character in text:
        if unicodedata.combining(character) or unicodedata.category(character) in ("Cf", "Me"):
            continue
        cells += 2 if unicodedata.east_asian_width(character) in "WF" else 1
    return cells


def aligned(text: str) -> str:
    """The lines of a text with the cells before each tab padded: as wide as the widest of the lines around that have one, too."""
    lines = [line.split("\t") for line in text.split("\n")]
    for column in range(max(map(len, lines)) - 1):
        start = 0
        while start < len(lines):
            end = start
            while end < len(lines) and len(lines[end]) > column + 1:
                end += 1
            block = [line[column] for line in lines[start:end]]
            wide = max([_LEAST, *(width(cell) + _BETWEEN for cell in block)])
            for line in lines[start:end]:
                line[column] += " " * (wide - width(line[column]))
            start = max(end, start + 1)
    return "\n".join("".join(line) for line in lines)
