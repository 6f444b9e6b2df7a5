"""Commands in guests that have QEMU's own agent, as distributions package it (qemu-ga(8), qga/qapi-schema.json).

It has no streams: input goes along with the command, output comes at its end. Whatever answers may be another program:
its answers are of bounded length, and what is not of the expected shape is a failure of the command. Standard library only.
"""

from __future__ import annotations

import binascii
import os
import socket
import time
from collections.abc import Callable

from sampan import quickjson
from sampan.linux.eventloop import Loop
from sampan.vm.protocol import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.keeper.fields import Message
    from sampan.oci.runtime_spec import Process

    Answer = Callable[[Message], None]
    Begun = Callable[[str], None]
    Ended = Callable[[int, bytes, bytes], None]

_PATIENCE, _POLL = 3.0, 0.2  # seconds: for an answer, between two questions whether a command has ended
_MOST_INPUT = 4 << 20
_MAX_LINE = 48 << 20  # the agent keeps 16 MiB of each output (guest-exec), which base64 makes longer
_MAX_COMMANDS = 64
_NO_AGENT = "the guest has no agent: neither Sampan's nor QEMU's (apt-get install qemu-guest-agent); try its console"
_SIGNALS = range(1, 65)


class GuestAgent:
    """The conversation with it, one request at a time."""

    def __init__(self, loop: Loop, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._loop, self._sock = loop, sock
        self._received = bytearray()
        self._number = 0
        self._queue: list[tuple[int, bytes, Answer]] = []
        self._asked: tuple[int, float, Answer] | None = None  # its number, until when, and who wants to know
        self._polls: dict[int, tuple[float, Ended]] = {}  # by pid: when to ask next
        loop.watch(sock.fileno(), lambda _: self._readable())

    @property
    def busy(self) -> bool:
        """Whether tick() has something to do from time to time."""
        return bool(self._asked or self._queue or self._polls)

    def run(self, process: Process, reader: int, begun: Begun, ended: Ended) -> None:
        """Runs process["args"] with what can be read from `reader` as its input.

        `begun` gets why it does not run, or ""; `ended` the status (of wait) and the two outputs.
        """
        if len(self._polls) + len(self._queue) >= _MAX_COMMANDS:
            begun("the guest has too many commands under way")
            return
        try:
            data = _read_all(reader)
        except OSError:
            data = b""
        arguments = {"path": process["args"][0], "arg": process["args"][1:], "env": process["env"], "capture-output": True,
                     "input-data": binascii.b2a_base64(data, newline=False).decode()}  # fmt: skip

        def started(answer: Message) -> None:
            if "error" in answer:
                begun(_description(answer))
                return
            found = answer.get("return")
            pid = found.get("pid") if isinstance(found, dict) else None
            if type(pid) is not int or pid in self._polls:
                begun("the guest's agent does not say which process it has started")
                return
            begun("")
            self._polls[pid] = (0.0, ended)

        def there(answer: Message) -> None:
            # Only now: what nobody reads waits in the port, and would be run whenever an agent comes.
            if "error" in answer:
                started(answer)
            else:
                self._ask("guest-exec", arguments, started)

        self._ask("guest-ping", {}, there)

    def _ask(self, command: str, arguments: Message, answer: Answer) -> None:
        self._number += 1
        message = {"execute": command, "arguments": arguments, "id": self._number}
        self._queue.append((self._number, quickjson.dumps(message).encode() + b"\n", answer))
        self._next()

    def _next(self) -> None:
        if self._asked is not None or not self._queue:
            return
        number, line, answer = self._queue.pop(0)
        self._asked = (number, time.monotonic() + _PATIENCE, answer)
        self._sock.setblocking(True)
        self._sock.settimeout(1)
        try:
            self._sock.sendall(line)
        except OSError:
            self._give({"error": {"desc": "the guest does not read"}})
        finally:
            self._sock.setblocking(False)

    def _give(self, message: Message) -> None:
        asked, self._asked = self._asked, None
        if asked is not None:
            asked[2](message)
        self._next()

    def _readable(self) -> None:
        try:
            data = self._sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._loop.forget(self._sock.fileno())
            return
        begin = len(self._received)
        self._received += data
        while (end := self._received.find(b"\n", begin)) >= 0:
            line = bytes(self._received[:end])
            del self._received[: end + 1]
            begin = 0
            try:
                message = quickjson.loads(line)
            except (ValueError, RecursionError, MemoryError):
                continue
            if self._asked is not None and isinstance(message, dict) and message.get("id") == self._asked[0]:
                self._give(message)  # and no answer that nobody waits for any more
        if len(self._received) > _MAX_LINE:
            self._received.clear()

    def tick(self) -> None:
        """What time brings: nobody has answered, or a command may have ended."""
        now = time.monotonic()
        if self._asked is not None and now > self._asked[1]:
            # Each of them is told: whoever waits would wait for ever.
            queued, self._queue = self._queue, []
            self._give({"error": {"desc": _NO_AGENT}})
            for _, _, answer in queued:
                answer({"error": {"desc": _NO_AGENT}})
        for pid, (when, ended) in list(self._polls.items()):
            if now >= when:
                self._polls[pid] = (now + _POLL, ended)
                self._ask("guest-exec-status", {"pid": pid}, lambda answer, pid=pid: self._status(pid, answer))  # type: ignore[misc]

    def _status(self, pid: int, answer: Message) -> None:
        found = answer.get("return")
        found = found if isinstance(found, dict) else {}
        if "error" not in answer and not found.get("exited"):
            return
        entry = self._polls.pop(pid, None)
        if entry is None:
            return
        number, code = found.get("signal"), found.get("exitcode", 255)
        if type(number) is int and number in _SIGNALS:
            status = number
        else:
            status = (code & 0xFF if type(code) is int else 255) << 8
        entry[1](status, _decoded(found.get("out-data")), _decoded(found.get("err-data")))


def _description(answer: Message) -> str:
    error = answer["error"]
    text = error.get("desc") if isinstance(error, dict) else None
    return one_line(text[:1000]) if isinstance(text, str) and text else "the guest's agent does not say why"


def _decoded(value: object) -> bytes:
    try:
        return binascii.a2b_base64(value) if isinstance(value, str) else b""
    except ValueError:
        return b""


def _read_all(fd: int) -> bytes:
    """What is there to read until its end, or for a moment: an input that stays open is not waited for."""
    os.set_blocking(fd, False)
    data, deadline = b"", time.monotonic() + 0.2
    while len(data) < _MOST_INPUT and time.monotonic() < deadline:
        try:
            more = os.read(fd, 65536)
        except BlockingIOError:
            time.sleep(0.01)
            continue
        if not more:
            break
        data += more
    return data
