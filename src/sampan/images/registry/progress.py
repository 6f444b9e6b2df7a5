"""What a pull or a push says while it goes on, in Docker's JSON messages."""

from __future__ import annotations

import asyncio
import time
from typing import TypedDict

_EVERY = 0.1


class Amount(TypedDict, total=False):
    """How many bytes of a layer are done, and of how many."""

    current: int
    total: int


class Pushed(TypedDict, total=False):
    """The result of a push: of its manifest the digest and the bytes."""

    Tag: str
    Digest: str
    Size: int


class Message(TypedDict, total=False):
    """One of Docker's JSON messages. `id` is a layer's."""

    status: str
    id: str
    progressDetail: Amount
    progress: str
    aux: Pushed


class Progress:
    """Messages of one transfer. Any number of listeners, each with a queue of its own (P115)."""

    def __init__(self) -> None:
        self._queues: set[asyncio.Queue[Message | None]] = set()
        self._said: dict[str, Message] = {}  # the last of each id, for those that come later
        self._plain: list[Message] = []
        self._last: dict[str, float] = {}

    def listen(self) -> asyncio.Queue[Message | None]:
        """A queue of all messages, the state so far first; None ends it."""
        queue: asyncio.Queue[Message | None] = asyncio.Queue()
        for message in [*self._plain, *self._said.values()]:
            queue.put_nowait(message)
        self._queues.add(queue)
        return queue

    def forget(self, queue: asyncio.Queue[Message | None]) -> None:
        """Ends a listener."""
        self._queues.discard(queue)

    def say(self, status: str, identifier: str = "", detail: Amount | None = None, text: str = "") -> None:
        """One message; `text` is a progress bar."""
        message: Message = {"status": status}
        if detail is not None:
            message["progressDetail"] = detail
        if text:
            message["progress"] = text
        if identifier:
            message["id"] = identifier
            self._said[identifier] = message
        else:
            self._plain.append(message)
        for queue in self._queues:
            queue.put_nowait(message)

    def step(self, identifier: str, status: str) -> None:
        """A layer has come to a new state."""
        self.say(status, identifier, {})

    def amount(self, identifier: str, status: str, current: int, total: int) -> None:
        """How much of a layer is done; said ten times a second at most."""
        now = time.monotonic()
        if current < total and now - self._last.get(identifier, 0.0) < _EVERY:
            return
        self._last[identifier] = now
        self.say(status, identifier, {"current": current, "total": total}, bar(current, total))

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
