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
from sampan.vm import confine, terminal
from sampan.vm.errors import VmError
from sampan.vm.host import Client, Host, live
from sampan.vm.hypervisor import SLOTS, Machine, Parts, Shape, microvm
from sampan.vm.jail import Share
from sampan.vm.progress import LONGEST, STANDSTILL, Progress
from sampan.vm.protocol import Exit, Reply

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_INIT = "init"
_PATIENCE = 10.0  # seconds that a machine for files waits for somebody, and for its guest's end
_LAST_WORDS = 5.0  # seconds that the main process's output may take after its end


def main(request: dict[str, Any], stdio: Stdio | None, parent: socket.socket, fds: list[int]) -> None:
    """The process's life; never returns. `fds`, named by request["descriptors"]: "network", the namespace; "memory", "root",
    "disk" and "state" of the machine; "tap0" and so on of its networks; "sources", the engine's table of descriptors."""
    named = dict(zip(request["descriptors"], fds, strict=True))
    live(lambda: Shim(request, parent), lambda shim: shim.run(stdio, named), parent, [*fds, *(stdio or ())])


class Shim(Host):
    """One machine while it runs."""

    def __init__(self, request: dict[str, Any], parent: socket.socket) -> None:
        super().__init__(request["control"], request["console"])
        self._request, self._parent = request, parent
        self._report = os.open(request["report"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self.exits[_INIT] = self._init_exited
        self._deadline = 0.0
        self._progress: Progress | None = None  # while the guest starts
        self._for_files = request["inner"].get("op") == "open"  # there is no container, and no end by itself
        self._slave = -1
        self._slots: dict[int, int] = {}  # the taps that are on no network

    def run(self, stdio: Stdio | None, fds: dict[str, int]) -> int:
        """Starts the machine and the container in it, and serves until that has ended. Raises VmError, OSError."""
        request = self._request
        shape = Shape(**request["shape"])
        held = _open_shares(request["shares"], fds.get("sources", -1))
        memory, root, disk, state = (fds[name] for name in ("memory", "root", "disk", "state"))
        taps = [fds.get(f"tap{slot}", -1) for slot in range(SLOTS)]
        for slot in range(SLOTS):
            if taps[slot] < 0:
                taps[slot] = self._slots[slot] = tap.new(f"slot{slot}")
                tap.persist(taps[slot], True)
        shares = [Share(**share) for share in request["shares"]]
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
        message = {"time": time.time(), "entropy": os.urandom(64).hex(), "guest": self._request["guest"]}
        message |= {"op": "start", "id": _INIT, "base": 1, **self._request["inner"]}
        self.ask(message, self._started)

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

        def check(*_: Any) -> None:
            if self.mux.ended(2) and self.mux.ended(3):
                self.code = code

        self.mux.when_ended(2, check)
        self.mux.when_ended(3, check)
        check()

    def signalled(self, number: int) -> None:
        """Signals are the container's."""
        if number == signal.SIGWINCH and self._slave >= 0:
            rows, columns = terminal.size(self._slave)
            self.mux.send({"op": "resize", "id": _INIT, "rows": rows, "columns": columns, "seq": 0})
        else:
            self.mux.send({"op": "signal", "id": _INIT, "number": number, "seq": 0})

    def drive(self, operation: str, message: dict[str, Any]) -> Any:
        """What size the machine is, how much of it the guest may have, and a tap of it."""
        assert self.machine is not None
        if operation == "shape":
            return self._request["shape"]
        if operation == "take":  # the tap of this slot is going to the host's network, and must not stay there
            if message["slot"] in self._slots:
                tap.persist(self._slots[message["slot"]], False)
            return None
        if operation == "balloon":
            return self.machine.monitor.run("balloon", value=message["bytes"])
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
            self.ask({"op": "close"}, self._files_closed)

    def _files_closed(self, _: Reply) -> None:
        self.code = 0

    def _write_report(self, **found: Any) -> None:
        """What the engine reads when this process has ended."""
        try:
            os.pwrite(self._report, quickjson.dumps(found).encode(), 0)
        except OSError as error:
            self.log.write(f"sampan: no report: {error}")


def _open_shares(rows: list[dict[str, Any]], table: int) -> list[int]:
    """Gives each share that the engine has opened the path of that very file, by descriptors that are held and returned.

    `table`: the engine's table of descriptors (runtime/sources).
    """
    held: list[int] = []
    for row in rows:
        if (number := row.pop("source_fd", -1)) >= 0:
            held.append(os.open(str(number), os.O_PATH | os.O_CLOEXEC, dir_fd=table))
            row["path"] = f"/proc/self/fd/{held[-1]}"
    return held
