"""A system machine's process on the host: its streams are the guest's serial console, SIGTERM is its power button.

Standard library only.
"""

from __future__ import annotations

import os
import signal
import socket
import time

from sampan.runtime.channel import Stdio
from sampan.runtime.errors import NOT_FOUND, OTHER
from sampan.vm import confine, qemu_pc, requests, terminal
from sampan.vm.errors import VmError
from sampan.vm.host import Client, Host, live
from sampan.vm.protocol import Exit, Reply
from sampan.vm.qga import GuestAgent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.keeper.protocol import Descriptors
    from sampan.vm.machine_types import SystemRequest
    from sampan.vm.requests import Request


_NO_AGENT = "the guest has no agent of ours: log in on its console (sampan vm console)"


def main(request: SystemRequest, stdio: Stdio | None, parent: socket.socket, fds: list[int]) -> None:
    """The process's life; never returns. `fds`, named by request["descriptors"]: "network", the namespace; "disk"; "seed", a CD;
    "tap0" and so on."""
    named = dict(zip(request["descriptors"], fds, strict=True))
    live(lambda: SystemVm(request), lambda machine: machine.run(parent, named), parent, [*fds, *(stdio or ())])


class SystemVm(Host):
    """One system machine while it runs."""

    def __init__(self, request: SystemRequest) -> None:
        super().__init__(request["control"], request["console"])
        self._request = request
        self._ready, self._commands = False, 0

    def run(self, parent: socket.socket, fds: dict[str, int]) -> int:
        """Starts the machine and serves until it is switched off. Raises VmError, OSError."""
        request = self._request
        taps = [fd for name, fd in fds.items() if name.startswith("tap")]
        slave = terminal.open_for(parent, {})
        self.listen()
        self.take_signals()
        user = confine.identity()
        machine, qga = qemu_pc.start(user, qemu_pc.Pc(**request["pc"]), fds["disk"], fds["seed"], taps)
        self.machine, self._qga = machine, GuestAgent(self.loop, qga)
        for fd in fds.values():
            os.close(fd)
        confine.enter(user, request["filter"])  # nothing has been read of it yet
        self.log.follow(machine.errors)
        assert machine.monitor
        parent.close()
        self.meet(machine.port.fileno())
        self._join(machine.console, slave)
        while self.code is None:
            self.loop.turn(0.1 if self._qga.busy else -1)
            self._qga.tick()
        return self.code

    def begin(self, client: Client, sequence: int, request: requests.Exec | requests.Job, stdio: Descriptors) -> None:
        """By our agent where there is one, else by QEMU's."""
        if self._ready:
            super().begin(client, sequence, request, stdio)
            return
        if isinstance(request, requests.Job):
            raise VmError(_NO_AGENT)
        self._commands += 1
        identifier = f"qga{self._commands}"

        def begun(error: str) -> None:
            client.begun(Reply(0, error, NOT_FOUND if error else OTHER), identifier, sequence)
            if error:
                for fd in stdio.values():
                    os.close(fd)

        def ended(status: int, out: bytes, err: bytes) -> None:
            for fd, data in ((stdio["stdout"], out), (stdio.get("stderr", stdio["stdout"]), err)):
                _write_all(fd, data)
            for fd in stdio.values():
                os.close(fd)
            client.ended(Exit(identifier, status))

        self._qga.run(request.process, stdio["stdin"], begun, ended)

    def _join(self, console: socket.socket, slave: int) -> None:
        """The serial line and our terminal, a byte for a byte. What nobody reads is lost, as on a real line."""
        os.set_blocking(slave, False)
        console.setblocking(False)

        def out(_: int) -> None:
            try:
                data = console.recv(65536)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self.loop.forget(console.fileno())
                return
            try:
                os.write(slave, data)
            except BlockingIOError:
                pass

        def into(_: int) -> None:
            try:
                data = os.read(slave, 4096)
                if data:
                    console.send(data)
            except BlockingIOError:
                pass
            except OSError:
                self.loop.forget(slave)

        self.loop.watch(console.fileno(), out)
        self.loop.watch(slave, into)

    def lost(self, why: str) -> None:
        """QEMU ends when the guest switches the machine off; any other end of it is none that the guest wanted."""
        assert self.machine is not None
        if why:
            self.log.write(f"sampan: the machine is ended, since its agent does not keep to the protocol: {why}")
            self.code = 255
            return
        self.code = 0 if self.machine.wait() == 0 else 255

    def signalled(self, number: int) -> None:
        """SIGTERM and its like press the power button (ACPI); the guest may do as it likes."""
        assert self.machine is not None
        if number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
            try:
                self.machine.monitor.run("system_powerdown")
            except VmError:
                self.code = 0
            if self._ready:
                self.ask(requests.Shutdown(), lambda _: None)

    def ready(self) -> None:
        """The agent of a disk of ours: tells it who it is."""
        if self._ready:
            self.forget_guest()
        self._ready = True
        self._set_clock()
        for interface in self._request["interfaces"]:
            self.ask(requests.Connect(interface, self._request["names"]), lambda _: None)
        servers = ["127.0.0.11"] if self._request["names"] else self._request["servers"]
        self.ask(requests.Named(self._request["hostname"], servers), lambda _: None)

    def _set_clock(self) -> None:
        self.ask(requests.Clock(time.time(), os.urandom(64).hex()), lambda _: None)

    def drive(self, request: Request) -> object:
        """What is asked of the machine, and not of its guest."""
        assert self.machine is not None
        monitor = self.machine.monitor
        if isinstance(request, requests.Pause):
            monitor.run("stop")
        elif isinstance(request, requests.Resume):
            monitor.run("cont")
        elif isinstance(request, requests.Reset):
            return monitor.run("system_reset")
        elif isinstance(request, requests.SaveSnapshot | requests.LoadSnapshot | requests.DeleteSnapshot):
            monitor.human(f"{request.op} {request.name}")
        elif isinstance(request, requests.IsReady):
            return self._ready
        elif not self._ready and not isinstance(request, requests.Exec):
            raise VmError(_NO_AGENT)
        else:
            return NotImplemented
        if self._ready and isinstance(request, requests.Resume | requests.LoadSnapshot):
            self._set_clock()
        return None


def _write_all(fd: int, data: bytes) -> None:
    """Writes to a pipe that is read; one that nobody reads loses the rest."""
    os.set_blocking(fd, True)
    try:
        while data:
            data = data[os.write(fd, data) :]
    except OSError:
        pass
