"""Something that happens now and then, and those who wait for the next time."""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

T = TypeVar("T")


class Broadcast(Generic[T]):
    """Sends a value to all who wait at that time."""

    def __init__(self) -> None:
        self._next: asyncio.Future[T] | None = None

    def next(self) -> asyncio.Future[T]:
        """A future of the next value, one's own: cancel it when it is not wanted any more."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        return asyncio.shield(self._next)

    @property
    def awaited(self) -> bool:
        """Whether somebody has asked for the next value."""
        return self._next is not None

    def send(self, value: T) -> None:
        """Wakes all who wait, in the second turn of the event loop from now."""
        future, self._next = self._next, None
        if future is not None:
            future.set_result(value)
