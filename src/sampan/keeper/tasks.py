"""What the keeper looks after: processes with their descriptors, and how one learns their end."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import termios

from sampan.keeper import logs
from sampan.keeper.protocol import Handover, LogOptions
from sampan.linux import pidfd
from sampan.record import field, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.keeper.protocol import Descriptors

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
    log: LogOptions = field(default_factory=LogOptions)
    held: list[int] = field(default_factory=list)  # closed when its end has been announced

    def handover(self) -> Handover:
        """What another keeper needs to go on with it, beside descriptors()."""
        streams = list(self.outputs.values())
        return Handover(
            self.id, self.pid, self.start_time, self.directory, self.tty, self.log, streams, self.stdin >= 0
        )

    def descriptors(self) -> Descriptors:
        """Its descriptors by the names of `Handover.names`."""
        if self.tty:
            return {"process": self.pidfd, **({"terminal": self.stdin} if self.stdin >= 0 else {})}
        fds = [self.pidfd, *self.outputs, *([self.stdin] if self.stdin >= 0 else [])]
        return dict(zip(self.handover().names(), fds, strict=True))

    @classmethod
    def adopted(cls, found: Handover, fds: Descriptors) -> Task:
        """A task from handover() and descriptors(), which are its own from now on."""
        outputs = [fds["terminal"]] if found.tty and found.streams else [*fds.values()][1 : 1 + len(found.streams)]
        return cls(
            found.id, found.pid, fds["process"], found.start_time, found.directory, found.tty,
            fds.get("terminal", -1) if found.tty else fds.get("stdin", -1),
            dict(zip(outputs, found.streams, strict=True)), log=found.log,
        )  # fmt: skip

    def open_log(self) -> None:
        """Begins, or goes on, to write its log."""
        if self.directory:
            self.writer = logs.Writer(f"{self.directory}/log", self.log.max_size, self.log.max_files)

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
