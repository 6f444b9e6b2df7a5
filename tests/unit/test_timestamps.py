"""Times as Go's RFC3339Nano writes them, which Docker's clients print as they get them."""

from __future__ import annotations

import pytest

from sampan.engine.container import log_timestamp, moment_text, timestamp

SECOND = 1_795_932_942 * 10**9


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "2026-11-29T06:15:42Z"),
        (1, "2026-11-29T06:15:42.000000001Z"),
        (630_870_680, "2026-11-29T06:15:42.63087068Z"),
        (500_000_000, "2026-11-29T06:15:42.5Z"),
    ],
)
def test_no_zeros_at_the_end(nanoseconds: int, text: str) -> None:
    assert timestamp(SECOND + nanoseconds) == moment_text(SECOND + nanoseconds) == text


def test_lines_of_a_log_are_aligned() -> None:
    assert log_timestamp(SECOND) == "2026-11-29T06:15:42.000000000Z"
    assert moment_text(0) == "0001-01-01T00:00:00Z"
