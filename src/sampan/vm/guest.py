"""The guest's half of a machine: the container, further processes in it, jobs on its files. Standard library only."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import time
from collections.abc import Callable

from sampan import quickjson
from sampan.linux import pidfd, tty
from sampan.linux.cgroup import Cgroup
from sampan.record import field, record
from sampan.runtime import borrowing, channel, spare, spawn, usage
from sampan.runtime.errors import RuntimeFailure, kind_of
from sampan.runtime.setup import Setup
from sampan.vm import dhcp, guestnet, guestroot, jobs
from sampan.vm.mux import Mux
from sampan.vm.protocol import MAX_HEARD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.runtime.requests import Join, Launch

INIT = "init"
_MAX_PROCESSES, _MAX_CELL = 2000, 250  # of a list, and characters of one column of it
_ADD_ENTROPY, _RESEED = 0x40085203, 0x5207  # RNDADDENTROPY, RNDRESEEDCRNG: random(4)


@record
class Task:
    """A process that the host asked for. `streams` are those it sends on."""

    id: str
    pid: int
    pidfd: int
    terminal: int = -1
    streams: list[int] = field(default_factory=list)
    result: int = -1  # a job's: where it writes what came of it


class Guest:
    """Everything of one guest. Requests are methods called after their "op"."""

    def __init__(self, mux: Mux, slots: bool = True) -> None:
        self._mux = mux
        self._tasks: dict[str, Task] = {}
        self._group = ""
        self._persistent = False
        self._spare: spare.Spare | None = None
        self._lender: borrowing.Lender | None = None
        self._names: guestnet.Names | None = None
        self._root = ""
        if slots:
            guestnet.name_slots()

    def adopt(self, pid: int, group: str = "", root: str = "") -> None:
        """Takes a process that runs already for the container's first. `root`: what others see as theirs."""
        self._group, self._root = group, root
        self._tasks[INIT] = Task(INIT, pid, os.pidfd_open(pid))

    def handle(self, message: dict[str, Any]) -> None:
        """One request; what fails is told."""
        sequence = message.get("seq", 0)
        try:
            operation = getattr(self, f"op_{message['op']}", None)
            if operation is None:
                raise RuntimeFailure(f"the guest does not know {message['op']}")
            reply = operation(message)
        except Exception as error:
            reply = {"error": str(error) or repr(error), "failure": kind_of(error)}
        if reply is not None and sequence:
            if len(quickjson.dumps(reply)) > MAX_HEARD - 1000:
                reply = {"error": "the guest's answer is too long"}
            self._mux.send({**reply, "seq": sequence})

    def idle(self) -> None:
        """There is nothing else to do: gives back the memory that the container has borrowed for its start."""
        if self._lender is not None:
            self._lender.end()
            self._lender = None

    @property
    def patience(self) -> float:
        """Seconds to wait for something else before idle() is called, or -1."""
        return -1 if self._lender is None else 0.2

    def op_expect(self, message: dict[str, Any]) -> dict[str, Any]:
        """Before this guest is anybody's: a container like the one of `request` half made, its disk mounted."""
        guestroot.make_ready()
        os.makedirs("/run/spare", 0o700)
        expected = spare.expectation(message["request"])
        self._spare = spare.Spare(expected, "/run/spare", spare.OURS, group=message["request"]["cgroup"])
        while self._spare.poll() and not self._spare.ready:
            time.sleep(0.01)
        os.sync()
        return {}

    def op_clock(self, message: dict[str, Any]) -> dict[str, Any]:
        """Sets the clock, and mixes in what only the host knows: guests of one template are alike until then."""
        time.clock_settime(time.CLOCK_REALTIME, message["time"])
        data = bytes.fromhex(message["entropy"])
        device = os.open("/dev/urandom", os.O_WRONLY | os.O_CLOEXEC)
        fcntl.ioctl(device, _ADD_ENTROPY, struct.pack("ii", len(data) * 8, len(data)) + data)
        fcntl.ioctl(device, _RESEED)
        os.close(device)
        return {}

    def _prepare(self, message: dict[str, Any]) -> None:
        """Makes this guest somebody's: clock, randomness, root, network."""
        self.op_clock(message)
        wanted = message["guest"]
        self._persistent = bool(wanted.get("persistent"))
        guestroot.mount_all(wanted)
        guestroot.write_files(wanted.get("files") or {})
        for interface in wanted.get("interfaces") or []:
            guestnet.connect(**interface)
        if wanted.get("names"):
            self._names = guestnet.Names(self._mux)

    def op_open(self, message: dict[str, Any]) -> dict[str, Any]:
        """For work on the files of a container that does not run; "cwd" is made in them."""
        self._prepare(message)
        guestroot.mount_root()
        guestroot.make_directory(message["cwd"])
        return {}

    def op_close(self, message: dict[str, Any]) -> dict[str, Any]:
        """After that work."""
        guestroot.unmount_root()
        guestroot.close()
        return {}

    def op_start(self, message: dict[str, Any]) -> None:
        self._prepare(message)
        request: Launch = {"spec": message["spec"], "cgroup": message["cgroup"], "seccomp": message["seccomp"],
                           "overlay": guestroot.OVERLAY, "where": guestroot.ROOT, "machine": True, "warnings": []}  # fmt: skip
        self._group = message["cgroup"]
        terminal = bool(request["spec"]["process"].get("terminal"))
        self._run(message, terminal, lambda stdio: self._begin(request, stdio), request["warnings"])

    def _begin(self, request: Launch, stdio: channel.Stdio | None) -> spawn.Child:
        """As spawn.start(), by the spare if it fits."""
        ready, self._spare = self._spare, None
        if ready is None:
            return spawn.start(request, stdio)
        if not spare.fits(request, spare.OURS):
            ready.discard()
            return spawn.start(request, stdio)
        try:
            child = ready.use(request, stdio)
        except ConnectionError:  # it was killed
            ready.discard()
            return spawn.start(request, stdio)
        self._lender = ready.lender
        return child

    def op_exec(self, message: dict[str, Any]) -> None:
        request: Join = {"pid": self._task(INIT).pid, "cgroup": self._group, "process": message["process"],
                   "seccomp": message["seccomp"], "chroot": self._root}  # fmt: skip
        terminal = bool(message["process"].get("terminal"))
        self._run(message, terminal, lambda stdio: spawn.join(request, stdio), [])

    def _run(
        self,
        message: dict[str, Any],
        terminal: bool,
        start: Callable[[channel.Stdio | None], spawn.Child],
        warnings: list[str],
    ) -> None:
        """Makes a process with the streams from message["base"] on, and replies when it runs or can't."""
        base = message["base"]
        pipes = None if terminal else [os.pipe(), os.pipe(), os.pipe()]
        theirs = None if pipes is None else (pipes[0][0], pipes[1][1], pipes[2][1])
        ours = [] if pipes is None else [pipes[0][1], pipes[1][0], pipes[2][0]]
        try:
            child = start(theirs)
        except BaseException:
            for fd in ours:
                os.close(fd)
            raise
        finally:
            for fd in theirs or ():
                os.close(fd)
        setup = Setup(child)
        setup.warnings = warnings

        def report(_: int) -> None:
            if not setup.advance():
                return
            self._mux.loop.forget(child.channel.fileno())
            try:
                setup.check()
            except RuntimeFailure as failure:
                for fd in (*ours, setup.terminal):
                    if fd >= 0:
                        os.close(fd)
                self._mux.send({"error": str(failure), "failure": failure.kind, "seq": message["seq"]})
                return
            task = Task(message["id"], child.pid, child.pidfd, setup.terminal)
            self._mux.send({"pid": task.pid, "warnings": setup.warnings, "seq": message["seq"]})
            self._attach(task, base, ours)
            self._keep(task)

        self._mux.loop.watch(child.channel.fileno(), report)

    def _attach(self, task: Task, base: int, ours: list[int]) -> None:
        """Joins the streams with our ends of a process's pipes or, without any, with its terminal."""
        stdin, *outputs = ours or [os.dup(task.terminal), os.dup(task.terminal)]
        self._mux.sink(base, stdin)
        task.streams = list(range(base + 1, base + 1 + len(outputs)))
        for stream, fd in zip(task.streams, outputs, strict=True):
            self._mux.source(stream, fd)

    def _keep(self, task: Task) -> None:
        self._tasks[task.id] = task
        self._mux.loop.watch(task.pidfd, lambda _: self._exited(task))

    def _exited(self, task: Task) -> None:
        self._mux.loop.forget(task.pidfd)
        status = os.waitpid(task.pid, 0)[1]
        event: dict[str, Any] = {"event": "exit", "id": task.id, "status": status}
        for stream in task.streams:
            self._mux.flush(stream)
        if task.result >= 0:
            event["result"] = quickjson.loads(_read_all(task.result) or b"null")
        if task.terminal >= 0:
            os.close(task.terminal)
        os.close(task.pidfd)
        del self._tasks[task.id]
        if task.id == INIT:
            event["oom"] = Cgroup(self._group).oom_kills()
            if self._persistent:
                guestroot.close()
        self._mux.send(event)

    def op_job(self, message: dict[str, Any]) -> dict[str, Any]:
        """Work on the container's files by a process of ours, with the streams of the host."""
        base = message["base"]
        their_in, our_in = os.pipe()
        our_out, their_out = os.pipe()
        result, their_result = os.pipe()
        root = guestroot.open_root(self._tasks[INIT].pid if INIT in self._tasks else 0)
        pid = os.fork()
        if pid == 0:
            for fd in (our_in, our_out, result):
                os.close(fd)
            jobs.run(message["name"], message["args"], root, their_in, their_out, their_result)
        for fd in (their_in, their_out, their_result, root):
            os.close(fd)
        self._mux.sink(base, our_in)
        self._mux.source(base + 1, our_out)
        task = Task(message["id"], pid, os.pidfd_open(pid), streams=[], result=result)
        self._keep(task)
        return {}

    def _task(self, identifier: str) -> Task:
        task = self._tasks.get(identifier)
        if task is None:
            raise RuntimeFailure(f"no process {identifier} in the guest")
        return task

    def op_signal(self, message: dict[str, Any]) -> dict[str, Any]:
        try:
            signal.pidfd_send_signal(self._task(message["id"]).pidfd, message["number"])
        except ProcessLookupError:
            pass
        return {}

    def op_end(self, message: dict[str, Any]) -> dict[str, Any]:
        """Kills a process and what it has started, nothing else of the container."""
        task = self._task(message["id"])
        pids = Cgroup(self._group).pids() if task.result < 0 else [task.pid]
        for pid in pidfd.family(task.pid, pids):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        return {}

    def op_resize(self, message: dict[str, Any]) -> dict[str, Any]:
        task = self._task(message["id"])
        if task.terminal >= 0:
            tty.set_size(task.terminal, message["rows"], message["columns"])
        return {}

    def op_usage(self, message: dict[str, Any]) -> dict[str, Any]:
        return {"result": usage.sample(Cgroup(self._group), self._task(INIT).pid)}

    def op_processes(self, message: dict[str, Any]) -> dict[str, Any]:
        found = usage.processes(Cgroup(self._group).pids())[:_MAX_PROCESSES]
        return {"result": [[cell[:_MAX_CELL] for cell in row] for row in found]}

    def op_limits(self, message: dict[str, Any]) -> dict[str, Any]:
        """Changes the limits of the running container."""
        group = Cgroup(self._group)
        group.update(message["resources"])
        return {"result": group.warnings}

    def op_freeze(self, message: dict[str, Any]) -> dict[str, Any]:
        """Stops the container, or lets it go on; the guest itself runs, so that its files can be reached."""
        Cgroup(self._group).freeze(message["frozen"])
        return {}

    def op_files(self, message: dict[str, Any]) -> dict[str, Any]:
        guestroot.write_files(message["files"])
        return {}

    def op_named(self, message: dict[str, Any]) -> dict[str, Any]:
        """The name and the name servers of a machine of the classic kind, unless it has servers already."""
        with open("/proc/sys/kernel/hostname", "w", encoding="ascii") as file:
            file.write(message["hostname"])
        root = f"/proc/{self._task(INIT).pid}/root"
        try:
            empty = not os.path.getsize(f"{root}/etc/resolv.conf")
        except OSError:
            empty = True
        if empty and message["servers"]:
            dhcp.write_servers(root, message["servers"])
        return {}

    def op_shutdown(self, message: dict[str, Any]) -> dict[str, Any]:
        """Asks the first process to end the machine, in the way that it understands."""
        task = self._task(INIT)
        number = signal.SIGTERM
        if self._root:
            with open(f"/proc/{task.pid}/comm", encoding="ascii") as file:
                # systemd(1), Signals; and busybox's init.
                number = signal.Signals(signal.SIGRTMIN + 4) if file.read().strip() == "systemd" else signal.SIGUSR2
        signal.pidfd_send_signal(task.pidfd, number)
        return {}

    def op_connect(self, message: dict[str, Any]) -> dict[str, Any]:
        guestnet.connect(**message["interface"])
        if message.get("names") and self._names is None:
            self._names = guestnet.Names(self._mux)
        return {}

    def op_disconnect(self, message: dict[str, Any]) -> dict[str, Any]:
        guestnet.disconnect(message["name"], message["slot"], message["way_out"], message["gateways"])
        return {}

    def op_dns(self, message: dict[str, Any]) -> None:
        """The answer to a question we have passed on."""
        if self._names is not None:
            self._names.answer(message)


def _read_all(fd: int) -> bytes:
    with os.fdopen(fd, "rb") as file:
        return file.read()
