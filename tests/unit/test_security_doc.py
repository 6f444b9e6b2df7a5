"""docs/security.md says which test tries what: each of them is there, and what the table must have is."""

from __future__ import annotations

import re
from pathlib import Path

TOP = Path(__file__).parents[2]
DOCUMENT = (TOP / "docs/security.md").read_text()


def test_every_test_that_is_named_exists() -> None:
    named = set(re.findall(r"`([a-z0-9]+/test_[a-z0-9_]+)::(test_\w+)`", DOCUMENT))
    assert len(named) > 100
    texts = {path: (TOP / "tests" / f"{path}.py").read_text() for path, _ in named}
    assert [f"{path}::{name}" for path, name in sorted(named) if f"def {name}(" not in texts[path]] == []


def test_no_name_is_of_another_form() -> None:
    assert [
        found for found in re.findall(r"\S*::\S*", DOCUMENT) if not re.fullmatch(r"`\w+/test_\w+::test_\w+`,?", found)
    ] == []


def test_advisories_are_named_once_each() -> None:
    rows = [line for line in DOCUMENT.splitlines() if line.startswith("| CVE-")]
    names = [name for row in rows for name in re.findall(r"CVE-\d{4}-\d+", row.split("|")[1])]
    assert len(names) == len(set(names)) > 80
    assert all(len(row.split(" | ")) == 4 for row in rows)


def test_cases_are_named_once_each() -> None:
    """S001 to S050, those that there are."""
    rows = re.findall(r"^\| (S\d{3}) ", DOCUMENT, re.MULTILINE)
    missing = re.findall(r"S\d{3}", DOCUMENT.partition("are not in the collection")[0].rpartition("\n\n")[2])
    assert sorted(rows + missing) == [f"S{number:03}" for number in range(1, 51)]


def test_it_is_linked() -> None:
    assert "docs/security.md" in (TOP / "README.md").read_text()
