"""The engine's own tasks: operations that are carried to their end, and work beside the requests.

An operation that has begun has changed something: a process runs, a directory is made, a record is half the truth.
If it ended with the connection of whoever asked for it, what it had done so far would be known to nobody. So it is
a task of the engine's, for whose end its client waits or does not; only what is merely shown to a client ends with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import TypeVar

_log = logging.getLogger(__name__)

_PATIENCE = 5.0  # seconds that operations have to end when the daemon does

T = TypeVar("T")


class Tasks:
    """Holds tasks, so that they are not collected, until they are done."""

    def __init__(self) -> None:
        self._beside: set[asyncio.Task[object]] = set()
        self._carried: set[asyncio.Task[object]] = set()

    def beside(self, work: Coroutine[object, None, T]) -> asyncio.Task[T]:
        """Runs what may be cut short at any time: the end of the daemon cancels it."""
        return _held(work, self._beside)

    def begin(self, work: Coroutine[object, None, T]) -> asyncio.Task[T]:
        """Begins an operation that is carried to its end, and that nobody waits for."""
        task = _held(work, self._carried)
        task.add_done_callback(_unheard)
        return task

    async def carry(self, work: Coroutine[object, None, T]) -> T:
        """Begins an operation and waits for it; it goes on if the caller is cancelled."""
        task = _held(work, self._carried)
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        task.add_done_callback(lambda _: None if ended.done() else ended.set_result(None))
        try:
            await ended  # asyncio.wait would do, and does much beside: every operation waits here
        except asyncio.CancelledError:
            task.add_done_callback(_unheard)
            raise
        return task.result()

    async def close(self) -> None:
        """Lets operations end, for a while, and ends everything else."""
        for task in self._beside:
            task.cancel()
        if self._carried:
            _, late = await asyncio.wait(self._carried, timeout=_PATIENCE)
            for task in late:
                _log.error(f"ends before an operation is done: {task.get_coro()}")
                task.cancel()
        rest = [*self._beside, *self._carried]
        if rest:
            await asyncio.wait(rest, timeout=1.0)


def _held(work: Coroutine[object, None, T], tasks: set[asyncio.Task[object]]) -> asyncio.Task[T]:
    task = asyncio.get_running_loop().create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    return task


def _unheard(task: asyncio.Task[object]) -> None:
    """Says how an operation failed whose client is no longer there to hear it; one that did not get its request has not begun."""
    error = None if task.cancelled() else task.exception()
    if error is not None and not isinstance(error, ConnectionError):
        _log.error(f"an operation that nobody waited for failed: {error or type(error).__name__}")
