"""A machine's process on the host, whatever the machine is for: its guest, its socket, its signals. Standard library only.

It reads what a guest says, so it has no rights by then (`confine`), and takes typed messages only (`protocol`).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

from sampan.keeper import wire
from sampan.linux import descriptors, prctl, signals
from sampan.linux.eventloop import Loop
from sampan.linux.pidfd import exit_code
from sampan.runtime import channel
from sampan.runtime.errors import RuntimeFailure
from sampan.vm import protocol
from sampan.vm.console import ConsoleLog
from sampan.vm.dnsrelay import DnsRelay
from sampan.vm.errors import VmError
from sampan.vm.hypervisor import Machine
from sampan.vm.mux import Mux
from sampan.vm.protocol import Exit, Question, Ready, Reply

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Answer = Callable[[Reply], None]

_MAX_WAITING = 1024  # requests that a guest has not answered
_KILLED = 9


class Host:
    """One machine while it runs. `control`: the path of the socket on which others ask for something; `console`: of the
    file for what QEMU and its guest say."""

    def __init__(self, control: str, console: str) -> None:
        self.loop = Loop()
        self.log = ConsoleLog(self.loop, console)
        self.code: int | None = None  # of this process's end, when it is time
        self.machine: Machine | None = None
        self._control = control
        self._waiting: dict[int, Answer] = {}
        self._sequence, self._streams, self._ignored = 0, 16, 0
        self.exits: dict[str, Callable[[Exit], None]] = {}
        self._listener: socket.socket | None = None

    def meet(self, port: int) -> None:
        """Begins to listen to the guest's agent."""
        self.mux = Mux(self.loop, port, self._message, self.lost, protocol.MAX_HEARD)
        self._names = DnsRelay(self.mux)

    def close(self) -> None:
        """Ends QEMU."""
        if self.machine is not None:
            self.machine.end()

    # for those who know what the machine is for

    def lost(self, why: str) -> None:
        """The guest is listened to no more: QEMU has ended or, with a reason, the guest has sent what it may not."""
        raise NotImplementedError

    def signalled(self, number: int) -> None:
        """This process was sent a signal."""
        raise NotImplementedError

    def drive(self, operation: str, message: dict[str, Any]) -> Any:
        """A request that is not for the guest; NotImplemented when it is. Raises VmError."""
        raise NotImplementedError

    def came(self) -> None:
        """Somebody has connected."""

    def ready(self) -> None:
        """The guest's agent has begun, not for the first time perhaps."""

    # the guest

    def ask(self, message: dict[str, Any], answer: Answer) -> None:
        """Sends a request to the agent; `answer` gets its reply."""
        if len(self._waiting) >= _MAX_WAITING:
            answer(Reply(0, "the guest does not answer"))
            return
        self._sequence += 1
        self._waiting[self._sequence] = answer
        self.mux.send({**message, "seq": self._sequence})

    def forget_guest(self) -> None:
        """The guest has begun anew: it knows nothing of what it was asked, and its processes are gone."""
        waiting, self._waiting = self._waiting, {}
        for answer in waiting.values():
            answer(Reply(0, "the guest has booted anew"))
        exits, self.exits = self.exits, {}
        for identifier, call in exits.items():
            call(Exit(identifier, _KILLED))

    def _message(self, message: Any) -> None:
        """One from the guest. Raises VmError, which is the end of listening to it."""
        found = protocol.parse(message)
        if isinstance(found, Reply) and found.seq in self._waiting:
            self._waiting.pop(found.seq)(found)
        elif isinstance(found, Exit) and found.id in self.exits:
            self.exits.pop(found.id)(found)
        elif isinstance(found, Question) and self._names.ask(found):
            pass
        elif isinstance(found, Ready):
            self.ready()
        else:
            self._ignored += 1
            if self._ignored + self.mux.ignored > protocol.MAX_IGNORED:
                raise protocol.BrokenProtocol("it goes on sending what nobody has asked for")

    # signals

    def take_signals(self) -> None:
        """Has signalled() called from now on."""
        reader = signals.to_pipe()

        def taken(_: int) -> None:
            for number in os.read(reader, 256):
                self.signalled(number)

        self.loop.watch(reader, taken)

    # the socket

    def listen(self) -> None:
        """Takes requests from now on."""
        self._listener = socket.socket(socket.AF_UNIX)
        try:
            os.unlink(self._control)  # of a machine that was killed
        except FileNotFoundError:
            pass
        old = os.umask(0o177)
        try:
            self._listener.bind(self._control)
        finally:
            os.umask(old)
        self._listener.listen(64)
        self.loop.watch(self._listener.fileno(), lambda _: self._accept())

    def _accept(self) -> None:
        assert self._listener is not None
        Client(self, self.loop, self._listener.accept()[0])
        self.came()

    def serve(self, client: Client, message: dict[str, Any], fds: list[int]) -> None:
        """One request from the socket."""
        sequence = message["seq"]

        def answer(reply: Reply) -> None:
            client.send({**reply.as_message(), "seq": sequence})

        operation = message["op"]
        try:
            result = self.drive(operation, message)
        except VmError as error:
            for fd in fds:
                os.close(fd)
            answer(Reply(0, str(error)))
            return
        if result is not NotImplemented:
            answer(Reply(0, result=result))
        elif operation in ("exec", "job"):
            self.begin(client, message, fds, answer)
        else:
            self.ask(message, answer)

    def begin(self, client: Client, message: dict[str, Any], fds: list[int], answer: Answer) -> None:
        """A further process in the guest, with three of our descriptors, or one that is a terminal."""
        base = self._streams
        self._streams += 3
        identifier = message["id"] = f"{message['op']}{base}"
        client.started.append(identifier)
        self.mux.source(base, fds[0])
        self.mux.sink(base + 1, fds[1])
        if len(fds) > 2:
            self.mux.sink(base + 2, fds[2])

        def over(end: Exit) -> None:
            self.mux.drop(base)
            self.mux.when_ended(base + 1, lambda: self.mux.when_ended(base + 2, lambda: client.ended(end)))

        def begun(reply: Reply) -> None:
            if reply.error:
                for stream in (base, base + 1, base + 2):
                    self.mux.drop(stream)
                self.exits.pop(identifier, None)
            client.begun(reply, identifier, message["seq"])

        self.exits[identifier] = over
        self.ask({**message, "base": base}, begun)

    def left(self, client: Client) -> None:
        """Somebody has gone: so must what they have started and not seen the end of."""
        for identifier in client.started:
            if identifier in self.exits:
                self.mux.send({"op": "end", "id": identifier, "seq": 0})


class Client:
    """A connection to our socket."""

    def __init__(self, host: Host, loop: Loop, sock: socket.socket) -> None:
        self._host, self._loop, self._sock = host, loop, sock
        self._reader = wire.Reader()
        self.started: list[str] = []
        sock.settimeout(5)
        loop.watch(sock.fileno(), lambda _: self._readable())

    def _readable(self) -> None:
        messages = self._reader.receive(self._sock)
        if messages is None:
            self._close()
            return
        for message, fds in messages:
            self._host.serve(self, message, fds)

    def begun(self, reply: Reply, identifier: str, sequence: int) -> None:
        """A process that was asked for runs, or does not."""
        self.send({**reply.as_message(), "id": identifier, "seq": sequence})

    def ended(self, end: Exit) -> None:
        """It has ended."""
        self.send({"event": "exit", "id": end.id, "code": exit_code(end.status), "result": end.result})

    def send(self, message: dict[str, Any]) -> None:
        """Sends a reply or an event."""
        if self._sock.fileno() < 0:
            return
        try:
            wire.send(self._sock, message)
        except OSError:
            self._close()

    def _close(self) -> None:
        if self._sock.fileno() >= 0:
            self._loop.forget(self._sock.fileno())
            self._reader.close()
            self._sock.close()
            self._host.left(self)


def live(make: Callable[[], Host], run: Callable[[Any], int], parent: socket.socket, keep: list[int]) -> None:
    """A shim's life, with the descriptors in `keep` alone: `run(make())` to its end, and the end of the machine.

    Never returns.
    """
    prctl.set_name("sampan-vm")
    prctl.set_dumpable(False)
    descriptors.close_all_but([parent.fileno(), *keep])
    machine = None
    try:
        machine = make()
        code = run(machine)
    except Exception as error:
        said = f": {machine.log.last()}" if machine is not None else ""
        channel.send_failure(parent, RuntimeFailure(f"virtual machine: {error}{said}"))
        code = 125
    if machine is not None:
        machine.close()
    os._exit(code)
