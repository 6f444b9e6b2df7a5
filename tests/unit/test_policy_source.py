"""The policy's file as requests see it."""

from __future__ import annotations

import os
from pathlib import Path

from sampan.engine.policy import source
from sampan.engine.policy.source import Source

_DEFAULTS = ("vm", "container")


def test_a_request_goes_by_the_file_as_it_is_when_it_begins(tmp_path: Path) -> None:
    """However many of them come at once, and though what one asks within its moment is not looked at again."""
    path = tmp_path / "policy.toml"
    found = Source(str(path))
    found.look()
    assert not found.active
    for number in range(50):
        path.with_suffix(".new").write_text(f'default = "{_DEFAULTS[number % 2]}"\n')
        os.replace(path.with_suffix(".new"), path)
        found.look()
        assert found.policy().default == _DEFAULTS[number % 2]


def test_what_no_request_asks_sees_the_file_a_moment_later(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    found = Source(str(path))
    assert source._FRESH <= 0.01
    path.write_text('default = "vm"\n')
    assert found.active  # nobody has looked: each question does
    path.unlink()
    path.write_text("wrong")
    assert found.active
    assert found.error
