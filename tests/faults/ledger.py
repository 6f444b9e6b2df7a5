"""What an engine has said is done, and what it may have done beyond that: the measure of a power cut."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field

Key = tuple[str, str]  # kind and name: ("volume", "w0-v3")
Allowed = frozenset[Hashable]  # what may be seen of a thing; None: that it is not there
ABSENT: Allowed = frozenset({None})


@dataclass(frozen=True)
class Moment:
    """The ledger as it was when the power failed."""

    told: dict[Key, Allowed]
    pending: dict[Key, Allowed]
    answered: int

    def faults(self, seen: dict[Key, Hashable], unfinished: bool = True) -> list[str]:
        """What is not there as it was told, nor as an operation under way would make it.

        Without `unfinished`, what operations without an answer were about is not looked at.
        """
        found = []
        for key in sorted({*self.told, *self.pending, *seen}):
            if not unfinished and key in self.pending:
                continue
            allowed = self.told.get(key, ABSENT) | self.pending.get(key, frozenset())
            if seen.get(key) not in allowed:
                wanted = " or ".join(sorted(map(str, allowed)))
                found.append(f"{key[0]} {key[1]} is {seen.get(key)}, not {wanted}")
        return found


@dataclass
class Ledger:
    """All that clients were told, by what it was about. One operation at a time for each thing."""

    told: dict[Key, Allowed] = field(default_factory=dict)
    pending: dict[Key, Allowed] = field(default_factory=dict)
    answered: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)

    @contextlib.contextmanager
    def becoming(self, after: dict[Key, Allowed], meanwhile: dict[Key, Allowed] | None = None) -> Iterator[None]:
        """An operation, from its request to its whole answer. `meanwhile`: what may be seen before the answer only."""
        with self.changed:
            for key, allowed in after.items():
                self.pending[key] = allowed | (meanwhile or {}).get(key, frozenset())
        yield
        with self.changed:
            for key, allowed in after.items():
                self.told[key] = allowed
                del self.pending[key]
            self.answered += 1
            self.changed.notify_all()

    def moment(self) -> Moment:
        """A copy of what stands now."""
        with self.changed:
            return Moment(dict(self.told), dict(self.pending), self.answered)
