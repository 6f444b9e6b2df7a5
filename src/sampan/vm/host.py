"""A machine's process on the host, whatever the machine is for: its guest, its socket, its signals. Standard library only.

It reads what a guest says, so it has no rights by then (`confine`), and takes typed messages only (`protocol`).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

from sampan.keeper import fields, wire
from sampan.keeper.fields import Malformed
from sampan.keeper.protocol import STDIO, Descriptors
from sampan.linux import descriptors, prctl, signals
from sampan.linux.eventloop import Loop
from sampan.linux.pidfd import exit_code
from sampan.runtime import channel
from sampan.runtime.errors import RuntimeFailure
from sampan.vm import protocol, requests
from sampan.vm.console import ConsoleLog
from sampan.vm.dnsrelay import DnsRelay
from sampan.vm.errors import VmError
from sampan.vm.hypervisor import Machine
from sampan.vm.mux import Mux
from sampan.vm.protocol import Exit, Question, Ready, Reply

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    from sampan.keeper.fields import Message
    from sampan.vm.requests import Request

    Answer = Callable[[Reply], None]
    H = TypeVar("H", bound="Host")

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

    def drive(self, request: Request) -> object:
        """The result of a request that is not for the guest; NotImplemented when it is. Raises VmError."""
        raise NotImplementedError

    def came(self) -> None:
        """Somebody has connected."""

    def ready(self) -> None:
        """The guest's agent has begun, not for the first time perhaps."""

    # the guest

    def ask(self, request: Request, answer: Answer) -> None:
        """Sends a request to the agent; `answer` gets its reply."""
        if len(self._waiting) >= _MAX_WAITING:
            answer(Reply(0, "the guest does not answer"))
            return
        self._sequence += 1
        self._waiting[self._sequence] = answer
        self.mux.send({**requests.to_message(request), "seq": self._sequence})

    def tell(self, request: Request) -> None:
        """Sends a request to the agent whose reply nobody waits for."""
        self.mux.send({**requests.to_message(request), "seq": 0})

    def forget_guest(self) -> None:
        """The guest has begun anew: it knows nothing of what it was asked, and its processes are gone."""
        waiting, self._waiting = self._waiting, {}
        for answer in waiting.values():
            answer(Reply(0, "the guest has booted anew"))
        exits, self.exits = self.exits, {}
        for identifier, call in exits.items():
            call(Exit(identifier, _KILLED))

    def _message(self, message: object) -> None:
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

    def serve(self, client: Client, message: Message, fds: list[int]) -> None:
        """One request from the socket."""
        sequence = message.get("seq", 0)

        def answer(reply: Reply) -> None:
            client.send({**reply.as_message(), "seq": sequence})

        try:
            request = requests.read(message)
            if isinstance(request, requests.Exec | requests.Job):
                self.begin(client, sequence, request, _stdio(message, fds))
                return
            result = self.drive(request)
        except (VmError, Malformed) as error:
            for fd in fds:
                os.close(fd)
            answer(Reply(0, str(error)))
            return
        for fd in fds:
            os.close(fd)
        if result is not NotImplemented:
            answer(Reply(0, result=result))
        else:
            self.ask(request, answer)

    def begin(self, client: Client, sequence: int, request: requests.Exec | requests.Job, stdio: Descriptors) -> None:
        """A further process in the guest, with our descriptors as its streams. Raises VmError."""
        base = request.base = self._streams
        self._streams += requests.STREAMS
        identifier = request.id = f"{request.op}{base}"
        client.started.append(identifier)
        self.mux.source(base, stdio["stdin"])
        self.mux.sink(base + 1, stdio["stdout"])
        if "stderr" in stdio:
            self.mux.sink(base + 2, stdio["stderr"])

        def over(end: Exit) -> None:
            self.mux.drop(base)
            self.mux.when_ended(base + 1, lambda: self.mux.when_ended(base + 2, lambda: client.ended(end)))

        def begun(reply: Reply) -> None:
            if reply.error:
                for stream in (base, base + 1, base + 2):
                    self.mux.drop(stream)
                self.exits.pop(identifier, None)
            client.begun(reply, identifier, sequence)

        self.exits[identifier] = over
        self.ask(request, begun)

    def left(self, client: Client) -> None:
        """Somebody has gone: so must what they have started and not seen the end of."""
        for identifier in client.started:
            if identifier in self.exits:
                self.tell(requests.EndProcess(identifier))


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

    def send(self, message: Message) -> None:
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


def _stdio(message: Message, fds: list[int]) -> Descriptors:
    """The descriptors of an exec or a job, by name; who is older than their names sends them in this order. Raises Malformed."""
    names = fields.texts(message, "names", 16) if "names" in message else list(STDIO[: len(fds)])
    if len(names) != len(fds) or tuple(names) not in (STDIO, STDIO[:2]):
        raise Malformed(f"an {message['op']} takes the descriptors stdin and stdout, and perhaps stderr")
    return dict(zip(names, fds, strict=True))


def live(make: Callable[[], H], run: Callable[[H], int], parent: socket.socket, keep: list[int]) -> None:
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
