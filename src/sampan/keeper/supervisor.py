"""The keeper's loop: requests in, processes cloned, output logged, exits recorded and announced."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import struct
import termios
import time
from collections.abc import Callable

from sampan import quickjson
from sampan.keeper import logs, roots, spares, wire
from sampan.linux import pidfd, polling, tty
from sampan.record import field, record
from sampan.runtime import channel, spawn
from sampan.runtime.errors import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_IDLE_SECONDS = 10.0
_PIPE_SIZE = 1 << 20
_UNKNOWN_STATUS = 255 << 8


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
    is_child: bool = True
    held: list[int] = field(default_factory=list)  # closed when its end has been announced

    def record(self) -> dict[str, Any]:
        """What sampand needs to hand this task over to another keeper."""
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


class Supervisor:
    """Holds all tasks and connections of one keeper process."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._poll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._tasks: dict[str, Task] = {}
        self._starting: dict[str, tuple[socket.socket, Task]] = {}  # by id, with whoever has asked for it
        self._connections: dict[int, tuple[socket.socket, wire.Reader]] = {}
        self._stopping = False
        self._ahead = roots.Ahead()
        self._spares = spares.Spares(os.path.dirname(listener.getsockname()))
        self._watch(listener.fileno(), lambda _: self._accept())

    def run(self) -> None:
        """Serves until told to stop, or until there has been nothing to keep for a while."""
        idle_since = time.monotonic()
        while not self._stopping:
            ready = self._poll.poll(self._spares.patience)
            for fd, events in ready:
                handler = self._handlers.get(fd)
                if handler:
                    handler(events)
            if not ready:
                self._spares.refill()
                self._ahead.expire()
            if self._tasks or self._starting or self._connections:
                idle_since = time.monotonic()
            elif time.monotonic() - idle_since > _IDLE_SECONDS:
                break
        self._spares.close()
        self._ahead.close()

    def _watch(self, fd: int, handler: Callable[[int], None]) -> None:
        self._handlers[fd] = handler
        self._poll.register(fd, select.EPOLLIN)

    def _unwatch(self, fd: int) -> None:
        if self._handlers.pop(fd, None):
            self._poll.unregister(fd)

    # connections

    def _accept(self) -> None:
        sock, _ = self._listener.accept()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        sock.settimeout(10)
        self._connections[sock.fileno()] = (sock, wire.Reader())
        self._watch(sock.fileno(), lambda _: self._readable(sock))

    def _readable(self, sock: socket.socket) -> None:
        _, reader = self._connections[sock.fileno()]
        messages = reader.receive(sock)
        if messages is None:
            self._drop(sock)
            return
        for message, fds in messages:
            self._handle(sock, message, fds)

    def _drop(self, sock: socket.socket) -> None:
        """Forgets a connection. What was being started for it is ended: nobody else knows of it."""
        for asker, task in list(self._starting.values()):
            if asker is sock:
                _kill(task)
        entry = self._connections.pop(sock.fileno(), None)
        if entry:
            self._unwatch(sock.fileno())
            entry[1].close()
            sock.close()

    def _send(self, sock: socket.socket, message: dict[str, Any], fds: list[int] | None = None) -> bool:
        """Whether it could be sent; a connection that takes nothing is dropped."""
        if fds:
            message["fds"] = len(fds)
        try:
            wire.send(sock, message, fds)
        except OSError:
            self._drop(sock)
            return False
        return True

    def _announce(self, message: dict[str, Any]) -> None:
        for sock, _ in list(self._connections.values()):
            self._send(sock, message)

    # requests

    def _handle(self, sock: socket.socket, message: dict[str, Any], fds: list[int]) -> None:
        operation = getattr(self, f"_op_{message['op']}", None)
        try:
            if operation is None:
                raise RuntimeFailure(f"unknown keeper operation {message['op']}")
            operation(sock, message, fds)
        except Exception as error:
            for fd in fds:
                _close(fd)
            kind = error.kind if isinstance(error, RuntimeFailure) else "other"
            self._send(sock, {"seq": message["seq"], "error": str(error) or repr(error), "failure": kind})

    def _op_ping(self, sock: socket.socket, message: dict[str, Any], fds: list[int]) -> None:
        self._send(sock, {"seq": message["seq"], "pid": os.getpid()})

    def _op_prepare(self, sock: socket.socket, message: dict[str, Any], fds: list[int]) -> None:
        """Has a spare ready, in the network namespace that comes along if a sandbox is named.

        With `request`: for containers like that one; without, for containers like the last.
        """
        if message.get("request"):
            self._spares.expect(message["request"])
        self._spares.want(message["sandbox"], fds.pop() if message["sandbox"] else -1)
        self._send(sock, {"seq": message["seq"]})

    def _op_mount(self, sock: socket.socket, message: dict[str, Any], fds: list[int]) -> None:
        """Mounts a container's root ahead of its start."""
        self._ahead.mount(message["id"], message["overlay"])
        self._send(sock, {"seq": message["seq"]})

    def _op_unmount(self, sock: socket.socket, message: dict[str, Any], fds: list[int]) -> None:
        """Lets go of a root that was mounted ahead: somebody else is to write into it."""
        self._ahead.drop(message["id"])
        self._send(sock, {"seq": message["seq"]})

    def _op_stop(self, sock: socket.socket, message: dict[str, Any], fds: list[int]) -> None:
        self._stopping = not (self._tasks or self._starting)
        self._send(sock, {"seq": message["seq"], "stopping": self._stopping})

    def _op_list(self, sock: socket.socket, message: dict[str, Any], fds: list[int]) -> None:
        records = [task.record() for task in self._tasks.values() if task.directory]
        self._send(sock, {"seq": message["seq"], "tasks": records})

    def _op_hold(self, sock: socket.socket, message: dict[str, Any], fds: list[int]) -> None:
        """Copies a task's descriptors to the caller: pidfd, outputs, stdin."""
        task = self._task(message)
        self._send(sock, {"seq": message["seq"], **task.record()}, self._held(task))

    def _held(self, task: Task) -> list[int]:
        stdin = [task.stdin] if task.stdin >= 0 and not task.tty else []
        return [task.pidfd, *task.outputs, *stdin]

    def _op_adopt(self, sock: socket.socket, message: dict[str, Any], fds: list[int]) -> None:
        """Takes over a container from a keeper that died: the descriptors sampand kept, in hold's order."""
        if message["id"] in self._tasks:
            raise RuntimeFailure(f"task {message['id']} is here already")
        streams = message["streams"]
        outputs = dict(zip(fds[1 : 1 + len(streams)], streams, strict=True))
        task = Task(message["id"], message["pid"], fds[0], message["start_time"], message["directory"],
                    message["tty"], -1, outputs, log=message["log"], is_child=False)  # fmt: skip
        if task.tty:
            task.stdin = next(iter(outputs), -1)
        elif message["has_stdin"]:
            task.stdin = fds[1 + len(streams)]
        task.writer = logs.Writer(f"{task.directory}/log", **task.log)
        self._keep(task)
        self._send(sock, {"seq": message["seq"]})

    def _op_start(self, sock: socket.socket, message: dict[str, Any], fds: list[int]) -> None:
        if message["id"] in self._tasks or message["id"] in self._starting:
            raise RuntimeFailure(f"container {message['id']} is already running")
        request = message["request"]
        request["mounted"] = self._ahead.take(message["id"], request.get("overlay"))
        if "root_fd" in request:
            request["mounted"] = os.dup(fds[request.pop("root_fd")])
        for entry in request["spec"]["linux"]["namespaces"]:
            if entry.get("path", "").startswith("@"):
                entry["path"] = f"/proc/self/fd/{fds[int(entry['path'][1:])]}"
        terminal = bool(request["spec"]["process"].get("terminal"))
        pipes = _Pipes.make(message["stdin"]) if not terminal else None
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
            _close(request.pop("mounted", -1))
        for fd in fds:
            os.close(fd)
        fds.clear()
        task = Task(message["id"], child.pid, child.pidfd, 0, message["directory"], terminal, held=child.held)
        task.log = message["log"]
        if pipes:
            pipes.close_theirs()
            task.stdin, task.outputs = pipes.stdin, {pipes.stdout: logs.STDOUT, pipes.stderr: logs.STDERR}
        self._await_child(sock, message["seq"], child, task, request.get("warnings") or [])

    def _op_exec(self, sock: socket.socket, message: dict[str, Any], fds: list[int]) -> None:
        request = message["request"]
        terminal = bool(request["process"].get("terminal"))
        stdio = None if terminal else (fds[0], fds[1], fds[2])
        child = spawn.start_entry(request, stdio, fds[3:]) if "entry" in request else spawn.join(request, stdio)
        for fd in fds:
            os.close(fd)
        fds.clear()
        task = Task(message["id"], child.pid, child.pidfd, 0, tty=terminal)
        self._await_child(sock, message["seq"], child, task, [])

    def _op_stdin(self, sock: socket.socket, message: dict[str, Any], fds: list[int]) -> None:
        task = self._task(message)
        if task.stdin < 0:
            raise RuntimeFailure(f"stdin of {task.id} is closed")
        self._send(sock, {"seq": message["seq"]}, [task.stdin])

    def _op_close_stdin(self, sock: socket.socket, message: dict[str, Any], fds: list[int]) -> None:
        task = self._task(message)
        if not task.tty and task.stdin >= 0:
            os.close(task.stdin)
            task.stdin = -1
        self._send(sock, {"seq": message["seq"]})

    def _op_resize(self, sock: socket.socket, message: dict[str, Any], fds: list[int]) -> None:
        task = self._task(message)
        if task.tty and task.stdin >= 0:
            tty.set_size(task.stdin, message["rows"], message["columns"])
        self._send(sock, {"seq": message["seq"]})

    def _task(self, message: dict[str, Any]) -> Task:
        task = self._tasks.get(message["id"])
        if task is None:
            raise RuntimeFailure(f"no running task {message['id']}")
        return task

    # processes

    def _await_child(self, sock: socket.socket, seq: int, child: spawn.Child, task: Task, warnings: list[str]) -> None:
        # Now, while the child is busy, and not when it has started.
        task.start_time = pidfd.start_time(task.pid) or 0
        if task.directory:
            task.writer = logs.Writer(f"{task.directory}/log", **task.log)

        self._starting[task.id] = (sock, task)

        def report(_: int) -> None:
            message = channel.receive(child.channel)
            if message.kind == "tty":
                task.stdin = message.fds[0]
                if task.directory:
                    task.outputs = {task.stdin: logs.STDOUT}
                return
            if message.kind == "warning":
                warnings.append(message.text)
                return
            self._unwatch(child.channel.fileno())
            child.channel.close()
            del self._starting[task.id]
            if message.kind == "error":
                os.waitpid(task.pid, 0)
                self._release(task)
                self._send(sock, {"seq": seq, "error": message.text, "failure": message.failure})
                return
            held = self._held(task) if task.directory else [task.pidfd, *([task.stdin] if task.tty else [])]
            if not self._send(sock, {"seq": seq, "warnings": warnings, **task.record()}, held):
                _kill(task)
            self._keep(task)

        self._watch(child.channel.fileno(), report)

    def _keep(self, task: Task) -> None:
        self._tasks[task.id] = task
        for fd, stream in task.outputs.items():
            os.set_blocking(fd, False)
            self._watch(fd, lambda events, fd=fd, stream=stream: self._output(task, fd, stream))  # type: ignore[misc]
        self._watch(task.pidfd, lambda _: self._exited(task))

    def _output(self, task: Task, fd: int, stream: int) -> None:
        """Logs what is ready; at the end of the stream stops watching it."""
        assert task.writer is not None
        try:
            if task.tty:
                data = os.read(fd, 64 << 10)
                if data:
                    task.writer.append(data, stream)
                    return
            else:
                (available,) = struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))
                if available:
                    task.writer.splice(fd, available, stream)
                    return
                if os.read(fd, 1):  # pragma: no cover - raced with a writer: FIONREAD said nothing
                    return
        except BlockingIOError:
            return
        except OSError:  # EIO: the last to have the terminal open has closed it
            pass
        self._unwatch(fd)

    def _exited(self, task: Task) -> None:
        self._unwatch(task.pidfd)
        for fd, stream in list(task.outputs.items()):
            for _ in range(1 << 16):
                if fd not in self._handlers or not polling.readable(fd):
                    break
                self._output(task, fd, stream)
        status = _wait(task)
        exit_record = {"id": task.id, "status": status, "time": time.time_ns()}
        if task.directory:
            _write_exit(task.directory, {**exit_record, "start_time": task.start_time})
        self._tasks.pop(task.id, None)
        self._announce({"event": "exit", **exit_record})
        self._release(task)

    def _release(self, task: Task) -> None:
        for fd in {task.pidfd, task.stdin, *task.outputs, *task.held}:
            if fd >= 0:
                self._unwatch(fd)
                _close(fd)
        if task.writer:
            task.writer.close()


@record
class _Pipes:
    theirs: tuple[int, int, int]
    stdin: int
    stdout: int
    stderr: int

    @classmethod
    def make(cls, stdin: bool) -> _Pipes:
        if stdin:
            their_in, our_in = os.pipe()
        else:
            their_in, our_in = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC), -1
        our_out, their_out = os.pipe()
        our_err, their_err = os.pipe()
        for fd in (our_out, our_err):
            try:
                fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
            except OSError:
                pass
        return cls((their_in, their_out, their_err), our_in, our_out, our_err)

    def close_theirs(self) -> None:
        for fd in self.theirs:
            os.close(fd)

    def close(self) -> None:
        self.close_theirs()
        for fd in (self.stdin, self.stdout, self.stderr):
            _close(fd)


def _close(fd: int) -> None:
    if fd >= 0:
        try:
            os.close(fd)
        except OSError:
            pass


def _kill(task: Task) -> None:
    try:
        signal.pidfd_send_signal(task.pidfd, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _wait(task: Task) -> int:
    """The wait status, also of a process that has another parent."""
    try:
        return os.waitpid(task.pid, 0)[1]
    except ChildProcessError:
        pass
    for _ in range(200):
        status = pidfd.exit_status(task.pidfd)
        if status is None:
            status = pidfd.zombie_status(task.pid)
        if status is not None:
            return status
        time.sleep(0.005)
    return _UNKNOWN_STATUS


def _write_exit(directory: str, record: dict[str, Any]) -> None:
    """The exit record, before anybody is told. Atomic; a directory removed meanwhile is fine."""
    try:
        with open(f"{directory}/exit.tmp", "w", encoding="ascii") as file:
            file.write(quickjson.dumps(record))
        os.rename(f"{directory}/exit.tmp", f"{directory}/exit.json")
    except OSError:
        pass
