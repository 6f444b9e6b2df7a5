"""Ends of containers and execs, from when the process has ended to when somebody has recorded that.

An end is written into the container's directory, told to whoever listens, and kept until it is acknowledged: sampand does
that when its own record is on disk. When nobody acknowledges soon, there is no sampand, and the file has to reach the
disk itself. That is a child's work: the disk may take its time, and containers write their output meanwhile.
"""

from __future__ import annotations

import os
import time

from sampan import logline, quickjson
from sampan.linux import prctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.keeper.protocol import End

PAD = b" " * 256  # what `exit.tmp` has from the start: an end fits into it, also on a disk that is full by then
_GRACE = 1.0
_MOST = 4096


def prepare(directory: str) -> None:
    """Has a place for the exit record of the run that begins. A full disk is no reason not to run."""
    try:
        fd = os.open(f"{directory}/exit.tmp", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(fd).st_size < len(PAD):
                os.pwrite(fd, PAD, 0)
        finally:
            os.close(fd)
    except OSError:
        pass


class Exits:
    """Ends that nobody has acknowledged."""

    def __init__(self) -> None:
        self._open: dict[str, End] = {}
        self._unsynced: dict[str, tuple[str, float]] = {}  # directory, since when
        self._unwritten: dict[str, str] = {}
        self._child = 0

    def add(self, end: End, directory: str) -> None:
        """Notes an end and writes it down. A directory that was removed meanwhile is fine."""
        self._open[end.key] = end
        if directory:
            self._write(end, directory)
        while len(self._open) > _MOST + len(self._unwritten):
            self.acknowledge(next(other for other in self._open if other not in self._unwritten))

    def _write(self, end: End, directory: str) -> None:
        key, data = end.key, quickjson.dumps(vars(end)).encode()
        try:
            fd = os.open(f"{directory}/exit.tmp", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.pwrite(fd, data.ljust(len(PAD)), 0)
                os.ftruncate(fd, max(len(data), len(PAD)))
            finally:
                os.close(fd)
            os.rename(f"{directory}/exit.tmp", f"{directory}/exit.json")
        except FileNotFoundError:
            self._unwritten.pop(key, None)
        except OSError as error:
            if key not in self._unwritten:
                logline.write("sampan-keeper", "error", f"the end of {end.id} can't be written: {error}")
            self._unwritten[key] = directory
        else:
            self._unwritten.pop(key, None)
            self._unsynced[key] = (directory, time.monotonic())

    def acknowledge(self, key: str) -> None:
        """Somebody has recorded it."""
        for table in (self._open, self._unsynced, self._unwritten):
            table.pop(key, None)

    def all(self) -> list[End]:
        """The ends that nobody has acknowledged, in order."""
        return list(self._open.values())

    @property
    def must_stay(self) -> bool:
        """Whether something is known here only."""
        return bool(self._unwritten or self._unsynced or self._child)

    def tick(self) -> None:
        """Sees to those that wait: to be written, to be on disk."""
        for key, directory in list(self._unwritten.items()):
            self._write(self._open[key], directory)
        if self._child:
            try:
                if not os.waitpid(self._child, os.WNOHANG)[0]:
                    return
            except ChildProcessError:
                pass
            self._child = 0
        late = time.monotonic() - _GRACE
        due = {key: directory for key, (directory, since) in self._unsynced.items() if since < late}
        if due:
            self._sync(list(due.values()))
            for key in due:
                del self._unsynced[key]

    def _sync(self, directories: list[str]) -> None:
        self._child = os.fork()
        if self._child:
            return
        try:
            prctl.set_name("sampan-sync")
            os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # a slow disk must not keep a dead keeper's connections open
            for directory in directories:
                for path in (f"{directory}/exit.json", directory):
                    try:
                        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                        os.fsync(fd)
                        os.close(fd)
                    except OSError:
                        continue
        finally:
            os._exit(0)
