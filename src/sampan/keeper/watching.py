"""The processes that run: their output is logged, their ends are recorded and told."""

from __future__ import annotations

import os
import time

from sampan.keeper.protocol import End
from sampan.keeper.tasks import UNKNOWN_STATUS, Task
from sampan.linux import polling
from sampan.runtime.errors import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sampan.keeper.exits import Exits
    from sampan.keeper.standby import Estate, Link
    from sampan.linux.eventloop import Loop

_STATUS_PATIENCE, _STATUS_POLL = 1.0, 0.02
_LAST_READS = 256  # of what a process has written before it ended: a pipe's worth, whatever comes after


class Watching:
    """All of one keeper, by id. `announce` tells sampand of an end, `link` the standby of everything."""

    def __init__(self, loop: Loop, exits: Exits, announce: Callable[[End], None]) -> None:
        self._loop, self._exits, self._announce = loop, exits, announce
        self._tasks: dict[str, Task] = {}
        self._ended: dict[str, tuple[Task, float]] = {}  # whose status is not known yet, since when
        self.link: Link | None = None

    def __contains__(self, identifier: str) -> bool:
        return identifier in self._tasks

    def __len__(self) -> int:
        return len(self._tasks)

    def all(self) -> list[Task]:
        """All that run."""
        return list(self._tasks.values())

    def pids(self) -> set[int]:
        """Their processes."""
        return {task.pid for task in self._tasks.values()}

    def get(self, identifier: str) -> Task:
        """Raises RuntimeFailure when there is none of that id."""
        task = self._tasks.get(identifier)
        if task is None:
            raise RuntimeFailure(f"no running task {identifier}")
        return task

    @property
    def patience(self) -> float:
        """Seconds that one may wait for events before look_again()."""
        return _STATUS_POLL if self._ended else 60.0

    def keep(self, task: Task) -> None:
        """Looks after a process from now on."""
        self._tasks[task.id] = task
        for fd, stream in task.outputs.items():
            os.set_blocking(fd, False)
            self._loop.watch(fd, lambda events, fd=fd, stream=stream: self._output(task, fd, stream))  # type: ignore[misc]
        self._loop.watch(task.pidfd, lambda _: self._exited(task))

    def close_stdin(self, identifier: str) -> None:
        """Closes a standard input that is no terminal."""
        task = self.get(identifier)
        if not task.tty and task.stdin >= 0:
            os.close(task.stdin)
            task.stdin = -1
            if self.link is not None:
                self.link.stdin_closed(task.id)

    def _output(self, task: Task, fd: int, stream: int) -> None:
        if not task.take(fd, stream):
            self._loop.forget(fd)

    def _exited(self, task: Task) -> None:
        self._loop.forget(task.pidfd)
        for fd, stream in list(task.outputs.items()):
            for _ in range(_LAST_READS):
                if not self._loop.watches(fd) or not polling.readable(fd):
                    break
                self._output(task, fd, stream)
        self._ended[task.id] = (task, time.monotonic())
        self.look_again()

    def look_again(self) -> None:
        """Finishes those that have ended, once their status is known or it is clear that it will not be."""
        for task, since in list(self._ended.values()):
            status = task.status()
            if status is None and time.monotonic() - since > _STATUS_PATIENCE:
                status = UNKNOWN_STATUS
            if status is not None:
                del self._ended[task.id]
                self._finish(task, status)

    def _finish(self, task: Task, status: int) -> None:
        """Told in this order, so that an end is known to somebody at every moment: the standby, the disk, sampand; then
        the zombie goes, which is the last to know."""
        end = End(task.id, status, time.time_ns(), task.start_time)
        if self.link is not None:
            self.link.ended(end)
        self._exits.add(end, task.directory)
        self._tasks.pop(task.id, None)
        self._announce(end)
        self.release(task)
        if not self.reap(task.pid) and self.link is not None:
            self.link.over(task.pid)

    def reap(self, pid: int) -> bool:
        """Takes a zombie, if it is our child."""
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            return False
        return True

    def release(self, task: Task) -> None:
        """Closes all that it has."""
        for fd in {task.pidfd, task.stdin, *task.outputs} - {-1}:
            self._loop.forget(fd)
        task.close()

    def leave(self, estate: Estate) -> None:
        """In a keeper whose copy goes on with them."""
        for task in self._tasks.values():
            estate.tasks[task.id] = (task.handover(), task.descriptors())
            if task.writer:
                task.writer.close()
