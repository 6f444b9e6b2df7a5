"""Messages between a process being set up and its parent, over a seqpacket socket.

The child sends a pty's master as ancillary data, warnings, at most one error. The end of the stream
means that execve succeeded, since the child's end is close-on-exec.
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass, field

from sampan.runtime.errors import OTHER, RuntimeFailure

_MAX_MESSAGE = 64 << 10
_MAX_TEXT = 8192

Stdio = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Report:
    """A message from a child. `kind`: "tty", "warning", "error", "prepared", "created", "moved" or "started"."""

    kind: str
    text: str = ""
    failure: str = OTHER
    fds: list[int] = field(default_factory=list)


def send(sock: socket.socket, fds: list[int] | None = None, **message: str) -> None:
    """Sends one message. A parent that is gone is no error: the child goes on without it."""
    if "text" in message:
        message["text"] = message["text"][:_MAX_TEXT]
    try:
        socket.send_fds(sock, [json.dumps(message).encode()], fds or [])
    except OSError:
        pass


def send_failure(sock: socket.socket, error: BaseException) -> None:
    """Tells the parent why there will be no process."""
    kind = error.kind if isinstance(error, RuntimeFailure) else OTHER
    send(sock, kind="error", text=str(error) or repr(error), failure=kind)


def receive(sock: socket.socket) -> Report:
    """The child's next message; blocks. After "started", "created" or "error" the channel can be closed."""
    data, fds, _, _ = socket.recv_fds(sock, _MAX_MESSAGE, 1, socket.MSG_CMSG_CLOEXEC)
    if not data:
        return Report("started")
    message = json.loads(data)
    return Report(message["kind"], message.get("text", ""), message.get("failure", OTHER), list(fds))


def wait_for_go(sock: socket.socket) -> None:
    """Blocks the child until its parent says so. Exits when the parent is gone."""
    if sock.recv(1) != b"g":
        os._exit(1)
