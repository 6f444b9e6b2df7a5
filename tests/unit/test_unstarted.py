"""Execs that are never started: whose goes when there are too many."""

from __future__ import annotations

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
