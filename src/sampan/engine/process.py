"""A process that the keeper has made for us: a container's init, an exec or a build step."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import NamedTuple, Protocol

from sampan.keeper.protocol import Descriptors, Handover
from sampan.linux import polling


class Exit(NamedTuple):
    """How a process has ended: its wait status (wait(2)), and when in nanoseconds since the epoch, or 0."""

    status: int
    time: int


class Keeper(Protocol):
    """Who tells of a process's end until that is acknowledged."""

    def acknowledge(self, process: Process) -> None: ...


class Process:
    """A process and our copies of its descriptors: its pidfd, its outputs, its standard input (of a terminal, that alone).

    It is known by its id, which a container keeps, and by its start time in clock ticks. `handover` is what another keeper needs
    beside the descriptors to go on with it.
    """

    def __init__(self, keeper: Keeper, handover: Handover, descriptors: Descriptors, warnings: list[str]) -> None:
        self.id, self.pid, self.start_time = handover.id, handover.pid, handover.start_time
        self.handover, self.descriptors, self.warnings = handover, descriptors, warnings
        self.exit: Exit | None = None
        self._keeper = keeper
        self._ended = asyncio.Event()

    @property
    def key(self) -> str:
        """What names it and no other process."""
        return f"{self.id}:{self.start_time}"

    async def wait(self) -> Exit:
        """Waits for its end. Whoever has recorded that calls acknowledge()."""
        await self._ended.wait()
        assert self.exit is not None
        return self.exit

    def end(self, exit: Exit) -> bool:
        """It has ended; those who wait go on. Returns whether that was news."""
        if self.exit is not None:
            return False
        self.exit = exit
        self._ended.set()
        return True

    def acknowledge(self) -> None:
        """Its end is recorded: when that is on disk, the keeper may forget it."""
        self._keeper.acknowledge(self)

    @property
    def ending(self) -> bool:
        """Whether it has ended, told of or not."""
        return self.exit is not None or not self.descriptors or polling.readable(self.descriptors["process"])

    def signal(self, number: int) -> None:
        """Sends it a signal; one that has ended is fine."""
        try:
            if self.descriptors:
                signal.pidfd_send_signal(self.descriptors["process"], number)
        except ProcessLookupError:
            pass

    def take(self) -> Descriptors:
        """Gives its descriptors away, but for the pidfd."""
        taken = dict(self.descriptors)
        self.descriptors = {"process": taken.pop("process")}
        return taken

    def close_stdin(self) -> None:
        """Closes our copy of its standard input, of one without a terminal: the keeper closes its own."""
        if "stdin" in self.descriptors:
            os.close(self.descriptors.pop("stdin"))
        self.handover.has_stdin = False

    def close(self) -> None:
        """Closes our descriptors."""
        for fd in self.descriptors.values():
            try:
                os.close(fd)
            except OSError:
                pass
        self.descriptors = {}
