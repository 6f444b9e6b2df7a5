"""What the keeper looks after: processes with their descriptors, and how one learns their end."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import termios

from sampan.keeper import logs
from sampan.linux import pidfd
from sampan.record import field, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

UNKNOWN_STATUS = 255 << 8
_PIPE_SIZE = 1 << 20


@record
class Task:
    """A process the keeper looks after: a container's init, or an exec (which has no `directory`)."""

    id: str
    pid: int
    pidfd: int
    start_time: int
    directory: str = ""
    tty: bool = False
    stdin: int = -1
    outputs: dict[int, int] = field(default_factory=dict)  # descriptor → stream
    writer: logs.Writer | None = None
    log: dict[str, Any] = field(default_factory=dict)
    held: list[int] = field(default_factory=list)  # closed when its end has been announced

    def record(self) -> dict[str, Any]:
        """What another keeper needs to go on with it, beside descriptors()."""
        return {
            "id": self.id,
            "pid": self.pid,
            "start_time": self.start_time,
            "directory": self.directory,
            "tty": self.tty,
            "log": self.log,
            "streams": list(self.outputs.values()),
            "has_stdin": self.stdin >= 0,
        }

    def descriptors(self) -> list[int]:
        """Its pidfd, outputs, and stdin; with a terminal all but the first are the same one."""
        if self.tty and not self.outputs and self.stdin >= 0:
            return [self.pidfd, self.stdin]
        return [self.pidfd, *self.outputs, *([self.stdin] if self.stdin >= 0 and not self.tty else [])]

    @classmethod
    def adopted(cls, record: dict[str, Any], fds: list[int]) -> Task:
        """A task from record() and descriptors(). Raises ValueError when they don't fit."""
        streams = record["streams"]
        if len(fds) <= len(streams):
            raise ValueError(f"{len(fds)} descriptors for task {record['id']}")
        outputs = dict(zip(fds[1:], streams, strict=False))
        task = cls(record["id"], record["pid"], fds[0], record["start_time"], record["directory"], record["tty"],
                   -1, outputs, log=record["log"])  # fmt: skip
        rest = fds[1 + len(streams) :]
        if task.tty and outputs:
            task.stdin = fds[1]
        elif record["has_stdin"] and rest:
            task.stdin = rest.pop(0)
        for fd in rest:
            close(fd)
        return task

    def open_log(self) -> None:
        """Begins, or goes on, to write its log."""
        if self.directory:
            self.writer = logs.Writer(f"{self.directory}/log", **self.log)

    def take(self, fd: int, stream: int) -> bool:
        """Logs what an output has ready; False at its end."""
        assert self.writer is not None
        try:
            available = 1 if self.tty else struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))[0]
            if available and not self.tty:
                self.writer.splice(fd, available, stream)
                return True
            if data := os.read(fd, 64 << 10):
                self.writer.append(data, stream)
                return True
        except BlockingIOError:
            return True
        except OSError:  # EIO: the last to have the terminal open has closed it
            pass
        return False

    def close(self) -> None:
        """Closes all it has."""
        for fd in {self.pidfd, self.stdin, *self.outputs, *self.held}:
            close(fd)
        if self.writer:
            self.writer.close()

    def status(self) -> int | None:
        """The wait status of a process that has ended, whoever its parent is; None: not known (yet). It stays a zombie."""
        try:
            found = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        except ChildProcessError:
            if pidfd.start_time(self.pid) == self.start_time and (status := pidfd.zombie_status(self.pid)) is not None:
                return status
            return pidfd.exit_status(self.pidfd)
        if found is None:
            return None
        if found.si_code == os.CLD_EXITED:
            return found.si_status << 8
        return found.si_status | (0x80 if found.si_code == os.CLD_DUMPED else 0)


@record
class Pipes:
    """The standard streams of a container without a terminal."""

    theirs: tuple[int, int, int]
    stdin: int
    stdout: int
    stderr: int

    @classmethod
    def make(cls, stdin: bool) -> Pipes:
        """Raises OSError."""
        made: list[int] = []
        try:
            made += os.pipe() if stdin else (os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC), -1)
            made += os.pipe()
            made += os.pipe()
        except OSError:
            for fd in made:
                close(fd)
            raise
        for fd in (made[2], made[4]):
            try:
                fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
            except OSError:
                pass
        return cls((made[0], made[3], made[5]), made[1], made[2], made[4])

    def close_theirs(self) -> None:
        """Closes the ends that the container has."""
        for fd in self.theirs:
            os.close(fd)

    def close(self) -> None:
        """Closes everything."""
        self.close_theirs()
        for fd in (self.stdin, self.stdout, self.stderr):
            close(fd)


def close(fd: int) -> None:
    """Closes a descriptor, if it is one."""
    if fd >= 0:
        try:
            os.close(fd)
        except OSError:
            pass


def kill(descriptor: int) -> None:
    """Kills a process by its pidfd; one that has ended is fine."""
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except ProcessLookupError:
        pass
