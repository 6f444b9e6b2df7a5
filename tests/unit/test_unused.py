"""The lint of scripts/lint/unused: names that nothing uses."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tests.unit.lints import load

lint = load("unused")


def test_the_project_has_none() -> None:
    assert lint.complaints(lint.SOURCE, lint.elsewhere(), tomllib.loads(lint.ALLOWED.read_text())) == []


@pytest.mark.parametrize(
    "text", ["def lost(): ...", "async def lost(): ...", "class lost: ...", "lost = 1", "lost: int = 1", "a, lost = a = 1, 2",
             "class A:\n    def lost(self): ...\nA"],
)  # fmt: skip
def test_a_name_that_stands_once_is_found(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.py").write_text(text)
    assert [complaint.partition(": ")[2] for complaint in lint.complaints(tmp_path, [], {})] == ["lost is used nowhere"]
    assert lint.complaints(tmp_path, [], {"a.py:lost": "of others"}) == []
    (tmp_path / "b.py").write_text("from a import lost")
    assert lint.complaints(tmp_path, [], {}) == []
    assert lint.complaints(tmp_path, [], {"a.py:lost": "no more"}) == ["unused.toml: a.py:lost need not be allowed"]
