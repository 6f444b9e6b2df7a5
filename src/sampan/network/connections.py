"""Connections that others open to us, bounded: one more costs the one that has been silent for longest its place.

Refusing the newcomer would let whoever holds the places stop all others. Each owner (a container's name server, a
published port) has a share, and what is over all shares together is taken from the owner that has most.
"""

from __future__ import annotations

import resource
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)


def budget(part: int) -> int:
    """How many connections may be open, as a part of the descriptors that we may have."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]  # the daemon raises its soft limit to it
    return max(64, min(hard if hard > 0 else 1 << 16, 1 << 16) // part)


class Total:
    """All owners of one kind together, which have at most `limit`."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.owners: set[Connections[Any]] = set()
        self.count = 0


class Connections(Generic[K]):
    """An owner's, the one that was used last at the end. `end` closes one, and need not tell us."""

    def __init__(self, limit: int, total: Total, end: Callable[[K], None]) -> None:
        self._limit, self._total, self._end = limit, total, end
        self._open: OrderedDict[K, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def add(self, key: K) -> None:
        """One more; another may end for it."""
        if len(self._open) >= self._limit:
            self.end_oldest()
        elif self._total.count >= self._total.limit:
            max((*self._total.owners, self), key=len).end_oldest()
        self._open[key] = None
        self._total.count += 1
        self._total.owners.add(self)

    def touch(self, key: K) -> None:
        """It is in use."""
        if key in self._open:
            self._open.move_to_end(key)

    def remove(self, key: K) -> None:
        """It has ended; unknown is fine."""
        if key in self._open:
            del self._open[key]
            self._total.count -= 1
            if not self._open:
                self._total.owners.discard(self)

    def end_oldest(self) -> None:
        """Ends the one that has been silent for longest."""
        if self._open:
            oldest = next(iter(self._open))
            self.remove(oldest)
            self._end(oldest)

    def end_all(self) -> None:
        """Ends all of them."""
        while self._open:
            self.end_oldest()
