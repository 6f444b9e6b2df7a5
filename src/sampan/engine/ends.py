"""The end of a process, seen by ourselves: for those whose keeper has died, and would have told."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from sampan.linux import pidfd

UNKNOWN = 255 << 8  # the wait status of a process whose own nobody knows
_PATIENCE = 2.0  # seconds that the keeper has to tell


def watch(process: int, told: Callable[[int], object]) -> None:
    """Calls `told` with the wait status of a process, by its pidfd, some time after its end; who has been told by then ignores it."""
    own, pid, loop = os.dup(process), pidfd.pid_of(process), asyncio.get_running_loop()

    def ended() -> None:
        loop.remove_reader(own)
        loop.call_later(_PATIENCE, late)

    def late() -> None:
        status = pidfd.exit_status(own)
        os.close(own)
        if status is None:
            status = pidfd.zombie_status(pid)
        told(UNKNOWN if status is None else status)

    loop.add_reader(own, ended)
