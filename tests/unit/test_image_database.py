"""What the store's database finds is kept until its next change, and no longer."""

from __future__ import annotations

from pathlib import Path

import pytest

from sampan.images.database import Database
from sampan.images.errors import ImageError

TAGS = {"tags": "name TEXT PRIMARY KEY, id TEXT NOT NULL"}
QUESTION = "SELECT id FROM tags WHERE name = ?"


def test_answers_are_as_of_the_last_change(tmp_path: Path) -> None:
    database = Database(f"{tmp_path}/db", TAGS, str(tmp_path))
    assert database.rows(QUESTION, "a") == []
    for value in ("1", "2"):
        database.change(("INSERT OR REPLACE INTO tags VALUES (?, ?)", ("a", value)))
        assert database.rows(QUESTION, "a") == [(value,)]
    database.rows(QUESTION, "a").clear()
    assert database.rows(QUESTION, "a") == [("2",)]
    database.change(("DELETE FROM tags WHERE name = ?", ("a",)))
    assert database.rows(QUESTION, "a") == []
    database.close()


def test_a_change_while_something_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read before a change that ended meanwhile is not what is found after it."""
    database = Database(f"{tmp_path}/db", TAGS, str(tmp_path))
    read = database._read

    def slowly(sql: str, values: tuple[str, ...]) -> list[tuple[str, ...]]:
        found = read(sql, values)
        monkeypatch.undo()
        database.change(("INSERT INTO tags VALUES (?, ?)", ("a", "1")))
        return found

    monkeypatch.setattr(database, "_read", slowly)
    assert database.rows(QUESTION, "a") == []
    assert database.rows(QUESTION, "a") == [("1",)]
    database.close()


def test_a_change_that_fails_leaves_what_was(tmp_path: Path) -> None:
    database = Database(f"{tmp_path}/db", TAGS, str(tmp_path))
    database.change(("INSERT INTO tags VALUES (?, ?)", ("a", "1")))
    database.read_only = True
    with pytest.raises(ImageError):
        database.change(("INSERT OR REPLACE INTO tags VALUES (?, ?)", ("a", "2")))
    assert database.rows(QUESTION, "a") == [("1",)]
    database.close()
