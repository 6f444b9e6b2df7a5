"""docs/faults.md says which test tries what: each of them is there, and so are the faults of kinds E and F."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
DOCUMENT = (TESTS.parent / "docs/faults.md").read_text()
_NAMED = re.compile(r"(?<![\w./])(?:(?:tests/)?\w+/)*(test_\w+)(?:\.py)?(?![\w.…])")


def test_every_test_that_is_named_exists() -> None:
    there = set()
    for path in TESTS.rglob("test_*.py"):
        there |= {path.stem, *re.findall(r"def (test_\w+)\(", path.read_text())}
    quoted = re.findall(r"`([^`\n]+)`", DOCUMENT)
    named = {name for text in quoted for part in text.split("::") for name in _NAMED.findall(part)}
    assert len(named) > 100, "the search finds nothing any more"
    assert sorted(named - there) == []


def test_faults_of_kinds_e_and_f_are_there() -> None:
    """T50 to T55 and T60 to T66: what was checked is what is used, and who may."""
    wanted = {f"T{number}" for number in (*range(50, 56), *range(60, 67))}
    found = set(re.findall(r"\bT\d\d\b", DOCUMENT))
    for first, last in re.findall(r"\bT(\d\d)-T(\d\d)\b", DOCUMENT):
        found |= {f"T{number}" for number in range(int(first), int(last) + 1)}
    assert sorted(wanted - found) == []
