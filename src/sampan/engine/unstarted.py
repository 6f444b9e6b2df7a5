"""Execs that were created and not started yet: so many, and so large ones, as are sensible.

Docker keeps them until their container ends. A client that creates and never starts must not fill the memory, nor push out those
of others: when there are too many, the oldest of the container with most of them goes.
"""

from __future__ import annotations

from collections import Counter

_MOST = 2048
_BYTES = 32 << 20  # of words and environments


class Unstarted:
    """Their ids, oldest first."""

    def __init__(self) -> None:
        self._rows: dict[str, tuple[str, int]] = {}  # the container and the size, by the exec's id
        self._size = 0

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, identifier: str, container: str, size: int) -> list[str]:
        """Enters one. Returns the ids of those that have to go for it."""
        self._rows[identifier] = container, size
        self._size += size
        gone = []
        while len(self._rows) > 1 and (len(self._rows) > _MOST or self._size > _BYTES):
            sizes: Counter[str] = Counter()
            for holder, bytes_ in self._rows.values():
                sizes[holder] += bytes_ + _BYTES // _MOST
            worst = max(sizes, key=lambda holder: sizes[holder])
            gone.append(next(key for key, (holder, _) in self._rows.items() if holder == worst))
            self.take(gone[-1])
        return gone

    def take(self, identifier: str) -> None:
        """Takes one out: it has been started."""
        _, size = self._rows.pop(identifier, ("", 0))
        self._size -= size

    def ended(self, container: str) -> list[str]:
        """Takes out those of a container that has ended. Returns their ids."""
        gone = [key for key, (holder, _) in self._rows.items() if holder == container]
        for key in gone:
            self.take(key)
        return gone
