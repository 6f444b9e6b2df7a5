"""Processes of the keeper's: whoever waits for one's end gets it, whenever it is told, and it is told until it is recorded."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from sampan.engine import keeper_link
from sampan.engine.broadcast import Broadcast
from sampan.engine.keeper_link import KeeperLink
from sampan.engine.process import Exit, Process
from sampan.keeper import protocol
from sampan.keeper.protocol import End, Handover, Start, Started, Tasks

ID = "a" * 64


def _task(start_time: int) -> Handover:
    return Handover(ID, 2, start_time, "/nowhere", False, protocol.LogOptions(), [], False)


class Keeper:
    """A keeper in this process. `early`: ends that it tells before it answers a start."""

    def __init__(self) -> None:
        self.ended: list[End] = []
        self.early: list[End] = []
        self.acknowledged: list[str] = []
        self.tell: Callable[[End], None] = lambda _: None

    def connected(self, on_exit: Callable[[End], None], _on_lost: Callable[[], None]) -> Any:
        self.tell = on_exit
        return self

    def connect(self, _path: str) -> None: ...

    async def agree(self) -> None: ...

    def close(self) -> None: ...

    async def call(self, request: Any, _longest: float = 0) -> Any:
        await asyncio.sleep(0)
        if isinstance(request, Start):
            for end in self.early:
                self.tell(end)
            return Started(_task(7), {"process": os.open("/dev/null", os.O_RDONLY)}, [])
        if isinstance(request, protocol.List):
            return Tasks([], [], self.ended)
        if isinstance(request, protocol.Acknowledge):
            self.acknowledged += request.keys
        return protocol.Done()


def _with(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch, work: Callable[[KeeperLink], Coroutine[Any, Any, Any]]
) -> Any:
    async def run() -> Any:
        async def agree(_call: Any) -> None:
            assert link.unclaimed("b" * 64) is None

        async def recorded() -> None:
            await asyncio.sleep(0)

        link = KeeperLink("/nowhere", agree, recorded, "/sampan")
        try:
            await link.begin()
            return await work(link)
        finally:
            await link.close()

    monkeypatch.setattr(keeper_link, "KeeperClient", keeper.connected)
    monkeypatch.setattr(keeper_link, "_TOGETHER", 0.0)
    return asyncio.run(run())


async def _start(link: KeeperLink) -> Process:
    request: Any = {"spec": {}}
    return await link.make(Start(ID, request, "/nowhere", False, protocol.LogOptions()))


def test_an_end_is_waited_for_by_many(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(link: KeeperLink) -> None:
        process = await _start(link)
        waiters = [asyncio.ensure_future(process.wait()) for _ in range(3)]
        await asyncio.sleep(0)
        waiters[0].cancel()
        keeper.tell(End(ID, 256, 5, 7))
        assert await asyncio.gather(*waiters[1:]) == [Exit(256, 5)] * 2
        assert await process.wait() == Exit(256, 5)
        process.close()

    keeper = Keeper()
    _with(keeper, monkeypatch, work)


def test_one_that_is_told_before_the_start_has_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(link: KeeperLink) -> Exit:
        process = await _start(link)
        process.close()
        return await process.wait()

    keeper = Keeper()
    keeper.early = [End(ID, 0, 3, 6), End(ID, 9, 4, 7)]  # of an earlier run, and of this one
    assert _with(keeper, monkeypatch, work) == Exit(9, 4)
    assert keeper.acknowledged == [f"{ID}:6"]  # of which nobody here knows


def test_only_what_is_recorded_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(link: KeeperLink) -> None:
        process = await _start(link)
        process.close()
        keeper.tell(End(ID, 0, 4, 7))
        await process.wait()
        for _ in range(10):
            await asyncio.sleep(0.001)
        assert keeper.acknowledged == []
        process.acknowledge()

    keeper = Keeper()
    _with(keeper, monkeypatch, work)
    assert keeper.acknowledged == [f"{ID}:7"]


def test_ends_that_nobody_wants_are_forgotten_when_all_is_agreed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(link: KeeperLink) -> None:
        assert link.unclaimed(ID) is None
        keeper.tell(End(ID, 0, 4, 8))

    keeper = Keeper()
    keeper.ended = [End(ID, 0, 3, 6)]
    _with(keeper, monkeypatch, work)
    assert keeper.acknowledged == [f"{ID}:6", f"{ID}:8"]


def test_an_end_that_somebody_else_saw_is_news_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(link: KeeperLink) -> Exit:
        process = await _start(link)
        process.close()
        assert link.has(ID)
        link.conclude(process, Exit(1, 0))
        assert not link.has(ID)
        keeper.tell(End(ID, 2, 9, 7))
        return await process.wait()

    keeper = Keeper()
    assert _with(keeper, monkeypatch, work) == Exit(1, 0)


def test_a_broadcast_is_to_all_who_wait_then() -> None:
    async def run() -> None:
        exits: Broadcast[int] = Broadcast()
        exits.send(1)
        assert not exits.awaited
        first, second = exits.next(), exits.next()
        first.cancel()
        exits.send(2)
        later = exits.next()
        assert await second == 2
        assert not later.done()
        exits.send(3)
        assert await later == 3

    asyncio.run(run())
