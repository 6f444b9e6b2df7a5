"""Messages between a process being set up and its parent, over a seqpacket socket.

The child sends a pty's master as ancillary data, warnings, at most one error. The end of the stream
means that execve succeeded, since the child's end is close-on-exec.
"""

from __future__ import annotations

import os
import select
import socket

from sampan import quickjson
from sampan.linux import descriptors
from sampan.record import field, record
from sampan.runtime.errors import KINDS, OTHER, kind_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.runtime.requests import HandOver

MAX_MESSAGE = 64 << 10
MAX_REQUEST = 128 << 10
_MAX_FDS = 253  # SCM_MAX_FD, unix(7)
_MAX_TEXT = 8192
_WITH_FD = ("tty", "moved")
_WITHOUT_FD = ("warning", "error", "prepared", "created", "started", "leaving")

Stdio = tuple[int, int, int]


@record
class Report:
    """A message from a child. `kind`: "tty", "warning", "error", "prepared", "created", "moved",
    "leaving" or "started"; of a process in the airlock see crossing.read()."""

    kind: str
    text: str = ""
    failure: str = OTHER
    fds: list[int] = field(default_factory=list)


def send(sock: socket.socket, fds: list[int] | None = None, **message: str) -> None:
    """Sends one message. A parent that is gone is no error: the child goes on without it."""
    if "text" in message:
        message["text"] = message["text"][:_MAX_TEXT]
    try:
        socket.send_fds(sock, [quickjson.dumps(message).encode()], fds or [])
    except OSError:
        pass


def deserted(sock: socket.socket) -> bool:
    """Whether the parent has ended."""
    poll = select.poll()
    poll.register(sock.fileno(), 0)
    return any(events & select.POLLHUP for _, events in poll.poll(0))


def send_failure(sock: socket.socket, error: BaseException) -> None:
    """Tells the parent why there will be no process."""
    send(sock, kind="error", text=str(error) or repr(error), failure=kind_of(error))


def receive(sock: socket.socket) -> Report:
    """The child's next message; blocks. After "started", "created" or "error" the channel can be closed.

    A child that reads what a guest says is not trusted: what is no report is an error of its own.
    """
    data, fds = descriptors.receive(sock, MAX_MESSAGE, 1)
    if not data:
        return Report("started")
    try:
        message = quickjson.loads(data)
        kind, text, failure = message["kind"], message.get("text", ""), message.get("failure", OTHER)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        kind = text = failure = None
    if not isinstance(text, str) or failure not in KINDS or (kind in _WITH_FD and not fds):
        kind, text, failure = "error", "the process that was to be set up has sent what is no report", OTHER
    if kind in _WITHOUT_FD:
        for fd in fds:
            os.close(fd)
        fds = []
    return Report(kind, text[:_MAX_TEXT], failure, fds)


def hand_over(sock: socket.socket, what: HandOver, stdio: Stdio | None, fds: list[int]) -> None:
    """Gives a prefork what it is to become. Raises OSError when the prefork is gone or `what` is too large for one message."""
    message = quickjson.dumps({**what, "stdio": stdio is not None}).encode()
    socket.send_fds(sock, [message], [*(stdio or ()), *fds])


def take_over(sock: socket.socket) -> tuple[HandOver, Stdio | None, list[int]]:
    """What hand_over() sent; blocks. Exits when the parent is gone."""
    data, fds = descriptors.receive(sock, MAX_REQUEST, _MAX_FDS)
    if not data:
        os._exit(0)
    what = quickjson.loads(data)
    return (what, (fds[0], fds[1], fds[2]), fds[3:]) if what["stdio"] else (what, None, fds)


def wait_for_go(sock: socket.socket) -> None:
    """Blocks the child until its parent says so. Exits when the parent is gone."""
    if sock.recv(1) != b"g":
        os._exit(1)
