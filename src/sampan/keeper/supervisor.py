"""The keeper: requests in, processes cloned, output logged, ends recorded and announced."""

from __future__ import annotations

import os
import socket
import time

from sampan.keeper import exits, logs, roots, spares
from sampan.keeper.connection import Connection
from sampan.keeper.standby import Estate, Link, tasks_of
from sampan.keeper.tasks import UNKNOWN_STATUS, Pipes, Task, close, kill
from sampan.linux import pidfd, polling, tty
from sampan.linux.eventloop import Loop
from sampan.record import record
from sampan.runtime import spawn
from sampan.runtime.errors import RuntimeFailure, kind_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_IDLE_SECONDS = 10.0
_STRAYS_SECONDS = 1.0
_STATUS_PATIENCE, _STATUS_POLL = 1.0, 0.02
_LAST_READS = 256  # of what a process has written before it ended: a pipe's worth, whatever comes after


@record
class Making:
    """A process that is being set up, and who wants it."""

    child: spawn.Child
    task: Task
    client: Connection


class Supervisor:
    """Holds all tasks and connections of one keeper process."""

    def __init__(self, listener: socket.socket, estate: Estate) -> None:
        self._listener = listener
        self._loop = Loop(tolerant=True)
        self._tasks: dict[str, Task] = {}
        self._making: dict[str, Making] = {}
        self._ended: dict[str, tuple[Task, float]] = {}  # whose status is not known yet, since when
        self._connections: list[Connection] = []
        self._stopping = self._alone = False
        self._ahead = roots.Ahead()
        self._spares = spares.Spares(os.path.dirname(listener.getsockname()))
        self._exits = exits.Exits()
        self._link: Link | None = None
        listener.setblocking(False)
        self._loop.watch(listener.fileno(), lambda _: self._accept())
        for found, directory in estate.ends.values():
            self._exits.add(found, directory)
        for task in tasks_of(estate):
            task.open_log()
            self._keep(task)

    def join(self, link: Link) -> None:
        """Tells this standby everything from now on; what has been so far it has from its own estate."""
        self._link, self._alone = link, False
        self._loop.watch(link.fileno(), lambda _: self._lost_standby())

    def _lost_standby(self) -> None:
        assert self._link is not None
        self._loop.forget(self._link.fileno())
        self._link.close()
        self._link, self._alone = None, True

    def renew(self) -> None:
        """In a copy of a keeper, made by fork(2): it goes on here."""
        self._loop.renew()

    def leave(self) -> Estate:
        """In a keeper whose copy goes on: lets go of everything but what a standby has."""
        estate = Estate()
        for task in self._tasks.values():
            estate.tasks[task.id] = (task.record(), task.descriptors())
            if task.writer:
                task.writer.close()
        for making in self._making.values():
            estate.begun[making.child.pid] = making.task.id
            making.child.channel.close()
            making.task.close()
        for found in self._exits.all():
            estate.ends[exits.Exits.key(found)] = (found, "")
        self._loop.close()
        for connection in list(self._connections):
            connection.leave()
        self._ahead.close()
        return estate

    def run(self) -> bool:
        """Serves until told to stop, or until there has been nothing to keep for a while: True. False: the standby has gone."""
        idle_since = reaped = time.monotonic()
        while not self._stopping and not self._alone:
            patience = self._spares.patience
            if self._ended:
                patience = min(patience, _STATUS_POLL)
            if self._link is not None:
                patience = min(patience, self._link.flush())
            ready = self._loop.turn(patience)
            if self._ended:
                self._look_again()
            self._exits.tick()
            if not ready:
                self._spares.refill()
                self._ahead.expire()
            now = time.monotonic()
            if now - reaped > _STRAYS_SECONDS:
                pidfd.reap_strays(self._known())
                reaped = now
            if self._tasks or self._making or self._connections or self._exits.must_stay:
                idle_since = now
            elif now - idle_since > _IDLE_SECONDS:
                break
        self._spares.end()
        if not self._alone:
            self._ahead.close()
        return not self._alone

    def _known(self) -> set[int]:
        """Our children whose ends somebody waits for."""
        mine = [*self._tasks.values(), *(making.task for making in self._making.values())]
        return {*self._spares.pids, *(task.pid for task in mine)}

    def _tell(self, kind: str, value: Any, fds: list[int] | None = None, **more: str) -> None:
        if self._link is not None:
            self._link.tell(kind, value, fds, **more)

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:
            return
        self._connections.append(Connection(self._loop, sock, self._handle, self._gone))

    def _gone(self, client: Connection) -> None:
        """Nobody waits any more for what this one wanted made."""
        self._connections.remove(client)
        for making in self._making.values():
            if making.client is client:
                kill(making.child.pidfd)

    def _announce(self, message: dict[str, Any]) -> None:
        for connection in list(self._connections):
            connection.send(dict(message))

    def _handle(self, client: Connection, message: dict[str, Any], fds: list[int]) -> None:
        sequence = message.get("seq")
        operation = getattr(self, f"_op_{message.get('op')}", None)
        try:
            if type(sequence) is not int or operation is None:
                raise RuntimeFailure(f"no keeper operation: {str(message.get('op'))[:80]}")
            if len(fds) < message.get("fds", 0):
                raise RuntimeFailure("the keeper has no room for more descriptors")
            operation(client, message, fds)
        except Exception as error:
            text = f"the request lacks {error}" if isinstance(error, KeyError) else str(error) or repr(error)
            client.send({"seq": sequence, "error": text, "failure": kind_of(error)})
            if type(sequence) is not int:
                client.close()
        for fd in fds:
            close(fd)

    def _op_ping(self, client: Connection, message: dict[str, Any], fds: list[int]) -> None:
        client.send({"seq": message["seq"], "pid": os.getpid()})

    def _op_prepare(self, client: Connection, message: dict[str, Any], fds: list[int]) -> None:
        """Has a spare ready, in the network namespace that comes along if a sandbox is named.

        With `request`: for containers like that one; without, for containers like the last.
        """
        if message.get("request"):
            self._spares.expect(message["request"])
        self._spares.want(message["sandbox"], fds.pop() if message["sandbox"] else -1)
        client.send({"seq": message["seq"]})

    def _op_mount(self, client: Connection, message: dict[str, Any], fds: list[int]) -> None:
        """Mounts a container's root ahead of its start."""
        self._ahead.mount(message["id"], message["overlay"])
        client.send({"seq": message["seq"]})

    def _op_unmount(self, client: Connection, message: dict[str, Any], fds: list[int]) -> None:
        """Lets go of a root that was mounted ahead: somebody else is to write into it."""
        self._ahead.drop(message["id"])
        client.send({"seq": message["seq"]})

    def _op_stop(self, client: Connection, message: dict[str, Any], fds: list[int]) -> None:
        self._stopping = not self._tasks and not self._making and not self._exits.must_stay
        client.send({"seq": message["seq"], "stopping": self._stopping})

    def _op_list(self, client: Connection, message: dict[str, Any], fds: list[int]) -> None:
        """What runs: containers with a directory, "others" without; and the ends that nobody has acknowledged."""
        found = [task.record() for task in self._tasks.values()]
        client.send({
            "seq": message["seq"],
            "tasks": [task for task in found if task["directory"]],
            "others": [task for task in found if not task["directory"]],
            "ended": self._exits.all(),
        })  # fmt: skip

    def _op_acknowledge(self, client: Connection, message: dict[str, Any], fds: list[int]) -> None:
        """Ends that somebody has recorded, so that the keeper can forget them."""
        for key in message["keys"]:
            self._exits.acknowledge(key)
            self._tell("acknowledged", key)
        client.send({"seq": message["seq"]})

    def _op_abandon(self, client: Connection, message: dict[str, Any], fds: list[int]) -> None:
        """Ends what is being set up and nobody waits for any more."""
        making = self._making.get(message["id"])
        if making is not None:
            kill(making.child.pidfd)
        client.send({"seq": message["seq"]})

    def _op_hold(self, client: Connection, message: dict[str, Any], fds: list[int]) -> None:
        """Copies a task's descriptors to the caller: pidfd, outputs, stdin."""
        task = self._task(message)
        client.send({"seq": message["seq"], **task.record()}, task.descriptors())

    def _op_adopt(self, client: Connection, message: dict[str, Any], fds: list[int]) -> None:
        """Takes over a task whose keeper died with its standby: the descriptors that sampand kept, in hold's order."""
        if message["id"] in self._tasks:
            raise RuntimeFailure(f"task {message['id']} is here already")
        task = Task.adopted(message, list(fds))
        fds.clear()
        task.open_log()
        self._keep(task)
        client.send({"seq": message["seq"]})

    def _op_start(self, client: Connection, message: dict[str, Any], fds: list[int]) -> None:
        self._check_new(message["id"])
        request = message["request"]
        request["mounted"] = self._ahead.take(message["id"], request.get("overlay"))
        if "root_fd" in request:
            request["mounted"] = os.dup(fds[request.pop("root_fd")])
        for entry in request["spec"]["linux"]["namespaces"]:
            if entry.get("path", "").startswith("@"):
                entry["path"] = f"/proc/self/fd/{fds[int(entry['path'][1:])]}"
        if "sources" in request:
            request["sources"] = fds[request["sources"]]
        terminal = bool(request["spec"]["process"].get("terminal"))
        pipes = Pipes.make(message["stdin"]) if not terminal else None
        try:
            theirs = pipes.theirs if pipes else None
            child = (
                spawn.start_entry(request, theirs, fds) if "entry" in request else self._spares.start(request, theirs)
            )
        except BaseException:
            if pipes:
                pipes.close()
            raise
        finally:
            close(request.pop("mounted", -1))
        task = Task(message["id"], child.pid, child.pidfd, 0, message["directory"], terminal, held=child.held)
        task.log = message["log"]
        if pipes:
            pipes.close_theirs()
            task.stdin, task.outputs = pipes.stdin, {pipes.stdout: logs.STDOUT, pipes.stderr: logs.STDERR}
        self._await_child(client, message["seq"], child, task, request.get("warnings") or [])

    def _op_exec(self, client: Connection, message: dict[str, Any], fds: list[int]) -> None:
        self._check_new(message["id"])
        request = message["request"]
        terminal = bool(request["process"].get("terminal"))
        stdio = None if terminal else (fds[0], fds[1], fds[2])
        child = spawn.start_entry(request, stdio, fds[3:]) if "entry" in request else spawn.join(request, stdio)
        task = Task(message["id"], child.pid, child.pidfd, 0, tty=terminal)
        self._await_child(client, message["seq"], child, task, [])

    def _check_new(self, identifier: str) -> None:
        if identifier in self._tasks:
            raise RuntimeFailure(f"container {identifier} is already running")
        if identifier in self._making:
            raise RuntimeFailure(f"container {identifier} is being started")

    def _op_stdin(self, client: Connection, message: dict[str, Any], fds: list[int]) -> None:
        task = self._task(message)
        if task.stdin < 0:
            raise RuntimeFailure(f"stdin of {task.id} is closed")
        client.send({"seq": message["seq"]}, [task.stdin])

    def _op_close_stdin(self, client: Connection, message: dict[str, Any], fds: list[int]) -> None:
        task = self._task(message)
        if not task.tty and task.stdin >= 0:
            os.close(task.stdin)
            task.stdin = -1
            self._tell("stdin closed", task.id)
            if self._link is not None:
                self._link.ring()  # or whoever reads waits for the copy to be closed as well
        client.send({"seq": message["seq"]})

    def _op_resize(self, client: Connection, message: dict[str, Any], fds: list[int]) -> None:
        task = self._task(message)
        if task.tty and task.stdin >= 0:
            tty.set_size(task.stdin, message["rows"], message["columns"])
        client.send({"seq": message["seq"]})

    def _task(self, message: dict[str, Any]) -> Task:
        task = self._tasks.get(message["id"])
        if task is None:
            raise RuntimeFailure(f"no running task {message['id']}")
        return task

    def _await_child(
        self, client: Connection, sequence: int, child: spawn.Child, task: Task, warnings: list[str]
    ) -> None:
        self._making[task.id] = Making(child, task, client)
        self._tell("begun", child.pid, id=task.id)
        # Now, while the child is busy, and not when it has started.
        task.start_time = pidfd.start_time(task.pid) or 0
        task.open_log()

        def report(_: int) -> None:
            message = child.hear()
            if child.pid != task.pid:
                self._moved(task, child, report)
            if message.kind in ("leaving", "moved"):
                return
            if message.kind == "tty":
                if not task.tty or task.stdin >= 0:  # it has one
                    close(message.fds[0])
                    return
                task.stdin = message.fds[0]
                if task.directory:
                    task.outputs = {task.stdin: logs.STDOUT}
                return
            if message.kind == "warning":
                warnings[63:] = [message.text]  # it may go on and on
                return
            self._loop.forget(child.channel.fileno())
            self._loop.forget(task.pidfd)
            child.channel.close()
            if message.kind == "error":
                reply = {"seq": sequence, "error": message.text, "failure": message.failure}
                self._loop.watch(task.pidfd, lambda _: self._buried(task, client, reply))
                return
            self._making.pop(task.id)
            self._tell("kept", task.record(), task.descriptors())
            client.send({"seq": sequence, "warnings": warnings, **task.record()}, task.descriptors())
            if not client.open:
                kill(task.pidfd)  # nobody will know of it
            self._keep(task)
            if task.directory:
                exits.prepare(task.directory)

        self._loop.watch(child.channel.fileno(), report)

    def _moved(self, task: Task, child: spawn.Child, report: Callable[[int], None]) -> None:
        """A process has made the one that it was to become, in another's pid namespace, where others could keep its channel
        open; its end tells us, too."""
        self._tell("begun", child.pid, id=task.id)
        self._tell("over", task.pid)
        task.pid, task.pidfd = child.pid, child.pidfd
        task.start_time = pidfd.start_time(task.pid) or 0

        def ended(_: int) -> None:
            if not polling.readable(child.channel.fileno()):
                child.channel.shutdown(socket.SHUT_RD)
            report(0)

        self._loop.watch(task.pidfd, ended)

    def _buried(self, task: Task, client: Connection, reply: dict[str, Any]) -> None:
        """A process that could not be set up has ended."""
        self._making.pop(task.id)
        self._reap(task.pid)
        self._tell("over", task.pid)
        self._release(task)
        client.send(reply)

    def _reap(self, pid: int) -> bool:
        """Takes a zombie, if it is our child."""
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            return False
        return True

    def _keep(self, task: Task) -> None:
        self._tasks[task.id] = task
        for fd, stream in task.outputs.items():
            os.set_blocking(fd, False)
            self._loop.watch(fd, lambda events, fd=fd, stream=stream: self._output(task, fd, stream))  # type: ignore[misc]
        self._loop.watch(task.pidfd, lambda _: self._exited(task))

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
        self._look_again()

    def _look_again(self) -> None:
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
        found = {"id": task.id, "status": status, "time": time.time_ns(), "start_time": task.start_time}
        key = exits.Exits.key(found)
        self._tell("ended", found, key=key)
        self._exits.add(found, task.directory)
        self._tasks.pop(task.id, None)
        self._announce({"event": "exit", "key": key, **found})
        self._release(task)
        if not self._reap(task.pid):
            self._tell("over", task.pid)

    def _release(self, task: Task) -> None:
        for fd in {task.pidfd, task.stdin, *task.outputs} - {-1}:
            self._loop.forget(fd)
        task.close()
