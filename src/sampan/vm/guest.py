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
from sampan.runtime import channel, prefork, prefork_memory, spawn, usage
from sampan.runtime.errors import RuntimeFailure, kind_of
from sampan.runtime.setup import Setup
from sampan.vm import dhcp, guestnet, guestroot, jobs, requests
from sampan.vm.mux import Mux
from sampan.vm.protocol import MAX_HEARD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.keeper.fields import Message
    from sampan.runtime.requests import Join, Launch

INIT = "init"
_ANSWERED_LATER = (requests.Start.op, requests.Exec.op)
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
        self._prefork: prefork.Prefork | None = None
        self._owner: prefork_memory.MemoryOwner | None = None
        self._names: guestnet.Names | None = None
        self._root = ""
        if slots:
            guestnet.name_slots()

    def adopt(self, pid: int, group: str = "", root: str = "") -> None:
        """Takes a process that runs already for the container's first. `root`: what others see as theirs."""
        self._group, self._root = group, root
        self._tasks[INIT] = Task(INIT, pid, os.pidfd_open(pid))

    def handle(self, message: Message) -> None:
        """One request; what fails is told."""
        sequence = message.get("seq", 0)
        try:
            request = requests.read(message)
            operation = getattr(self, f"_{request.op}", None)
            if operation is None:
                raise RuntimeFailure(f"the guest does not know {request.op}")
            reply = operation(request) if request.op not in _ANSWERED_LATER else operation(request, sequence)
        except Exception as error:
            reply = {"error": str(error) or repr(error), "failure": kind_of(error)}
        if reply is not None and sequence:
            if len(quickjson.dumps(reply)) > MAX_HEARD - 1000:
                reply = {"error": "the guest's answer is too long"}
            self._mux.send({**reply, "seq": sequence})

    def idle(self) -> None:
        """There is nothing else to do: gives back the memory that the container has borrowed for its start."""
        if self._owner is not None:
            self._owner.end()
            self._owner = None

    @property
    def patience(self) -> float:
        """Seconds to wait for something else before idle() is called, or -1."""
        return -1 if self._owner is None else 0.2

    def _alive(self, request: requests.Alive) -> Message:
        return {}

    def _expect(self, request: requests.Expect) -> Message:
        guestroot.make_ready()
        os.makedirs("/run/spare", 0o700)
        expected = prefork.expectation(request.request)
        self._prefork = prefork.Prefork(expected, "/run/spare", prefork.OURS, group=request.request["cgroup"] or "")
        while self._prefork.poll() and not self._prefork.ready:
            time.sleep(0.01)
        os.sync()
        return {}

    def _clock(self, request: requests.Clock | requests.Open | requests.Start) -> Message:
        """Guests of one template are alike until then."""
        time.clock_settime(time.CLOCK_REALTIME, request.time)
        data = bytes.fromhex(request.entropy)
        device = os.open("/dev/urandom", os.O_WRONLY | os.O_CLOEXEC)
        fcntl.ioctl(device, _ADD_ENTROPY, struct.pack("ii", len(data) * 8, len(data)) + data)
        fcntl.ioctl(device, _RESEED)
        os.close(device)
        return {}

    def _prepare(self, request: requests.Open | requests.Start) -> None:
        """Makes this guest somebody's: clock, randomness, root, network."""
        self._clock(request)
        wanted = request.guest
        self._persistent = bool(wanted.get("persistent"))
        guestroot.mount_all(wanted)
        guestroot.write_files(wanted.get("files") or {})
        for interface in wanted.get("interfaces") or []:
            guestnet.connect(interface)
        if wanted.get("names"):
            self._names = guestnet.Names(self._mux)

    def _open(self, request: requests.Open) -> Message:
        self._prepare(request)
        guestroot.mount_root()
        guestroot.make_directory(request.cwd)
        return {}

    def _close(self, request: requests.Close) -> Message:
        guestroot.unmount_root()
        guestroot.close()
        return {}

    def _start(self, request: requests.Start, sequence: int) -> None:
        self._prepare(request)
        launch: Launch = {"spec": request.spec, "cgroup": request.cgroup, "seccomp": request.seccomp,
                          "overlay": guestroot.OVERLAY, "where": guestroot.ROOT, "machine": True}  # fmt: skip
        self._group = request.cgroup
        terminal = bool(request.spec["process"].get("terminal"))
        self._run(request, sequence, terminal, lambda stdio: self._begin(launch, stdio))

    def _begin(self, request: Launch, stdio: channel.Stdio | None) -> spawn.Child:
        """As spawn.start(), by the prefork if it fits."""
        ready, self._prefork = self._prefork, None
        if ready is None:
            return spawn.start(request, stdio)
        if not prefork.fits(request, prefork.OURS):
            ready.discard()
            return spawn.start(request, stdio)
        try:
            child = ready.use(request, stdio)
        except ConnectionError:  # it was killed
            ready.discard()
            return spawn.start(request, stdio)
        self._owner = ready.owner
        return child

    def _exec(self, request: requests.Exec, sequence: int) -> None:
        join: Join = {"pid": self._task(INIT).pid, "cgroup": self._group, "process": request.process,
                      "seccomp": request.seccomp, "chroot": self._root}  # fmt: skip
        self._run(request, sequence, bool(request.process.get("terminal")), lambda stdio: spawn.join(join, stdio))

    def _run(
        self,
        request: requests.Start | requests.Exec,
        sequence: int,
        terminal: bool,
        start: Callable[[channel.Stdio | None], spawn.Child],
    ) -> None:
        """Makes a process with the streams from request.base on, and replies when it runs or can't."""
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
                self._mux.send({"error": str(failure), "failure": failure.kind, "seq": sequence})
                return
            task = Task(request.id, child.pid, child.pidfd, setup.terminal)
            self._mux.send({"pid": task.pid, "warnings": setup.warnings, "seq": sequence})
            self._attach(task, request.base, ours)
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
        event: Message = {"event": "exit", "id": task.id, "status": status}
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

    def _job(self, request: requests.Job) -> Message:
        """By a process of ours, with the streams of the host."""
        their_in, our_in = os.pipe()
        our_out, their_out = os.pipe()
        result, their_result = os.pipe()
        root = guestroot.open_root(self._tasks[INIT].pid if INIT in self._tasks else 0)
        pid = os.fork()
        if pid == 0:
            for fd in (our_in, our_out, result):
                os.close(fd)
            jobs.run(request.name, request.args, root, their_in, their_out, their_result)
        for fd in (their_in, their_out, their_result, root):
            os.close(fd)
        self._mux.sink(request.base, our_in)
        self._mux.source(request.base + 1, our_out)
        task = Task(request.id, pid, os.pidfd_open(pid), streams=[], result=result)
        self._keep(task)
        return {}

    def _task(self, identifier: str) -> Task:
        task = self._tasks.get(identifier)
        if task is None:
            raise RuntimeFailure(f"no process {identifier} in the guest")
        return task

    def _signal(self, request: requests.Signal) -> Message:
        try:
            signal.pidfd_send_signal(self._task(request.id).pidfd, request.number)
        except ProcessLookupError:
            pass
        return {}

    def _end(self, request: requests.EndProcess) -> Message:
        task = self._task(request.id)
        pids = Cgroup(self._group).pids() if task.result < 0 else [task.pid]
        for pid in pidfd.family(task.pid, pids):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        return {}

    def _resize(self, request: requests.Resize) -> Message:
        task = self._task(request.id)
        if task.terminal >= 0:
            tty.set_size(task.terminal, request.rows, request.columns)
        return {}

    def _usage(self, request: requests.Usage) -> Message:
        try:
            with open(f"/proc/{self._task(INIT).pid}/net/dev", "rb") as file:
                devices = file.read()
        except OSError:
            devices = b""
        return {"result": usage.sample(Cgroup(self._group), devices)}

    def _processes(self, request: requests.Processes) -> Message:
        found = usage.processes(Cgroup(self._group).pids)[:_MAX_PROCESSES]
        return {"result": [[cell[:_MAX_CELL] for cell in row] for row in found]}

    def _limits(self, request: requests.Limits) -> Message:
        group = Cgroup(self._group)
        group.update(request.resources)
        return {"result": group.warnings}

    def _freeze(self, request: requests.Freeze) -> Message:
        Cgroup(self._group).freeze(request.frozen)
        return {}

    def _files(self, request: requests.Files) -> Message:
        guestroot.write_files(request.files)
        return {}

    def _named(self, request: requests.Named) -> Message:
        with open("/proc/sys/kernel/hostname", "w", encoding="ascii") as file:
            file.write(request.hostname)
        root = f"/proc/{self._task(INIT).pid}/root"
        try:
            empty = not os.path.getsize(f"{root}/etc/resolv.conf")
        except OSError:
            empty = True
        if empty and request.servers:
            dhcp.write_servers(root, request.servers)
        return {}

    def _shutdown(self, request: requests.Shutdown) -> Message:
        task = self._task(INIT)
        number = signal.SIGTERM
        if self._root:
            with open(f"/proc/{task.pid}/comm", encoding="ascii") as file:
                # systemd(1), Signals; and busybox's init.
                number = signal.Signals(signal.SIGRTMIN + 4) if file.read().strip() == "systemd" else signal.SIGUSR2
        signal.pidfd_send_signal(task.pidfd, number)
        return {}

    def _connect(self, request: requests.Connect) -> Message:
        guestnet.connect(request.interface)
        if request.names and self._names is None:
            self._names = guestnet.Names(self._mux)
        return {}

    def _disconnect(self, request: requests.Disconnect) -> Message:
        guestnet.disconnect(request.name, request.slot, request.way_out, request.gateways)
        return {}

    def _dns(self, request: requests.Resolved) -> None:
        """The answer to a question we have passed on."""
        if self._names is not None:
            self._names.answer(request.number, request.data)


def _read_all(fd: int) -> bytes:
    with os.fdopen(fd, "rb") as file:
        return file.read()
