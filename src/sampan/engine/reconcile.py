"""Records, keeper and kernel brought in line, both ways: after a start of the daemon and after the death of a keeper.

What a record calls running and does not run gets its end; what runs and no record knows is ended and named. A process is
known by pid and start time. Nothing here waits for clients, and all of it may be cut short and done again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time

import msgspec

from sampan.engine import log_options
from sampan.engine.container import Container
from sampan.engine.containers import Containers
from sampan.engine.ends import UNKNOWN
from sampan.engine.events import Events
from sampan.engine.identity import Identity
from sampan.engine.keeper_link import Call, KeeperLink
from sampan.engine.model import Status
from sampan.engine.process import Exit
from sampan.engine.runs import Runs
from sampan.keeper import protocol
from sampan.keeper.protocol import Handover, Started
from sampan.linux import pidfd
from sampan.linux.cgroup import Cgroup
from sampan.linux.files import regular
from sampan.runtime.errors import RuntimeFailure

_log = logging.getLogger(__name__)

_KILLED = int(signal.SIGKILL)  # a wait status
_ID = 64  # letters of an id
_END = 10.0  # seconds that a process may take to end after SIGKILL


class _ExitRecord(msgspec.Struct):
    """exit.json, as the keeper writes it (keeper/exits)."""

    start_time: int
    status: int
    time: int


class Reconciliation:
    """Brings records in line with a keeper."""

    def __init__(
        self, containers: Containers, runs: Runs, events: Events, identity: Identity, keeper: KeeperLink
    ) -> None:
        self._containers, self._runs, self._events = containers, runs, events
        self._identity, self._keeper = identity, keeper

    async def agree(self, call: Call) -> None:
        """Brings all in line with a keeper that has just been connected to. Raises KeeperGone when that ends meanwhile.

        Whatever it started or saw the end of before is in its list or has an exit record; of all later ends it tells us.
        """
        tasks = {task.id: task for task in (await call(protocol.List())).tasks}
        for container in list(self._containers.values()):
            if container.running and await self._take_up(call, container, tasks.get(container.id)):
                tasks.pop(container.id, None)
        killed: dict[str, Exit | None] = {}
        for task in tasks.values():
            container_ = self._containers.get(task.id)
            if not (
                (container_ is not None and (container_.running or container_.broken or _under_way(container_)))
                or self._keeper.has(task.id)
            ):
                killed[task.id] = await self._end_stranger(call, task)
        groups = {self._identity.group: set(Cgroup(self._identity.group).children())}
        for container in list(self._containers.values()):
            parent, name = os.path.split(container.cgroup)
            if parent not in groups:
                groups[parent] = set(Cgroup(parent).children())
            if not container.running and not container.broken and not container.lock.locked():
                group = Cgroup(container.cgroup) if name in groups[parent] else None
                await self._put_right(container, group, killed.get(container.id))
        for name in groups[self._identity.group]:
            if len(name) == _ID and name not in self._containers and not self._keeper.has(name):
                await asyncio.to_thread(_end_group, Cgroup(f"{self._identity.group}/{name}"))

    async def _take_up(self, call: Call, container: Container, task: Handover | None) -> bool:
        """A container whose record says that it runs. Returns whether the keeper's task is it."""
        if task is not None and task.start_time == container.start_time and await self._hold(call, container):
            return True
        exit = self._keeper.unclaimed(container.id, container.start_time) or self._exit_record(container)
        if exit is not None:
            self._end(container, exit)
            return False
        if container.process is None:
            # In a copy of another engine's data root the process is that engine's.
            descriptor = None if self._identity.copied else _open_process(container)
            if descriptor is None:
                container.state.error = "the host or the keeper stopped while the container ran: exit code unknown"
                self._runs.ended(container, Exit(UNKNOWN, 0))
                return False
            # Its pipes went with the keeper that had them; its end at least is seen.
            self._known(container, Started(self._without_streams(container), {"process": descriptor}))
        assert container.process is not None
        try:
            await call(protocol.Adopt(container.process.handover, container.process.descriptors))
        except RuntimeFailure as error:
            _log.error(f"container {container.name} is not supervised: {error}")
        return False

    async def _hold(self, call: Call, container: Container) -> bool:
        """Has copies of a container's descriptors; False when it has ended since."""
        if container.process is None:
            try:
                started = await call(protocol.Hold(container.id))
            except RuntimeFailure:
                return False
            self._known(container, started)
        return True

    def _known(self, container: Container, started: Started) -> None:
        container.process = self._keeper.process(started)
        self._runs.watch(container, container.process)

    def _end(self, container: Container, exit: Exit) -> None:
        process = container.process
        self._runs.ended(container, exit)
        if process is not None:
            self._keeper.conclude(process, exit)

    def _without_streams(self, container: Container) -> Handover:
        directory, log = self._containers.directory(container), log_options.kept(container)
        return Handover(container.id, container.state.pid, container.start_time, directory, False, log, [], False)

    def _exit_record(self, container: Container) -> Exit | None:
        """How this run ended, if a keeper has seen that."""
        try:
            with open(f"{self._containers.directory(container)}/exit.json", "rb", opener=regular) as file:
                found = msgspec.json.decode(file.read(), type=_ExitRecord)
        except (OSError, ValueError, RecursionError):
            return None
        return Exit(found.status, found.time) if found.start_time == container.start_time else None

    async def _end_stranger(self, call: Call, task: Handover) -> Exit | None:
        """Ends what a daemon that is dead had begun to start, or to remove, and did not record; how it ended, if we ended it."""
        identifier, container = task.id, self._containers.get(task.id)
        name = container.name if container is not None else identifier[:12]
        _log.warning(f"{name} runs although no record says so: process {task.pid} is ended")
        try:
            fds = (await call(protocol.Hold(identifier))).descriptors
        except RuntimeFailure:
            return None  # it has ended
        try:
            signal.pidfd_send_signal(fds["process"], signal.SIGKILL)
        except ProcessLookupError:
            pass
        finally:
            for fd in fds.values():
                os.close(fd)
        if container is None or not container.starting:  # whose end is told with its record
            self._events.publish("container", "die", identifier, {"name": name, "exitCode": "137"})
        deadline = time.monotonic() + _END
        while time.monotonic() < deadline:
            if all(other.id != identifier for other in (await call(protocol.List())).tasks):
                return Exit(_KILLED, time.time_ns())
            await asyncio.sleep(0.01)
        _log.error(f"process {task.pid} of {name} does not end")
        return None

    async def _put_right(self, container: Container, group: Cgroup | None, killed: Exit | None) -> None:
        """A container that does not run: nothing of it does, and it has what it needs to be started."""
        if group is not None:
            if group.pids():
                _log.warning(f"{container.name} has processes although it does not run: they are ended")
                await asyncio.to_thread(group.end)
            container.to_clear = group
            self._runs.clear_up(container)
        if container.starting:
            self._start_was_cut(container, killed or self._keeper.unclaimed(container.id) or Exit(UNKNOWN, 0))

    def _start_was_cut(self, container: Container, exit: Exit) -> None:
        """Nobody knows whether its client was told that it runs, so it has run: its policy says what follows."""
        if not container.state.started_at or container.state.status != "created":
            container.state.started_at = time.time_ns()
        container.state.error = "the engine stopped while the container was being started"
        container.start_time = 0
        container.state.status = Status.RUNNING
        self._events.announce(container, "start")
        self._runs.ended(container, exit)


def _under_way(container: Container) -> bool:
    """Whether we are starting it, as opposed to a daemon that is dead."""
    return container.starting and container.lock.locked()


def _open_process(container: Container) -> int | None:
    """A pidfd of it, if it lives."""
    process = pidfd.open_if_same(container.state.pid, container.start_time)
    if process is not None and pidfd.state(container.state.pid) in (None, "Z", "X"):
        os.close(process)
        return None
    return process


def _end_group(group: Cgroup) -> None:
    """A control group of ours that belongs to nothing we know: of a build's step, or of a container that was being removed."""
    if pids := group.pids():
        _log.warning(f"{group.path} has processes {pids} that no record knows: they are ended")
        group.end()
    try:
        group.remove()
    except OSError as error:
        _log.error(str(error))
