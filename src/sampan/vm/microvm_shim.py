"""A machine's process on the host: the parent of its QEMU, and what the engine takes for the container.

It has the container's standard streams, takes its signals, and ends with its exit code; so the keeper looks
after it as after any other. It is process 1 of a pid namespace: when it ends, however, QEMU does. Over its
socket it takes what else is asked of the guest (`relay` and the engine do). Standard library only.
"""

from __future__ import annotations

import os
import signal
import socket
import time

from sampan import quickjson
from sampan.linux import tap
from sampan.linux.pidfd import exit_code
from sampan.runtime import channel
from sampan.runtime.channel import Stdio
from sampan.runtime.errors import RuntimeFailure
from sampan.vm import confine, requests, terminal
from sampan.vm.errors import VmError
from sampan.vm.host import Client, Host, live
from sampan.vm.hypervisor import SLOTS, Machine, Parts, Shape, microvm
from sampan.vm.jail import Share
from sampan.vm.progress import LONGEST, STANDSTILL, Progress
from sampan.vm.protocol import Exit, Reply

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.vm.machine_types import MachineRequest, ShareRow
    from sampan.vm.requests import Request

_INIT = "init"
_PATIENCE = 10.0  # seconds that a machine for files waits for somebody, and for its guest's end
_LAST_WORDS = 5.0  # seconds that the main process's output may take after its end


def main(request: MachineRequest, stdio: Stdio | None, parent: socket.socket, fds: list[int]) -> None:
    """The process's life; never returns. `fds`, named by request["descriptors"]: "network", the namespace; "memory", "root",
    "disk" and "state" of the machine; "tap0" and so on of its networks; "sources", the engine's table of descriptors."""
    named = dict(zip(request["descriptors"], fds, strict=True))
    live(lambda: Microvm(request, parent), lambda machine: machine.run(stdio, named), parent, [*fds, *(stdio or ())])


class Microvm(Host):
    """One machine while it runs."""

    def __init__(self, request: MachineRequest, parent: socket.socket) -> None:
        super().__init__(request["control"], request["console"])
        self._request, self._parent = request, parent
        self._report = os.open(request["report"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self.exits[_INIT] = self._init_exited
        self._deadline = 0.0
        self._progress: Progress | None = None  # while the guest starts
        self._for_files = "spec" not in request["inner"]  # there is no container, and no end by itself
        self._slave = -1
        self._slots: dict[int, int] = {}  # the taps that are on no network

    def run(self, stdio: Stdio | None, fds: dict[str, int]) -> int:
        """Starts the machine and the container in it, and serves until that has ended. Raises VmError, OSError."""
        request = self._request
        shape = Shape(**request["shape"])
        shares, held = _open_shares(request["shares"], fds.get("sources", -1))
        memory, root, disk, state = (fds[name] for name in ("memory", "root", "disk", "state"))
        taps = [fds.get(f"tap{slot}", -1) for slot in range(SLOTS)]
        for slot in range(SLOTS):
            if taps[slot] < 0:
                taps[slot] = self._slots[slot] = tap.new(f"slot{slot}")
                tap.persist(taps[slot], True)
        disks = (disk, -1) if request["guest"]["writable"] == "fresh" else (-1, disk)
        if stdio is None:
            self._slave = terminal.open_for(self._parent, request["spec"]["process"])
        self.listen()
        self.take_signals()
        self._user = user = confine.identity()
        stopped = not request["boot"]
        if stopped:
            parts = Parts(memory, root, *disks, taps, shares)
            self.machine = machine = self._follow(microvm(user, shape, parts, restored=True))
            try:
                machine.monitor.restore(state)
            except VmError as error:
                text = f"the machine boots anew, since its template is of no use: {error}"
                channel.send(self._parent, kind="warning", text=text)
                self.log.last()
                self.log.follow()
                machine.end()
                stopped = False
        if not stopped:
            self.machine = machine = self._boot(shape, Parts(-1, root, disk, -1, taps, shares))
        for fd in (*held, *fds.values()):
            os.close(fd)
        self._progress = Progress(machine.pid)
        # From here on the guest runs, and may say anything.
        confine.enter(user, request["filter"])
        if stopped:
            machine.monitor.run("cont")
        self.meet(machine.port.fileno())
        self._start(stdio)
        self._deadline = time.monotonic() + LONGEST
        self.loop.watch(self._parent.fileno(), lambda _: self._forsaken())
        while self.code is None:
            self.loop.turn(0.1 if self._deadline else -1)
            if self._progress is not None and self._progress.stands_still():
                self._tell_failure(
                    f"QEMU has done nothing for {STANDSTILL:g} s and its guest does not answer: {self.log.last()}"
                )
                break
            if self._deadline and time.monotonic() > self._deadline:
                self._tell_failure(f"the guest does not answer: {self.log.last()}")
                break
        return 255 if self.code is None else self.code

    def _follow(self, machine: Machine) -> Machine:
        self.log.follow(machine.console, machine.errors)
        return machine

    def _boot(self, shape: Shape, parts: Parts) -> Machine:
        """A machine from nothing; its guest then mounts the container's disk itself, as the one that it finds fresh."""
        parts.memory = os.memfd_create("sampan-memory", os.MFD_CLOEXEC)
        os.ftruncate(parts.memory, shape.memory << 20)
        self._request["guest"]["writable"] = self._request["guest"]["writable"].replace("disk", "fresh")
        machine = microvm(self._user, shape, parts, restored=False)
        os.close(parts.memory)
        return self._follow(machine)

    def lost(self, why: str) -> None:
        """Nobody can go on then."""
        if why:
            self.log.write(f"sampan: the guest is ended, since its agent does not keep to the protocol: {why}")
            self._write_report(error=f"the guest was ended, since its agent does not keep to the protocol: {why}")
        if self.code is None:
            self._tell_failure(f"the guest has ended: {why or self.log.last()}")
            self.code = 255

    def _start(self, stdio: Stdio | None) -> None:
        if stdio is None:
            self.mux.source(1, os.dup(self._slave))
            self.mux.sink(2, os.dup(self._slave))
        else:
            for stream, fd in enumerate(stdio, 1):
                if stream == 1:
                    self.mux.source(1, fd)
                else:
                    self.mux.sink(stream, fd)
        inner, guest, entropy = self._request["inner"], self._request["guest"], os.urandom(64).hex()
        if "spec" in inner:
            start = requests.Start(
                _INIT, 1, time.time(), entropy, guest, inner["spec"], inner["cgroup"] or "", inner["seccomp"]
            )
            self.ask(start, self._started)
        else:
            self.ask(requests.Open(time.time(), entropy, guest, inner["cwd"]), self._started)

    def _started(self, reply: Reply) -> None:
        self._deadline = 0.0
        if self._progress is not None:
            self._progress.close()
            self._progress = None
        if self._parent.fileno() >= 0:
            self.loop.forget(self._parent.fileno())
        if reply.error:
            self._tell_failure(reply.error, reply.failure)
            self.code = 125
            return
        if self._for_files:
            self._deadline = time.monotonic() + _PATIENCE
        for text in reply.warnings:
            channel.send(self._parent, kind="warning", text=text)
        self._parent.close()

    def _forsaken(self) -> None:
        """Who wanted the container has ended before it ran."""
        self.loop.forget(self._parent.fileno())
        self.code = 125

    def _tell_failure(self, text: str, kind: str = "other") -> None:
        if self._parent.fileno() >= 0:
            channel.send_failure(self._parent, RuntimeFailure(text, kind))

    def _init_exited(self, end: Exit) -> None:
        """The container has ended: when its last words have been passed on, so do we."""
        self._write_report(oom=end.oom)
        code = exit_code(end.status)
        self._deadline = time.monotonic() + _LAST_WORDS

        def check(*_: object) -> None:
            if self.mux.ended(2) and self.mux.ended(3):
                self.code = code

        self.mux.when_ended(2, check)
        self.mux.when_ended(3, check)
        check()

    def signalled(self, number: int) -> None:
        """Signals are the container's."""
        if number == signal.SIGWINCH and self._slave >= 0:
            rows, columns = terminal.size(self._slave)
            self.tell(requests.Resize(_INIT, rows, columns))
        else:
            self.tell(requests.Signal(_INIT, number))

    def drive(self, request: Request) -> object:
        """What size the machine is, how much of it the guest may have, and a tap of it."""
        assert self.machine is not None
        if isinstance(request, requests.GetShape):
            return self._request["shape"]
        if isinstance(request, requests.TakeTap):
            if request.slot in self._slots:
                tap.persist(self._slots[request.slot], False)
            return None
        if isinstance(request, requests.Balloon):
            return self.machine.monitor.run("balloon", value=request.bytes)
        return NotImplemented

    def came(self) -> None:
        """A machine for files has what it waits for."""
        if self._for_files:
            self._deadline = 0.0

    def left(self, client: Client) -> None:
        """A machine for files has done what it was for."""
        super().left(client)
        if self._for_files:
            self._deadline = time.monotonic() + _PATIENCE
            self.ask(requests.Close(), self._files_closed)

    def _files_closed(self, _: Reply) -> None:
        self.code = 0

    def _write_report(self, **found: str | bool) -> None:
        """What the engine reads when this process has ended."""
        try:
            os.pwrite(self._report, quickjson.dumps(found).encode(), 0)
        except OSError as error:
            self.log.write(f"sampan: no report: {error}")


def _open_shares(rows: list[ShareRow], table: int) -> tuple[list[Share], list[int]]:
    """The shares, and descriptors to hold meanwhile: one that the engine has opened gets the path of that very file.

    `table`: the engine's table of descriptors (runtime/sources).
    """
    shares: list[Share] = []
    held: list[int] = []
    for row in rows:
        path = row["path"]
        if (number := row.get("source_fd", -1)) >= 0:
            held.append(os.open(str(number), os.O_PATH | os.O_CLOEXEC, dir_fd=table))
            path = f"/proc/self/fd/{held[-1]}"
        shares.append(Share(path, row["name"], row.get("read_only", False), row.get("follow", False)))
    return shares, held
