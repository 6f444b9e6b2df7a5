"""Operations go on to their end, whatever whoever waits for them does."""

from __future__ import annotations

import asyncio

import pytest

from sampan.engine.tasks import Tasks


def test_an_operation_goes_on_when_its_caller_is_cancelled() -> None:
    async def main() -> None:
        tasks, go, done = Tasks(), asyncio.Event(), asyncio.Event()

        async def work() -> None:
            await go.wait()
            done.set()

        caller = asyncio.ensure_future(tasks.carry(work()))
        await asyncio.sleep(0)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        go.set()
        await asyncio.wait_for(done.wait(), 10)

    asyncio.run(main())


def test_a_caller_gets_the_result_or_the_error() -> None:
    async def main() -> None:
        tasks = Tasks()

        async def work(fails: bool) -> int:
            if fails:
                raise ValueError("no")
            return 7

        assert await tasks.carry(work(False)) == 7
        with pytest.raises(ValueError, match="no"):
            await tasks.carry(work(True))

    asyncio.run(main())


def test_the_end_waits_for_operations_and_cancels_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        tasks, ended = Tasks(), []

        async def operation() -> None:
            await asyncio.sleep(0.05)
            ended.append("operation")
            raise ValueError("told to nobody")

        async def beside() -> None:
            try:
                await asyncio.sleep(3600)
            finally:
                ended.append("beside")

        tasks.beside(beside())
        tasks.begin(operation())
        await asyncio.sleep(0)
        await tasks.close()
        assert ended == ["beside", "operation"]

    asyncio.run(main())
    assert "told to nobody" in caplog.text
