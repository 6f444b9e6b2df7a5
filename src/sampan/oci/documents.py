"""JSON that somebody else has written: a few bytes of it can stand for much memory, so its parts are counted first."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

MOST = 100_000  # values; the largest indexes and configurations have some thousands


def loads(data: bytes, pairs: Callable[[list[tuple[str, object]]], object] | None = None, most: int = MOST) -> Any:
    """The value. Raises ValueError, for one that is nested too deeply, too."""
    if data.count(b",") + data.count(b"[") + data.count(b"{") > most:
        raise ValueError(f"it has more than {most} values")
    try:
        return json.loads(data, object_pairs_hook=pairs)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
