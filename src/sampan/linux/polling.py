"""Whether a descriptor is ready, by poll(2): select(2) takes no number from 1024 on."""

from __future__ import annotations

import select


def readable(fd: int, seconds: float | None = 0) -> bool:
    """Whether reading would not block, waiting up to `seconds` (None: for ever). A hang-up counts."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(None if seconds is None else seconds * 1000))


def any_readable(fds: list[int]) -> list[int]:
    """Waits until one of the descriptors is readable or hung up, and returns those that are."""
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return [fd for fd, _ in poll.poll()]
