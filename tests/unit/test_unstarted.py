"""Execs that are never started: whose goes when there are too many."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest

from sampan.engine import execs as module
from sampan.engine.errors import NotFound
from sampan.engine.execs import Exec, Execs
from sampan.engine.unstarted import _BYTES, _MOST, Unstarted


def test_the_oldest_of_whoever_has_most_goes() -> None:
    waiting = Unstarted()
    assert waiting.add("mine", "quiet", 10) == []
    gone = [key for number in range(_MOST + 5) for key in waiting.add(f"x{number}", "busy", 10)]
    assert gone == [f"x{number}" for number in range(6)]
    assert len(waiting) == _MOST
    assert set(waiting.ended("busy")) == {f"x{number}" for number in range(6, _MOST + 5)}
    assert waiting.ended("quiet") == ["mine"]
    assert len(waiting) == 0


def test_size_counts() -> None:
    waiting = Unstarted()
    waiting.add("mine", "quiet", 100)
    assert waiting.add("a", "busy", _BYTES // 2) == []
    assert waiting.add("b", "busy", _BYTES // 2) == ["a"]
    waiting.take("b")
    assert waiting.add("c", "busy", _BYTES - 200) == []
    assert waiting.add("d", "busy", 2 * _BYTES) == ["c", "d"] or len(waiting) == 2


def test_started_ones_do_not_count() -> None:
    waiting = Unstarted()
    for number in range(3 * _MOST):
        assert waiting.add(f"x{number}", "busy", 1000) == []
        waiting.take(f"x{number}")
        waiting.take(f"x{number}")


def test_of_those_that_have_ended_the_last_can_be_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_ENDED", 3)
    execs, box = Execs(Mock(), Mock(), Mock(), Mock()), Mock()
    config: Any = Mock()
    sessions = [Exec(f"e{number}", box, config) for number in range(6)]
    for session in sessions:
        execs.add(session)
    for session in reversed(sessions[1:]):  # the first runs on
        execs._concluded(session, 0)
    assert [session for session in sessions if session in execs] == [sessions[0], *sessions[1:4]]
    with pytest.raises(NotFound):
        execs.find("e5")
