"""Connections to a daemon that behave as no client should: raw bytes out, raw bytes in."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from types import TracebackType

from tests.conftest import Daemon


def connect(daemon: Daemon, timeout: float = 30) -> socket.socket:
    """A connection."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(timeout)
    for _ in range(200):
        try:
            sock.connect(daemon.socket)
            return sock
        except BlockingIOError:  # as many wait to be taken as the kernel keeps
            time.sleep(0.02)
    raise AssertionError("connections are not taken")


def send(
    daemon: Daemon, method: str, path: str, headers: str = "", body: bytes = b"", timeout: float = 30
) -> socket.socket:
    """A connection with a request on it, of which nothing has been read."""
    sock = connect(daemon, timeout)
    try:
        sock.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode() + body)
    except BrokenPipeError:
        pass  # it was refused before it was sent: the answer lies there
    return sock


def rest(sock: socket.socket) -> bytes:
    """Everything that comes until the connection ends."""
    parts = []
    try:
        while data := sock.recv(1 << 16):
            parts.append(data)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def head(sock: socket.socket) -> bytes:
    """The answer's head and what came with it."""
    data = b""
    while b"\r\n\r\n" not in data:
        try:
            more = sock.recv(1 << 12)
        except ConnectionResetError:
            break
        if not more:
            break
        data += more
    return data


def ask(
    daemon: Daemon, method: str, path: str, body: bytes = b"", headers: str = "", timeout: float = 30
) -> tuple[int, bytes]:
    """The status and the body of one request on a connection of its own."""
    with send(daemon, method, path, f"{headers}Connection: close\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n",
              body, timeout) as sock:  # fmt: skip
        answer = rest(sock)
    first, _, data = answer.partition(b"\r\n\r\n")
    return int(first.split(b" ", 2)[1]), unchunked(data) if b"Transfer-Encoding: chunked" in first else data


def unchunked(data: bytes) -> bytes:
    """What chunks hold. Raises ValueError when the last one is missing."""
    parts, at = [], 0
    while True:
        end = data.index(b"\r\n", at)
        size = int(data[at:end], 16)
        if size == 0:
            return b"".join(parts)
        parts.append(data[end + 2 : end + 2 + size])
        at = end + 4 + size


class Held:
    """Connections that stay open until the end of a `with`."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __enter__(self) -> Held:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def hold(self, sock: socket.socket) -> socket.socket:
        """Keeps one open."""
        return self._stack.enter_context(sock)
