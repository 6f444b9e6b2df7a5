"""How much a test tries: what CI has time for, or all of it with SAMPAN_SOAK=1."""

from __future__ import annotations

import os

SOAK = bool(os.environ.get("SAMPAN_SOAK"))


def tries(usual: int, soak: int) -> int:
    """How many examples, rounds or messages."""
    return soak if SOAK else usual
