"""The keeper: requests in, processes cloned, output logged, ends recorded and announced."""

from __future__ import annotations

import os
import socket
import time

from sampan.keeper import envelope, exits, join_pool, logs, prefork_pool, premounted, protocol
from sampan.keeper.connection import Connection
from sampan.keeper.setups import Setups
from sampan.keeper.standby import Estate, Link, tasks_of
from sampan.keeper.tasks import Pipes, Task, close
from sampan.keeper.watching import Watching
from sampan.linux import pidfd, tty
from sampan.linux.eventloop import Loop
from sampan.runtime import spawn
from sampan.runtime.errors import RuntimeFailure, kind_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.keeper.fields import Message
    from sampan.keeper.protocol import Descriptors, End
    from sampan.runtime.requests import Common

_IDLE_SECONDS = 10.0
_STRAYS_SECONDS = 1.0


class Supervisor:
    """One keeper process: its connections, and the requests that come by them."""

    def __init__(self, listener: socket.socket, estate: Estate) -> None:
        self._listener = listener
        self._loop = Loop(tolerant=True)
        self._connections: list[Connection] = []
        self._stopping = self._alone = False
        self._premounted = premounted.PremountedRoot()
        self._preforks = prefork_pool.PreforkPool(os.path.dirname(listener.getsockname()))
        self._joins = join_pool.JoinPool()
        self._exits = exits.Exits()
        self._tasks = Watching(self._loop, self._exits, self._announce)
        self._setups = Setups(self._loop, self._tasks)
        self._link: Link | None = None
        listener.setblocking(False)
        self._loop.watch(listener.fileno(), lambda _: self._accept())
        for end, directory in estate.ends.values():
            self._exits.add(end, directory)
        for task in tasks_of(estate):
            task.open_log()
            self._tasks.keep(task)

    def join(self, link: Link) -> None:
        """Tells this standby everything from now on; what has been so far it has from its own estate."""
        self._link = self._tasks.link = link
        self._alone = False
        self._loop.watch(link.fileno(), lambda _: self._lost_standby())

    def _lost_standby(self) -> None:
        assert self._link is not None
        self._loop.forget(self._link.fileno())
        self._link.close()
        self._link = self._tasks.link = None
        self._alone = True
        self._joins.close()  # its parent will be our standby

    def renew(self) -> None:
        """In a copy of a keeper, made by fork(2): it goes on here."""
        self._loop.renew()

    def leave(self) -> Estate:
        """In a keeper whose copy goes on: lets go of everything but what a standby has."""
        estate = Estate()
        self._tasks.leave(estate)
        self._setups.leave(estate)
        for end in self._exits.all():
            estate.ends[end.key] = (end, "")
        self._loop.close()
        for connection in list(self._connections):
            connection.leave()
        self._premounted.close()
        return estate

    def run(self) -> bool:
        """Serves until told to stop, or until there has been nothing to keep for a while: True. False: the standby has gone."""
        idle_since = reaped = time.monotonic()
        while not self._stopping and not self._alone:
            patience = min(self._preforks.patience, self._joins.patience, self._tasks.patience)
            if self._link is not None:
                patience = min(patience, self._link.flush())
            ready = self._loop.turn(patience)
            self._tasks.look_again()
            self._exits.tick()
            if not ready:
                self._preforks.refill()
                self._joins.refill()
                self._premounted.expire()
            now = time.monotonic()
            if now - reaped > _STRAYS_SECONDS:
                self._reap_strays()
                reaped = now
            if self._busy or self._connections:
                idle_since = now
            elif now - idle_since > _IDLE_SECONDS:
                break
        self._preforks.end()
        self._joins.close()
        if not self._alone:
            self._premounted.close()
        return not self._alone

    def _reap_strays(self) -> None:
        """Takes the zombies that are nobody's; not while one may be that of a process whose pid we have not been told yet."""
        if not self._setups.moving:
            pidfd.reap_strays({*self._preforks.pids, *self._joins.pids, *self._tasks.pids(), *self._setups.pids()})

    @property
    def _busy(self) -> bool:
        """Whether there is something to keep."""
        return bool(self._tasks or self._setups or self._exits.must_stay)

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:
            return
        self._connections.append(Connection(self._loop, sock, self._handle, self._gone))

    def _gone(self, client: Connection) -> None:
        self._connections.remove(client)
        self._setups.desert(client)

    def _announce(self, end: End) -> None:
        for connection in list(self._connections):
            connection.send({"event": "exit", "key": end.key, **vars(end)})

    def _handle(self, client: Connection, message: Message, fds: list[int]) -> None:
        """One request: what can't be done is answered with why, and descriptors that nobody has taken are closed."""
        sequence = message.get("seq")
        descriptors: Descriptors | None = None
        try:
            if type(sequence) is not int:
                raise RuntimeFailure("a request without a number")
            if len(fds) < message.get("fds", 0):
                raise RuntimeFailure("the keeper has no room for more descriptors")
            descriptors = envelope.named(message, fds)
            request = protocol.read_request(message, descriptors)
            getattr(self, f"_{request.op}")(client, sequence, request)
        except Exception as error:
            client.send({"seq": sequence, "error": str(error) or repr(error), "failure": kind_of(error)})
            if type(sequence) is not int:
                client.close()
        for fd in fds if descriptors is None else descriptors.values():
            close(fd)

    def _ping(self, client: Connection, sequence: int, request: protocol.Ping) -> None:
        versions = {"version": envelope.VERSION, "oldest": envelope.OLDEST}
        client.send({"seq": sequence, "pid": os.getpid(), **versions})

    def _prepare(self, client: Connection, sequence: int, request: protocol.Prepare) -> None:
        if request.request is not None:
            self._preforks.expect(request.request)
        if request.sandbox and "network" not in request.descriptors:
            raise RuntimeFailure("a sandbox without the descriptor network")
        self._preforks.want(request.sandbox, request.descriptors.pop("network") if request.sandbox else -1)
        client.send({"seq": sequence})

    def _mount(self, client: Connection, sequence: int, request: protocol.MountRoot) -> None:
        self._premounted.mount(request.id, request.overlay)
        client.send({"seq": sequence})

    def _unmount(self, client: Connection, sequence: int, request: protocol.UnmountRoot) -> None:
        self._premounted.drop(request.id)
        client.send({"seq": sequence})

    def _stop(self, client: Connection, sequence: int, request: protocol.Stop) -> None:
        self._stopping = not self._busy
        client.send({"seq": sequence, "stopping": self._stopping})

    def _list(self, client: Connection, sequence: int, request: protocol.List) -> None:
        found = [task.handover().message() for task in self._tasks.all()]
        client.send({
            "seq": sequence,
            "tasks": [task for task in found if task["directory"]],
            "others": [task for task in found if not task["directory"]],
            "ended": [vars(end) for end in self._exits.all()],
        })  # fmt: skip

    def _acknowledge(self, client: Connection, sequence: int, request: protocol.Acknowledge) -> None:
        for key in request.keys:
            self._exits.acknowledge(key)
            if self._link is not None:
                self._link.acknowledged(key)
        client.send({"seq": sequence})

    def _abandon(self, client: Connection, sequence: int, request: protocol.Abandon) -> None:
        self._setups.abandon(request.id)
        client.send({"seq": sequence})

    def _hold(self, client: Connection, sequence: int, request: protocol.Hold) -> None:
        task = self._tasks.get(request.id)
        client.send({"seq": sequence, **task.handover().message()}, task.descriptors())

    def _adopt(self, client: Connection, sequence: int, request: protocol.Adopt) -> None:
        if request.task.id in self._tasks:
            raise RuntimeFailure(f"task {request.task.id} is here already")
        task = Task.adopted(request.task, {**request.descriptors})
        request.descriptors.clear()
        task.open_log()
        self._tasks.keep(task)
        client.send({"seq": sequence})

    def _start(self, client: Connection, sequence: int, message: protocol.Start) -> None:
        self._check_new(message.id)
        request, fds = message.request, message.descriptors
        terminal = bool(request["spec"]["process"].get("terminal"))
        _resolve(request, fds)
        request["mounted"] = self._premounted.take(message.id, request.get("overlay"))
        if "root" in fds and "entry" not in request:
            close(request["mounted"])
            request["mounted"] = fds.pop("root")
        pipes = None
        try:
            pipes = Pipes.make(message.stdin) if not terminal else None
            theirs = pipes.theirs if pipes else None
            if "entry" in request:
                child = spawn.start_entry(request, theirs, list(fds.values()))
            else:
                child = self._preforks.start(request, theirs)
        except BaseException:
            if pipes:
                pipes.close()
            raise
        finally:
            close(request.pop("mounted"))
        task = Task(
            message.id, child.pid, child.pidfd, 0, message.directory, terminal, log=message.log, held=child.held
        )
        if pipes:
            pipes.close_theirs()
            task.stdin, task.outputs = pipes.stdin, {pipes.stdout: logs.STDOUT, pipes.stderr: logs.STDERR}
        self._setups.begin(client, sequence, child, task, request.get("warnings") or [])

    def _exec(self, client: Connection, sequence: int, message: protocol.Exec) -> None:
        self._check_new(message.id)
        request, fds = message.request, message.descriptors
        terminal = bool(request["process"].get("terminal"))
        stdio = None if terminal else (fds["stdin"], fds["stdout"], fds["stderr"])
        if "entry" in request:
            _resolve(request, fds)
            others = [fd for name, fd in fds.items() if name not in protocol.STDIO]
            child = spawn.start_entry(request, stdio, others)
        else:
            child = self._joins.join(request, stdio)
        self._setups.begin(client, sequence, child, Task(message.id, child.pid, child.pidfd, 0, tty=terminal), [])

    def _check_new(self, identifier: str) -> None:
        if identifier in self._tasks:
            raise RuntimeFailure(f"container {identifier} is already running")
        if identifier in self._setups:
            raise RuntimeFailure(f"container {identifier} is being started")

    def _stdin(self, client: Connection, sequence: int, request: protocol.GetStdin) -> None:
        task = self._tasks.get(request.id)
        if task.stdin < 0:
            raise RuntimeFailure(f"stdin of {task.id} is closed")
        client.send({"seq": sequence}, {"stdin": task.stdin})

    def _close_stdin(self, client: Connection, sequence: int, request: protocol.CloseStdin) -> None:
        self._tasks.close_stdin(request.id)
        client.send({"seq": sequence})

    def _resize(self, client: Connection, sequence: int, request: protocol.Resize) -> None:
        task = self._tasks.get(request.id)
        if task.tty and task.stdin >= 0:
            tty.set_size(task.stdin, request.rows, request.columns)
        client.send({"seq": sequence})


def _resolve(request: Common, fds: Descriptors) -> None:
    """Puts our descriptors where a request has their names. Raises RuntimeFailure for one that did not come along."""
    for entry in request["spec"]["linux"]["namespaces"]:
        if entry.get("path", "").startswith("@"):
            name = entry["path"][1:]
            if name not in fds:
                raise RuntimeFailure(f"the request lacks the descriptor {name}")
            entry["path"] = f"/proc/self/fd/{fds[name]}"
    if "sources" in fds:
        request["sources"] = fds["sources"]
