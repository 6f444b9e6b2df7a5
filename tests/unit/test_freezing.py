"""A container that ends while it is being stopped where it is: its control group goes away under whoever freezes it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from sampan.engine.container import Container
from sampan.engine.errors import Conflict, EngineError
from sampan.engine.freezing import Freezing
from sampan.engine.model import Config, HostConfig, Status


class Kernel:
    """Stands for the backend: at the call of that number the container ends, with an error or without."""

    def __init__(self, ends_at: int, fails: bool, told: bool = True) -> None:
        self.container = Container("ab" * 32, "box", 1, "sha256:0", "busybox", Config(), HostConfig(), start_time=99)
        self.container.state.status = Status.RUNNING
        self.ends_at, self.fails, self.told, self.calls = ends_at, fails, told, 0
        self.actions: list[str] = []
        events: Any = SimpleNamespace(announce=lambda _container, action: self.actions.append(action))
        containers: Any = SimpleNamespace(owe=lambda _container: None)
        backends: Any = SimpleNamespace(of=lambda _container: self)
        self.freezing = Freezing(containers, events, SimpleNamespace(), backends)  # type: ignore[arg-type]

    def may_have_ended(self, _container: Container) -> bool:
        return False

    async def freeze(self, _container: Container, _frozen: bool) -> None:
        await asyncio.sleep(0)
        if self.calls >= self.ends_at:
            if self.told:
                self.container.state.status = Status.EXITED
            if self.fails:
                raise FileNotFoundError(2, "No such file or directory", "freezer.state")
        self.calls += 1


@pytest.mark.parametrize("fails", [True, False])
def test_a_container_that_ends_while_it_is_paused_is_not_paused(fails: bool) -> None:
    kernel = Kernel(0, fails)
    with pytest.raises(Conflict, match="is not running"):
        asyncio.run(kernel.freezing.pause(kernel.container))
    assert kernel.container.state.status is Status.EXITED
    assert not kernel.container.state.paused
    assert not kernel.actions


@pytest.mark.parametrize("fails", [True, False])
@pytest.mark.parametrize("ends_at", [0, 1])
def test_a_commit_goes_on_when_its_container_ends(ends_at: int, fails: bool) -> None:
    async def commit() -> str:
        async with kernel.freezing.still(kernel.container):
            return "done"

    kernel = Kernel(ends_at, fails)
    assert asyncio.run(commit()) == "done"
    assert kernel.container.state.status is Status.EXITED
    assert kernel.actions == ["pause"] * ends_at


def test_one_that_lives_and_cannot_be_paused_is_an_error() -> None:
    kernel = Kernel(0, True, told=False)
    with pytest.raises(EngineError, match="cannot pause"):
        asyncio.run(kernel.freezing.pause(kernel.container))
    assert kernel.container.state.status is Status.RUNNING
