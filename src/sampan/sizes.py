"""Sizes as people write them."""

from __future__ import annotations

_UNITS = {"k": 10, "m": 20, "g": 30, "t": 40}


def parse(text: str) -> int:
    """Bytes of "64m", "1.5g", "2GiB", "10", "-1". Raises ValueError."""
    short = text.strip().lower().removesuffix("b").removesuffix("i")
    unit = _UNITS.get(short[-1:], 0)
    try:
        return int(float(short[:-1] if unit else short) * (1 << unit))
    except OverflowError:
        raise ValueError(f"{text[:40]!r} is no size") from None
