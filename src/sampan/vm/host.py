"""A machine's process on the host, whatever the machine is for: its guest, its socket, its signals. Standard library only."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

from sampan.keeper import wire
from sampan.linux import descriptors, prctl, signals
from sampan.linux.pidfd import exit_code
from sampan.runtime import channel
from sampan.runtime.errors import RuntimeFailure
from sampan.vm.dnsrelay import DnsRelay
from sampan.vm.errors import VmError
from sampan.vm.hypervisor import Machine, said
from sampan.vm.loop import Loop
from sampan.vm.mux import Mux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Answer = Callable[[dict[str, Any]], None]


class Host:
    """One machine while it runs. `control`: the path of the socket on which others ask for something."""

    def __init__(self, control: str) -> None:
        self.loop = Loop()
        self.code: int | None = None  # of this process's end, when it is time
        self.machine: Machine | None = None
        self._control = control
        self._waiting: dict[int, Answer] = {}
        self._sequence, self._streams = 0, 16
        self.exits: dict[str, Callable[[dict[str, Any]], None]] = {}
        self._listener: socket.socket | None = None

    def meet(self, port: int) -> None:
        """Begins to listen to the guest's agent."""
        self.mux = Mux(self.loop, port, self._message, self.lost)
        self._names = DnsRelay(self.mux)

    def close(self) -> None:
        """Ends QEMU and removes the socket."""
        if self.machine is not None:
            self.machine.end()
        if self._listener is not None:
            try:
                os.unlink(self._control)
            except OSError:
                pass

    # for those who know what the machine is for

    def lost(self) -> None:
        """The port to the guest is closed: QEMU has ended."""
        raise NotImplementedError

    def signalled(self, number: int) -> None:
        """This process was sent a signal."""
        raise NotImplementedError

    def drive(self, operation: str, message: dict[str, Any]) -> Any:
        """A request that is not for the guest; NotImplemented when it is. Raises VmError."""
        raise NotImplementedError

    def came(self) -> None:
        """Somebody has connected."""

    def heard(self, event: dict[str, Any]) -> None:
        """The guest says something that only one kind of machine says."""

    # the guest

    def ask(self, message: dict[str, Any], answer: Answer) -> None:
        """Sends a request to the agent; `answer` gets its reply."""
        self._sequence += 1
        self._waiting[self._sequence] = answer
        self.mux.send({**message, "seq": self._sequence})

    def _message(self, message: dict[str, Any]) -> None:
        event = message.get("event")
        if event is None:
            answer = self._waiting.pop(message["seq"], None)
            if answer is not None:
                answer(message)
        elif event == "exit" and message["id"] in self.exits:
            self.exits.pop(message["id"])(message)
        elif event == "dns":
            self._names.ask(message)
        else:
            self.heard(message)

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
        sequence = message.pop("seq")

        def answer(reply: dict[str, Any]) -> None:
            client.send({**reply, "seq": sequence})

        operation = message["op"]
        try:
            result = self.drive(operation, message)
        except VmError as error:
            for fd in fds:
                os.close(fd)
            answer({"error": str(error)})
            return
        if result is not NotImplemented:
            answer({"result": result})
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

        def over(event: dict[str, Any]) -> None:
            self.mux.drop(base)
            self.mux.when_ended(base + 1, lambda: self.mux.when_ended(base + 2, lambda: client.send({**event, "code": exit_code(event["status"])})))  # fmt: skip

        def begun(reply: dict[str, Any]) -> None:
            if "error" in reply:
                for stream in (base, base + 1, base + 2):
                    self.mux.drop(stream)
            answer({**reply, "id": identifier})

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


def live(machine: Host, run: Callable[[], int], console: str, parent: socket.socket, keep: list[int]) -> None:
    """A shim's life, with the descriptors in `keep` alone: `run()` to its end, and the end of the machine. Never returns."""
    prctl.set_name("sampan-vm")
    prctl.set_dumpable(False)
    descriptors.close_all_but([machine.loop.fileno(), parent.fileno(), *keep])
    try:
        code = run()
    except (VmError, OSError) as error:
        channel.send_failure(parent, RuntimeFailure(f"virtual machine: {error}: {said(console)}"))
        code = 125
    machine.close()
    os._exit(code)
