"""What a pull or a push says while it goes on, in Docker's JSON messages."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

Say = Callable[[dict[str, Any]], None]
_EVERY = 0.1


class Progress:
    """Messages of one transfer. Any number of listeners, each with a queue of its own (P115)."""

    def __init__(self) -> None:
        self._queues: set[asyncio.Queue[dict[str, Any] | None]] = set()
        self._said: dict[str, dict[str, Any]] = {}  # the last of each id, for those that come later
        self._plain: list[dict[str, Any]] = []
        self._last: dict[str, float] = {}

    def listen(self) -> asyncio.Queue[dict[str, Any] | None]:
        """A queue of all messages, the state so far first; None ends it."""
        queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        for message in [*self._plain, *self._said.values()]:
            queue.put_nowait(message)
        self._queues.add(queue)
        return queue

    def forget(self, queue: asyncio.Queue[dict[str, Any] | None]) -> None:
        """Ends a listener."""
        self._queues.discard(queue)

    def say(self, status: str, identifier: str = "", **more: Any) -> None:
        """One message."""
        message: dict[str, Any] = {"status": status, **more}
        if identifier:
            message["id"] = identifier
            self._said[identifier] = message
        else:
            self._plain.append(message)
        for queue in self._queues:
            queue.put_nowait(message)

    def step(self, identifier: str, status: str) -> None:
        """A layer has come to a new state."""
        self.say(status, identifier, progressDetail={})

    def amount(self, identifier: str, status: str, current: int, total: int) -> None:
        """How much of a layer is done; said ten times a second at most."""
        now = time.monotonic()
        if current < total and now - self._last.get(identifier, 0.0) < _EVERY:
            return
        self._last[identifier] = now
        self.say(status, identifier, progressDetail={"current": current, "total": total}, progress=bar(current, total))

    def end(self) -> None:
        """Ends all listeners."""
        for queue in self._queues:
            queue.put_nowait(None)


def bar(current: int, total: int) -> str:
    """Docker's progress bar."""
    done = min(50, current * 50 // total) if total else 50
    head = ">" if done < 50 else ""
    return f"[{('=' * done + head).ljust(50)[:50]}]  {_size(current)}/{_size(total)}"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.4g}{unit}"
        count /= 1000
    return f"{count:.4g}TB"
