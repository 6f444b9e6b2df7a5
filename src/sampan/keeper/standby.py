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
from sampan.keeper.tasks import Task, close
from sampan.linux import descriptors, pidfd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_MAX_MESSAGE = 64 << 10
_MAX_FDS = 16
_PAUSE_MS = (
    20  # before messages are read: a start, and the end that soon follows, then cost one look and none of their time
)


class Estate:
    """What a keeper leaves: its tasks with their descriptors, ends that nobody has acknowledged, processes being set up."""

    def __init__(self) -> None:
        self.tasks: dict[str, tuple[dict[str, Any], list[int]]] = {}
        self.ends: dict[str, tuple[dict[str, Any], str]] = {}
        self.begun: dict[int, str] = {}
        self.dying: set[int] = set()

    def note(self, message: dict[str, Any], fds: list[int]) -> None:
        """Follows what the keeper does."""
        kind, value = message["is"], message["value"]
        if kind == "begun":
            self.begun[value] = message["id"]
        elif kind == "kept":
            self.begun.pop(value["pid"], None)
            self.dying.discard(value["pid"])
            self.drop(value["id"])
            self.tasks[value["id"]] = (value, fds)
            return
        elif kind == "stdin closed" and value in self.tasks:
            record, mine = self.tasks[value]
            if record["has_stdin"] and not record["tty"]:
                close(mine.pop())
                record["has_stdin"] = False
        elif kind == "ended":
            directory = self.tasks[value["id"]][0]["directory"] if value["id"] in self.tasks else ""
            self.ends[message["key"]] = (value, directory)
            self.drop(value["id"])
        elif kind == "acknowledged":
            self.ends.pop(value, None)
        elif kind == "over":
            self.begun.pop(value, None)
            self.dying.add(value)
        for fd in fds:
            close(fd)

    def drop(self, identifier: str) -> None:
        """Closes a task's descriptors."""
        _, fds = self.tasks.pop(identifier, ({}, []))
        for fd in fds:
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
        known = {keeper, *self.begun, *(record["pid"] for record, _ in self.tasks.values())}
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

    def tell(self, kind: str, value: Any, fds: list[int] | None = None, **more: str) -> None:
        """Sends one message, with copies of `fds`."""
        data = quickjson.dumps({"is": kind, "value": value, **more}).encode()
        if self._queue or not self._send(data, fds or []):
            self._queue.append((data, [os.dup(fd) for fd in fds or []]))

    def ring(self) -> None:
        """What was told last can't wait."""
        os.eventfd_write(self._bell, 1)

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
    found = [Task.adopted(record, fds) for record, fds in estate.tasks.values()]
    estate.tasks.clear()
    return found
