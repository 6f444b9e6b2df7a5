"""The processes that a keeper is setting up, and the connections that wait for them."""

from __future__ import annotations

import os
import socket

from sampan.keeper import exits, logs
from sampan.keeper.tasks import Task, kill
from sampan.linux import pidfd, polling
from sampan.record import record
from sampan.runtime import spawn
from sampan.runtime.errors import RuntimeFailure
from sampan.runtime.setup import Setup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.keeper.connection import Connection
    from sampan.keeper.standby import Estate
    from sampan.keeper.watching import Watching
    from sampan.linux.eventloop import Loop


@record
class Making:
    """A process that is being set up, and the request that wants it."""

    setup: Setup
    task: Task
    client: Connection
    sequence: int


class Setups:
    """All of one keeper, by the id of what they are to become."""

    def __init__(self, loop: Loop, tasks: Watching) -> None:
        self._loop, self._tasks = loop, tasks
        self._making: dict[str, Making] = {}

    def __contains__(self, identifier: str) -> bool:
        return identifier in self._making

    def __len__(self) -> int:
        return len(self._making)

    @property
    def moving(self) -> bool:
        """Whether one of them may have made a child of ours that we do not know yet."""
        return any(making.setup.child.moving for making in self._making.values())

    def pids(self) -> set[int]:
        """Our children among them."""
        return {making.task.pid for making in self._making.values()}

    def begin(self, client: Connection, sequence: int, child: spawn.Child, task: Task, warnings: list[str]) -> None:
        """Answers the request when the process runs, or can't. `warnings` there are already."""
        setup = Setup(child)
        setup.warnings = warnings
        making = self._making[task.id] = Making(setup, task, client, sequence)
        if self._tasks.link is not None:
            self._tasks.link.begun(child.pid, task.id)
        # Now, while the child is busy, and not when it has started.
        task.start_time = pidfd.start_time(task.pid) or 0
        task.open_log()
        self._loop.watch(child.channel.fileno(), lambda _: self._report(making))

    def _report(self, making: Making) -> None:
        setup, task = making.setup, making.task
        try:
            over = setup.advance()
        except (OSError, ValueError) as error:  # whoever asked is told; the process is of no use
            kill(setup.child.pidfd)
            setup.failure, over = RuntimeFailure(f"the process could not be followed: {error}"), True
        if setup.child.pid != task.pid:
            self._moved(making)
        if not over:
            return
        self._loop.forget(setup.child.channel.fileno())
        self._loop.forget(task.pidfd)
        setup.child.channel.close()
        if setup.terminal >= 0:
            task.stdin = setup.terminal
            task.outputs = {task.stdin: logs.STDOUT} if task.directory else {}
        if setup.failure is not None:
            self._loop.watch(task.pidfd, lambda _: self._bury(making))
            return
        del self._making[task.id]
        if self._tasks.link is not None:
            self._tasks.link.kept(task)
        answer = {"seq": making.sequence, "warnings": setup.warnings, **task.handover().message()}
        making.client.send(answer, task.descriptors())
        if not making.client.open:
            kill(task.pidfd)  # nobody will know of it
        self._tasks.keep(task)
        if task.directory:
            exits.prepare(task.directory)

    def _moved(self, making: Making) -> None:
        """A process has made the one that it was to become, in another's pid namespace, where others could keep its channel
        open; its end tells us, too."""
        child, task = making.setup.child, making.task
        if self._tasks.link is not None:
            self._tasks.link.begun(child.pid, task.id)
            self._tasks.link.over(task.pid)
        task.pid, task.pidfd = child.pid, child.pidfd
        task.start_time = pidfd.start_time(task.pid) or 0

        def ended(_: int) -> None:
            if not polling.readable(child.channel.fileno()):
                child.channel.shutdown(socket.SHUT_RD)
            self._report(making)

        self._loop.watch(task.pidfd, ended)

    def _bury(self, making: Making) -> None:
        """A process that could not be set up has ended."""
        task, failure = making.task, making.setup.failure
        assert failure is not None
        del self._making[task.id]
        self._tasks.reap(task.pid)
        if self._tasks.link is not None:
            self._tasks.link.over(task.pid)
        self._tasks.release(task)
        making.client.send({"seq": making.sequence, "error": str(failure), "failure": failure.kind})

    def abandon(self, identifier: str) -> None:
        """Ends one that nobody waits for any more."""
        if identifier in self._making:
            kill(self._making[identifier].setup.child.pidfd)

    def desert(self, client: Connection) -> None:
        """Ends all that a connection wanted that is gone."""
        for making in self._making.values():
            if making.client is client:
                kill(making.setup.child.pidfd)

    def leave(self, estate: Estate) -> None:
        """In a keeper whose copy goes on with them."""
        for making in self._making.values():
            estate.begun[making.setup.child.pid] = making.task.id
            making.setup.child.channel.close()
            if making.setup.terminal >= 0:
                os.close(making.setup.terminal)
            making.task.close()
