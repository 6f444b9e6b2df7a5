"""The standby: a process that has a copy of everything the keeper holds, and makes another keeper when that one dies.

It is the keeper's parent, and a subreaper: when the keeper dies, the containers become the standby's children, so that
their exit codes are there to be read; it makes the next keeper by fork(2), which has the copies then. When the standby
dies, the keeper makes another by fork as well and leaves its work to the child. So the two have the same program, and
what is between them is one socket (`Link`), on which the keeper writes and never waits.
"""

from __future__ import annotations

import os
import select
import signal
import socket
from collections import deque

from sampan import quickjson
from sampan.keeper import protocol
from sampan.keeper.tasks import Task, close
from sampan.linux import descriptors, pidfd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.keeper.fields import Message
    from sampan.keeper.protocol import Descriptors, End, Handover

_MAX_MESSAGE = 64 << 10
_MAX_FDS = 16
_PAUSE_MS = (
    20  # before messages are read: a start, and the end that soon follows, then cost one look and none of their time
)


class Estate:
    """What a keeper leaves: its tasks with their descriptors, ends that nobody has acknowledged, processes being set up."""

    def __init__(self) -> None:
        self.tasks: dict[str, tuple[Handover, Descriptors]] = {}
        self.ends: dict[str, tuple[End, str]] = {}  # by key: and the directory of the container
        self.begun: dict[int, str] = {}
        self.dying: set[int] = set()

    def note(self, message: Message, fds: list[int]) -> None:
        """Follows what the keeper does, as its `Link` tells it."""
        kind = message["is"]
        if kind == "kept":
            task = protocol.read_task(message)
            self.begun.pop(task.pid, None)
            self.dying.discard(task.pid)
            self.drop(task.id)
            self.tasks[task.id] = (task, dict(zip(task.names(), fds, strict=True)))
            return
        if kind == "begun":
            self.begun[message["pid"]] = message["id"]
        elif kind == "stdin closed" and message["id"] in self.tasks:
            task, mine = self.tasks[message["id"]]
            if task.has_stdin and not task.tty:
                close(mine.pop("stdin"))
                task.has_stdin = False
        elif kind == "ended":
            end = protocol.read_end(message)
            directory = self.tasks[end.id][0].directory if end.id in self.tasks else ""
            self.ends[end.key] = (end, directory)
            self.drop(end.id)
        elif kind == "acknowledged":
            self.ends.pop(message["key"], None)
        elif kind == "over":
            self.begun.pop(message["pid"], None)
            self.dying.add(message["pid"])
        for fd in fds:
            close(fd)

    def drop(self, identifier: str) -> None:
        """Closes a task's descriptors."""
        if identifier in self.tasks:
            for fd in self.tasks.pop(identifier)[1].values():
                close(fd)

    def reap(self) -> None:
        """Takes the zombies of those who have ended, if they are our children."""
        for pid in list(self.dying):
            try:
                if os.waitpid(pid, os.WNOHANG)[0]:
                    self.dying.discard(pid)
            except ChildProcessError:
                self.dying.discard(pid)

    def end_half_made(self) -> None:
        """The keeper is dead: what it was setting up must not become a container that nobody knows."""
        for pid in self.begun:
            try:
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)  # only if it is our child
                os.kill(pid, signal.SIGKILL)
                self.dying.add(pid)
            except (ChildProcessError, ProcessLookupError):
                continue
        self.begun.clear()

    def watch_strays(self, keeper: int) -> None:
        """Children that are nobody's task, of a keeper that has died or of a container without a pid namespace: their zombies are ours."""
        known = {keeper, *self.begun, *(task.pid for task, _ in self.tasks.values())}
        self.dying.update(pid for pid in pidfd.children() if pid not in known)


def watch(link: socket.socket, bell: int, keeper: int, estate: Estate) -> bool:
    """The standby's life: notes what the keeper tells until that has ended. Whether it ended of itself, with nothing left.

    `bell`: an eventfd that the keeper writes to when something can't wait.
    """
    descriptor = os.pidfd_open(keeper)
    poll, ended = select.poll(), select.poll()
    poll.register(link.fileno(), select.POLLIN)
    poll.register(descriptor, select.POLLIN)
    ended.register(descriptor, select.POLLIN)
    ended.register(bell, select.POLLIN)
    listening = True
    estate.watch_strays(keeper)
    while True:
        ready = {fd for fd, _ in poll.poll(1000 if estate.dying else None)}
        if descriptor not in ready and any(fd == bell for fd, _ in ended.poll(_PAUSE_MS)):
            os.eventfd_read(bell)
        if listening and not _drain(link, estate):
            poll.unregister(link.fileno())
            listening = False
        estate.reap()
        if descriptor in ready:
            break
    if listening:
        _drain(link, estate)
    status = os.waitpid(keeper, 0)[1]
    os.close(descriptor)
    link.close()
    estate.end_half_made()
    return status == 0


def _drain(link: socket.socket, estate: Estate) -> bool:
    """Takes in all messages that are there; False at their end."""
    while True:
        try:
            data, fds = descriptors.receive(link, _MAX_MESSAGE, _MAX_FDS, socket.MSG_DONTWAIT)
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:
            return False
        if not data:
            return False
        estate.note(quickjson.loads(data), fds)


class Link:
    """The keeper's end: tells the standby, now or a little later, and knows when there is none any more."""

    def __init__(self, sock: socket.socket, bell: int) -> None:
        sock.setblocking(False)
        self._sock, self._bell = sock, bell
        self._queue: deque[tuple[bytes, list[int]]] = deque()

    def fileno(self) -> int:
        """Readable when the standby has gone."""
        return self._sock.fileno()

    def begun(self, pid: int, identifier: str) -> None:
        """A process is being set up."""
        self._tell({"is": "begun", "pid": pid, "id": identifier})

    def kept(self, task: Task) -> None:
        """It runs, and is looked after."""
        self._tell({"is": "kept", **task.handover().message()}, list(task.descriptors().values()))

    def stdin_closed(self, identifier: str) -> None:
        """Its standard input has been closed, and whoever reads it waits for the copy to be closed as well."""
        self._tell({"is": "stdin closed", "id": identifier})
        os.eventfd_write(self._bell, 1)

    def ended(self, end: End) -> None:
        """It has ended."""
        self._tell({"is": "ended", **vars(end)})

    def acknowledged(self, key: str) -> None:
        """Somebody has recorded that end."""
        self._tell({"is": "acknowledged", "key": key})

    def over(self, pid: int) -> None:
        """A process that was begun or kept has ended, and its zombie is the standby's, if it is its child."""
        self._tell({"is": "over", "pid": pid})

    def _tell(self, message: Message, fds: list[int] | None = None) -> None:
        """Sends one message, with copies of `fds`, now or a little later."""
        data = quickjson.dumps(message).encode()
        if self._queue or not self._send(data, fds or []):
            self._queue.append((data, [os.dup(fd) for fd in fds or []]))

    def _send(self, data: bytes, fds: list[int]) -> bool:
        try:
            socket.send_fds(self._sock, [data], fds) if fds else self._sock.send(data)
        except BlockingIOError:
            return False
        except OSError:
            pass  # it is gone: the loop will see that
        return True

    def flush(self) -> float:
        """Sends what waits; seconds after which to do so again."""
        while self._queue:
            if not self._send(*self._queue[0]):
                return 0.05
            for fd in self._queue.popleft()[1]:
                close(fd)
        return 60.0

    def close(self) -> None:
        """Ends it."""
        for _, fds in self._queue:
            for fd in fds:
                close(fd)
        self._queue.clear()
        self._sock.close()


def tasks_of(estate: Estate) -> list[Task]:
    """The tasks that a keeper takes over; their descriptors are its own from now on."""
    found = [Task.adopted(task, fds) for task, fds in estate.tasks.values()]
    estate.tasks.clear()
    return found
