"""A machine's process on the host: the parent of its QEMU, and what the engine takes for the container.

It has the container's standard streams, takes its signals, and ends with its exit code; so the keeper looks
after it as after any other. It is process 1 of a pid namespace: when it ends, however, QEMU does. Over its
socket it takes what else is asked of the guest (`relay` and the engine do). Standard library only.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable

from sampan import quickjson
from sampan.keeper import wire
from sampan.linux import prctl, signals, tap
from sampan.runtime import channel
from sampan.runtime.channel import Stdio
from sampan.runtime.errors import RuntimeFailure
from sampan.vm import terminal
from sampan.vm.console import ConsoleLog
from sampan.vm.dnsrelay import DnsRelay
from sampan.vm.errors import VmError
from sampan.vm.hypervisor import SLOTS, Machine, Parts, Shape, said
from sampan.vm.jail import Share
from sampan.vm.loop import Loop
from sampan.vm.mux import Mux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Answer = Callable[[dict[str, Any]], None]

_INIT = "init"
_PATIENCE = 10.0  # seconds that a machine for files waits for somebody, and for its guest's end
_LAST_WORDS = 5.0  # seconds that the main process's output may take after its end


def main(request: dict[str, Any], stdio: Stdio | None, parent: socket.socket, fds: list[int]) -> None:
    """The process's life; never returns. `fds`: network namespace, memory, the disks, the devices' state, taps."""
    prctl.set_name("sampan-vm")
    prctl.set_dumpable(False)
    keep = sorted({0, 1, 2, parent.fileno(), *fds, *(stdio or ())})
    for before, after in zip(keep, [*keep[1:], 1 << 20], strict=True):
        os.closerange(before + 1, after)
    shim = Shim(request, parent)
    try:
        code = shim.run(stdio, fds)
    except (VmError, OSError) as error:
        channel.send_failure(parent, RuntimeFailure(f"virtual machine: {error}: {said(request['console'])}"))
        code = 125
    shim.close()
    os._exit(code)


class Shim:
    """One machine while it runs."""

    def __init__(self, request: dict[str, Any], parent: socket.socket) -> None:
        self._request, self._parent = request, parent
        self._loop = Loop()
        self._waiting: dict[int, Answer] = {}
        self._sequence, self._streams = 0, 16
        self._exits: dict[str, Callable[[dict[str, Any]], None]] = {_INIT: self._init_exited}
        self._machine: Machine | None = None
        self._code: int | None = None
        self._deadline = 0.0
        self._for_files = request["inner"].get("op") == "open"  # there is no container, and no end by itself
        self._slave = -1
        self._listener: socket.socket | None = None

    def run(self, stdio: Stdio | None, fds: list[int]) -> int:
        """Starts the machine and the container in it, and serves until that has ended. Raises VmError, OSError."""
        request = self._request
        shape = Shape(**request["shape"])
        namespace, memory, root, disk, state = fds[:5]
        given = dict(zip(request["slots"], fds[5:], strict=True))
        taps = [given[slot] if slot in given else tap.new(f"slot{slot}") for slot in range(SLOTS)]
        disks = (disk, -1) if request["guest"]["writable"] == "fresh" else (-1, disk)
        parts = Parts(memory, root, *disks, taps, [Share(**share) for share in request["shares"]])
        log = os.open(request["console"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        restored = bool(request["restored"])
        self._machine = machine = Machine(shape, parts, log, restored)
        ConsoleLog(self._loop, machine.console, request["console"])
        for fd in (log, namespace, memory, root, disk, *taps):
            os.close(fd)
        if stdio is None:
            self._slave = terminal.open_for(self._parent, request["spec"]["process"])
        self._listen()
        self._take_signals()
        if restored:
            machine.monitor.restore(state)
        os.close(state)
        if restored:
            machine.monitor.run("cont")
        self._mux = Mux(self._loop, machine.port.fileno(), self._message, self._lost)
        self._names = DnsRelay(self._mux)
        self._start(stdio)
        while self._code is None:
            self._loop.turn(0.1 if self._deadline else -1)
            if self._deadline and time.monotonic() > self._deadline:
                break
        return 255 if self._code is None else self._code

    def close(self) -> None:
        """Ends QEMU and removes the socket."""
        if self._machine is not None:
            self._machine.end()
        if self._listener is not None:
            try:
                os.unlink(self._request["control"])
            except OSError:
                pass

    # the guest

    def ask(self, message: dict[str, Any], answer: Answer) -> None:
        """Sends a request to the agent; `answer` gets its reply."""
        self._sequence += 1
        self._waiting[self._sequence] = answer
        self._mux.send({**message, "seq": self._sequence})

    def _message(self, message: dict[str, Any]) -> None:
        event = message.get("event")
        if event is None:
            answer = self._waiting.pop(message["seq"], None)
            if answer is not None:
                answer(message)
        elif event == "exit" and message["id"] in self._exits:
            self._exits.pop(message["id"])(message)
        elif event == "dns":
            self._names.ask(message)

    def _lost(self) -> None:
        if self._code is None:
            self._tell_failure(f"the guest has ended: {said(self._request['console'])}")
            self._code = 255

    def _start(self, stdio: Stdio | None) -> None:
        if stdio is None:
            self._mux.source(1, os.dup(self._slave))
            self._mux.sink(2, os.dup(self._slave))
        else:
            for stream, fd in enumerate(stdio, 1):
                if stream == 1:
                    self._mux.source(1, fd)
                else:
                    self._mux.sink(stream, fd)
        message = {"time": time.time(), "entropy": secrets.token_hex(64), "guest": self._request["guest"]}
        message |= {"op": "start", "id": _INIT, "base": 1, **self._request["inner"]}
        self.ask(message, self._started)

    def _started(self, reply: dict[str, Any]) -> None:
        if "error" in reply:
            self._tell_failure(reply["error"], reply.get("failure", "other"))
            self._code = 125
            return
        if self._for_files:
            self._deadline = time.monotonic() + _PATIENCE
        for text in reply.get("warnings") or []:
            channel.send(self._parent, kind="warning", text=text)
        self._parent.close()

    def _tell_failure(self, text: str, kind: str = "other") -> None:
        if self._parent.fileno() >= 0:
            channel.send_failure(self._parent, RuntimeFailure(text, kind))

    def _init_exited(self, message: dict[str, Any]) -> None:
        """The container has ended: when its last words have been passed on, so do we."""
        _write_json(self._request["report"], {key: message.get(key) for key in ("oom",)})
        code = _exit_code(message["status"])
        self._deadline = time.monotonic() + _LAST_WORDS

        def check(*_: Any) -> None:
            if self._mux.ended(2) and self._mux.ended(3):
                self._code = code

        self._mux.when_ended(2, check)
        self._mux.when_ended(3, check)
        check()

    # signals

    def _take_signals(self) -> None:
        reader = signals.to_pipe()

        def taken(_: int) -> None:
            for number in os.read(reader, 256):
                self._signalled(number)

        self._loop.watch(reader, taken)

    def _signalled(self, number: int) -> None:
        if number == signal.SIGWINCH and self._slave >= 0:
            rows, columns = terminal.size(self._slave)
            self._mux.send({"op": "resize", "id": _INIT, "rows": rows, "columns": columns, "seq": 0})
        else:
            self._mux.send({"op": "signal", "id": _INIT, "number": number, "seq": 0})

    # the socket

    def _listen(self) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        old = os.umask(0o177)
        try:
            self._listener.bind(self._request["control"])
        finally:
            os.umask(old)
        self._listener.listen(64)
        self._loop.watch(self._listener.fileno(), lambda _: self._accept())

    def _accept(self) -> None:
        assert self._listener is not None
        _Client(self, self._loop, self._listener.accept()[0])
        if self._for_files:
            self._deadline = 0.0

    def serve(self, client: _Client, message: dict[str, Any], fds: list[int]) -> None:
        """One request from the socket."""
        sequence = message.pop("seq")

        def answer(reply: dict[str, Any]) -> None:
            client.send({**reply, "seq": sequence})

        operation = message["op"]
        if operation in ("exec", "job"):
            self._begin(client, message, fds, answer)
        elif operation == "balloon":
            try:
                answer({"result": self._balloon(message["bytes"])})
            except VmError as error:
                answer({"error": str(error)})
        elif operation == "shape":
            answer({"result": self._request["shape"]})
        else:
            self.ask(message, answer)

    def _begin(self, client: _Client, message: dict[str, Any], fds: list[int], answer: Answer) -> None:
        """A further process in the guest, with three of our descriptors, or one that is a terminal."""
        base = self._streams
        self._streams += 3
        identifier = message["id"] = f"{message['op']}{base}"
        client.started.append(identifier)
        self._mux.source(base, fds[0])
        self._mux.sink(base + 1, fds[1])
        if len(fds) > 2:
            self._mux.sink(base + 2, fds[2])

        def over(event: dict[str, Any]) -> None:
            self._mux.drop(base)
            self._mux.when_ended(base + 1, lambda: self._mux.when_ended(base + 2, lambda: client.send({**event, "code": _exit_code(event["status"])})))  # fmt: skip

        def begun(reply: dict[str, Any]) -> None:
            if "error" in reply:
                for stream in (base, base + 1, base + 2):
                    self._mux.drop(stream)
            answer({**reply, "id": identifier})

        self._exits[identifier] = over
        self.ask({**message, "base": base}, begun)

    def _balloon(self, size: int) -> Any:
        """Takes memory from the guest, so that it has `size` bytes of it, or gives it back."""
        assert self._machine is not None
        return self._machine.monitor.run("balloon", value=size)

    def left(self, client: _Client) -> None:
        """Somebody has gone: so must what they have started and not seen the end of."""
        for identifier in client.started:
            if identifier in self._exits:
                self._mux.send({"op": "end", "id": identifier, "seq": 0})
        if self._for_files:
            self._deadline = time.monotonic() + _PATIENCE
            self.ask({"op": "close"}, self._files_closed)

    def _files_closed(self, _: dict[str, Any]) -> None:
        self._code = 0


class _Client:
    """A connection to our socket."""

    def __init__(self, shim: Shim, loop: Loop, sock: socket.socket) -> None:
        self._shim, self._loop, self._sock = shim, loop, sock
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
            self._shim.serve(self, message, fds)

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
            self._shim.left(self)


def _exit_code(status: int) -> int:
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status)


def _write_json(path: str, value: dict[str, Any]) -> None:
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(quickjson.dumps(value))
    except OSError as error:
        print(f"sampan-vm: {error}", file=sys.stderr)
