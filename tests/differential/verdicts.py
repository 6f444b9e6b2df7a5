"""What docs/differences.md says of differences: its tables are what the test reads.

A row is `| verdict | lines | what | why |`: a difference whose line and `kind where` both match (with `*`) has that verdict.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from tests.differential.differ import Difference

PAGE = Path(__file__).parents[2] / "docs/differences.md"
ORDER = ("wrong", "better", "harmless", "same")


@dataclass
class Row:
    verdict: str
    lines: str
    what: str
    why: str
    used: int = 0


def rows() -> list[Row]:
    found = []
    for line in PAGE.read_text().splitlines():
        cells = [
            cell.strip().strip("`").replace("\\|", "|")
            for cell in line.replace("\\|", "\0").strip().strip("|").split("|")
        ]
        if len(cells) == 4 and cells[0] in ("harmless", "better"):
            found.append(Row(*(cell.replace("\0", "|") for cell in cells)))
    return found


def verdict(line: str, differences: list[Difference], known: list[Row]) -> tuple[str, list[Difference]]:
    """The verdict on an answer, and the differences that nobody has explained."""
    left, kinds = [], set()
    for difference in differences:
        what = f"{difference.kind} {difference.where}".strip()
        row = next((row for row in known if matches(line, row.lines) and matches(what, row.what)), None)
        if row is None:
            left.append(difference)
        else:
            row.used += 1
            kinds.add(row.verdict)
    if left:
        return "wrong", left
    return min(kinds | {"same"}, key=ORDER.index), []


def matches(value: str, pattern: str) -> bool:
    return fnmatchcase(value, pattern.replace("[", "[[]"))
