"""What a step is known by: its key in the cache, its text for people, and its time."""

from __future__ import annotations

import datetime
import hashlib
import time

from sampan.build.dockerfile import Instruction
from sampan.build.model import Options, State


def created(options: Options, state: State) -> str:
    """The time that an image and its history say: of its last layer, or SOURCE_DATE_EPOCH if there is one."""
    moment = state.created if options.epoch is None else float(options.epoch)
    return datetime.datetime.fromtimestamp(moment, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def now() -> float:
    """Seconds since the epoch."""
    return time.time()


def moment_of(text: object) -> float:
    """Seconds since the epoch of an image's `created`; now when it says nothing."""
    try:
        return datetime.datetime.fromisoformat(str(text)[:19] + "+00:00").timestamp()
    except ValueError:
        return now()


def key_of(*parts: str) -> str:
    """The key of a step: a digest of all that decides what it makes (S028)."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogateescape")
        total.update(len(data).to_bytes(8, "big") + data)
    return total.hexdigest()


def shown(instruction: Instruction) -> str:
    """An instruction's flags and text, on one line."""
    flags = [f"--{name}={value}" for name, values in instruction.flags.items() for value in values]
    return " ".join([*flags, instruction.text])
