"""Whether a machine's QEMU does anything: one that is slow on a busy host is waited for, one that stands still is not. Standard library only."""

from __future__ import annotations

import os
import time

from sampan.linux import pidfd

STANDSTILL = 20.0  # seconds
LONGEST = 900.0  # seconds that a guest may take to be there, as long as its QEMU does something
_LEAST = 0.1  # of a processor's seconds in that time; a guest that starts on a host with fifty others gets more


class Progress:
    """The processor time of a process, by a descriptor that needs no right to its files later. Raises OSError when it is gone."""

    def __init__(self, pid: int) -> None:
        process = os.pidfd_open(pid)
        try:  # /proc may be of another pid namespace than ours: there it has another number
            self._fd = os.open(f"/proc/{pidfd.pid_of(process)}/stat", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(process)
        self._used, self._since = self._read(), time.monotonic()

    def _read(self) -> float:
        try:
            fields = os.pread(self._fd, 4096, 0).rpartition(b")")[2].split()
        except ProcessLookupError:  # it has ended: others tell of that
            return float("inf")
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stands_still(self) -> bool:
        """Whether it has done nothing for that long. To be asked again and again."""
        if time.monotonic() - self._since < STANDSTILL:
            return False
        used, before = self._read(), self._used
        self._used, self._since = used, time.monotonic()
        return used - before < _LEAST

    def close(self) -> None:
        """Lets go of it."""
        os.close(self._fd)
