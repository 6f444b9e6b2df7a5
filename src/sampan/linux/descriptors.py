"""The descriptors that a process has."""

from __future__ import annotations

import os


def close_all_but(keep: list[int]) -> None:
    """Closes every descriptor of this process that is not among `keep`."""
    kept = sorted({0, 1, 2, *keep})
    for before, after in zip(kept, [*kept[1:], 1 << 20], strict=True):
        os.closerange(before + 1, after)
