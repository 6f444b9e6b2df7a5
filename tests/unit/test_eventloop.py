"""The event loop of the keeper, of machines' processes and of guests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.linux.eventloop import READ, WRITE, Loop


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


def test_a_handler_is_called_for_the_events_that_it_waits_for(pipe: tuple[int, int]) -> None:
    loop, called = Loop(), []
    loop.watch(pipe[0], called.append)
    assert not loop.turn(0)
    os.write(pipe[1], b"x")
    assert loop.turn()
    assert called == [READ]
    loop.watch(pipe[1], called.append, WRITE)
    loop.forget(pipe[0])
    loop.forget(pipe[0])
    assert loop.turn()
    assert called == [READ, WRITE]
    loop.change(pipe[1], READ)
    assert not loop.turn(0)
    assert loop.watches(pipe[1])
    loop.close()


def test_a_handler_that_fails_ends_the_turn(pipe: tuple[int, int]) -> None:
    loop = Loop()
    loop.watch(pipe[1], lambda _: 1 // 0, WRITE)
    with pytest.raises(ZeroDivisionError):
        loop.turn(0)
    loop.close()


def test_a_tolerant_loop_sets_a_failing_handler_aside_and_serves_the_others(
    pipe: tuple[int, int], capsys: pytest.CaptureFixture[str]
) -> None:
    loop, failures, others = Loop(tolerant=True), [], []
    second = os.pipe()

    def fail(_: int) -> None:
        failures.append(len(others))
        raise ValueError("broken")

    loop.watch(pipe[1], fail, WRITE)
    loop.watch(second[1], others.append, WRITE)
    while len(failures) < 2:
        loop.turn()
    assert others, "the other one is served meanwhile"
    assert failures[1] > failures[0]
    assert "ValueError: broken" in capsys.readouterr().err
    loop.forget(pipe[1])
    loop.close()
    for fd in second:
        os.close(fd)


def test_a_copy_made_by_fork_has_an_epoll_of_its_own(pipe: tuple[int, int]) -> None:
    loop, called = Loop(), []
    before = loop.fileno()
    held = os.dup(before)
    loop.watch(pipe[1], called.append, WRITE)
    loop.renew()
    assert loop.turn(0)
    assert called == [WRITE]
    loop.close()
    os.close(held)


def test_what_can_not_be_waited_for_is_not_watched(tmp_path: Path) -> None:
    loop = Loop()
    with open(tmp_path / "file", "w") as file:
        for _ in range(2):
            with pytest.raises(PermissionError):
                loop.watch(file.fileno(), lambda _: None)
        assert not loop.watches(file.fileno())
        loop.forget(file.fileno())
    loop.close()
