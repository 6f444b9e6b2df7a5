"""An exec's process on the host: gives its streams to the machine's shim, passes signals on, ends with the code.

What the shim says comes from the guest in the end, so this has no rights either when it listens. Standard library only.
"""

from __future__ import annotations

import os
import signal
import socket

from sampan.keeper import wire
from sampan.keeper.protocol import STDIO
from sampan.linux import descriptors, polling, prctl, signals
from sampan.runtime import channel
from sampan.runtime.channel import Stdio
from sampan.runtime.errors import RuntimeFailure
from sampan.vm import confine, protocol, requests, terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.vm.machine_types import ExecRequest
    from sampan.vm.requests import Request


def main(request: ExecRequest, stdio: Stdio | None, parent: socket.socket, fds: list[int]) -> None:
    """The process's life; never returns."""
    prctl.set_name("sampan-exec")
    prctl.set_dumpable(False)
    try:
        code = _run(request, stdio, parent)
    except RuntimeFailure as failure:
        channel.send_failure(parent, failure)
        code = 125
    except Exception as error:
        channel.send_failure(parent, RuntimeFailure(f"virtual machine: {error}"))
        code = 125
    os._exit(code)


def _run(request: ExecRequest, stdio: Stdio | None, parent: socket.socket) -> int:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(request["control"])
    slave = terminal.open_for(parent, request["process"]) if stdio is None else -1
    given = list(stdio) if stdio is not None else [slave, slave]
    descriptors.close_all_but([parent.fileno(), sock.fileno(), *given])
    reader = signals.to_pipe()
    message = requests.to_message(requests.Exec(request["process"], request["seccomp"]))
    wire.send(sock, {**message, "seq": 1, "fds": len(given), "names": STDIO[: len(given)]}, given)
    for fd in stdio or ():
        os.close(fd)
    confine.enter(confine.identity(), request["filter"])
    return _follow(sock, parent, reader, slave)


def _follow(sock: socket.socket, parent: socket.socket, taken: int, slave: int) -> int:
    """Until the exec has ended; its exit code."""
    replies = wire.Reader(protocol.MAX_ANSWER)
    identifier = ""
    while True:
        ready = polling.any_readable([sock.fileno(), taken])
        if taken in ready and identifier:
            for number in os.read(taken, 256):
                if number == signal.SIGWINCH and slave >= 0:
                    rows, columns = terminal.size(slave)
                    request: Request = requests.Resize(identifier, rows, columns)
                else:
                    request = requests.Signal(identifier, number)
                wire.send(sock, {**requests.to_message(request), "seq": 2})
        if sock.fileno() not in ready:
            continue
        messages = replies.receive(sock)
        if messages is None:
            if not identifier:
                raise RuntimeFailure("the virtual machine has ended")
            return 137
        for message, _ in messages:
            if message.get("event") == "exit":
                return int(message["code"]) & 0xFF
            if message.get("seq") == 1 and not identifier:
                if "error" in message:
                    raise RuntimeFailure(message["error"], message.get("failure", "other"))
                identifier = message["id"]
                parent.close()
