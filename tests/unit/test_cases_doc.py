"""The numbers of cases that code and tests name are explained in docs/cases.md."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_NUMBER = re.compile(r"(?<![A-Za-z0-9])[PST]\d{3}(?!\d)|(?<=test_)[pst]\d{3}(?!\d)")


def _cited() -> Iterator[tuple[str, str]]:
    """(number, file) of each that is named."""
    for top in ("src", "tests", "bench"):
        for path in sorted((_ROOT / top).rglob("*.py")):
            for number in _NUMBER.findall(path.read_text()):
                yield number.upper(), str(path.relative_to(_ROOT))


def test_every_case_that_is_named_is_explained() -> None:
    explained = set(re.findall(r"(?:^- |\. )([PST]\d{3}) (?=\S)", (_ROOT / "docs/cases.md").read_text(), re.MULTILINE))
    cited = list(_cited())
    assert len({number for number, _ in cited}) > 100, "the search finds nothing any more"
    assert {(number, path) for number, path in cited if number not in explained} == set()


def test_none_is_explained_that_nothing_names() -> None:
    explained = set(re.findall(r"\b[PT]\d{3}\b", (_ROOT / "docs/cases.md").read_text()))
    assert explained - {number for number, _ in _cited()} == set()
