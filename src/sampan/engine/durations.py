"""How long things took, counted in buckets as Prometheus wants them."""

from __future__ import annotations

from collections import Counter

BOUNDS = (0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)  # seconds


class Durations:
    """Durations by kind, and failures beside them."""

    def __init__(self) -> None:
        self._counts: dict[str, list[int]] = {}
        self.sums: dict[str, float] = {}
        self.failures: Counter[str] = Counter()

    def add(self, kind: str, seconds: float) -> None:
        """Notes one that went well."""
        counts = self._counts.setdefault(kind, [0] * (len(BOUNDS) + 1))
        counts[next((index for index, bound in enumerate(BOUNDS) if seconds <= bound), len(BOUNDS))] += 1
        self.sums[kind] = self.sums.get(kind, 0.0) + seconds

    def fail(self, kind: str) -> None:
        """Notes one that did not."""
        self.failures[kind] += 1

    def buckets(self) -> dict[str, list[tuple[str, int]]]:
        """(upper bound, how many took no longer) by kind; the last bound is +Inf."""
        found = {}
        for kind, counts in self._counts.items():
            total, rows = 0, []
            for bound, count in zip((*map(str, BOUNDS), "+Inf"), counts, strict=True):
                total += count
                rows.append((bound, total))
            found[kind] = rows
        return found
