"""volume.json: what engines before have written is read, and what can't be one leaves the volume broken, with its data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sampan.volumes.local import LocalVolumes

BEFORE = '{"schema": 1, "created": 1700000000.5, "labels": {"a": "b"}, "options": {}, "anonymous": false}'
OLDEST = '{"created": 1700000000, "labels": {}, "options": {"x": "y"}, "anonymous": true}'


def written(root: Path, text: str) -> LocalVolumes:
    (root / "v/_data").mkdir(parents=True)
    (root / "v/volume.json").write_text(text)
    return LocalVolumes(str(root))


def test_of_engines_before(tmp_path: Path) -> None:
    found = written(tmp_path / "one", BEFORE).get("v")
    assert (found.broken, found.created, found.labels, found.anonymous) == ("", 1700000000.5, {"a": "b"}, False)
    found = written(tmp_path / "two", OLDEST).get("v")
    assert (found.broken, found.created, found.options, found.anonymous) == ("", 1700000000, {"x": "y"}, True)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    volumes = LocalVolumes(str(tmp_path))
    made = volumes.create("v", {"é": "ü"}, {})
    assert volumes.get("v") == made
    assert json.loads((tmp_path / "v/volume.json").read_text()).keys() == json.loads(BEFORE).keys()


@pytest.mark.parametrize(
    ("key", "value"),
    [("created", -1), ("created", 1e300), ("created", True), ("created", "now"), ("labels", []), ("labels", {"a": None}),
     ("options", {"a": 1}), ("options", None), ("anonymous", 0), ("schema", "1"), ("schema", 2), ("invented", 1)],
)  # fmt: skip
def test_one_that_is_none(tmp_path: Path, key: str, value: Any) -> None:
    found = written(tmp_path, json.dumps({**json.loads(BEFORE), key: value})).get("v")
    assert "its volume.json can't be read" in found.broken
    assert key in found.broken
    assert (found.labels, found.options, found.anonymous) == ({}, {}, False)


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", BEFORE[:40], "[" * 100_000, '{"created": NaN}'])
def test_no_description_at_all(tmp_path: Path, text: str) -> None:
    assert written(tmp_path, text).get("v").broken
