"""Moments as clients write them: a Unix time, RFC 3339, or a duration before now."""

from __future__ import annotations

import datetime
import re
import time

from sampan.engine.errors import BadRequest

_LONGEST = 64  # characters of any of them
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|ms|s|m|h)")
_UNITS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def never(text: str | None) -> str | None:
    """An `until`, or None for the 0 by which Docker's clients say that there is none."""
    return None if text == "0" else text


def moment(text: str | None, default: float) -> int:
    """Nanoseconds since the epoch of a Unix time, RFC 3339 or duration ("10m" ago). Raises BadRequest."""
    if not text:
        return int(default * 1e9)
    if len(text) > _LONGEST:
        raise BadRequest(f"failed to parse value as time or duration: {text[:_LONGEST]!r}...")
    if re.fullmatch(r"-?\d+(\.\d{1,9})?", text):
        whole, _, fraction = text.partition(".")
        return int(whole) * 10**9 + int(fraction.ljust(9, "0") or "0")
    if _DURATION.sub("", text) == "":
        return time.time_ns() - int(sum(float(n) * _UNITS[u] for n, u in _DURATION.findall(text)) * 1e9)
    match = re.fullmatch(r"(\d{4}-\d\d-\d\d)(?:T(\d\d:\d\d(?::\d\d)?)(\.\d+)?(Z|[+-]\d\d:\d\d)?)?", text)
    if not match:
        raise BadRequest(f"failed to parse value as time or duration: {text!r}")
    day, clock, rest, zone = match.groups()
    offset = "+00:00" if zone in (None, "Z") else zone
    try:
        seconds = int(datetime.datetime.fromisoformat(f"{day}T{clock or '00:00'}{offset}").timestamp())
    except (ValueError, OverflowError) as error:
        raise BadRequest(f"failed to parse value as time or duration: {text!r}") from error
    return seconds * 10**9 + int((rest or ".0")[1:].ljust(9, "0")[:9])
