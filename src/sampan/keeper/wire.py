"""Messages between sampand and the keeper: a length, JSON, and descriptors beside the first byte.

Neither side trusts the other to read, to write whole messages, or to write messages at all: what waits to be sent is
queued up to a limit and never blocks, and anything else than a message ends the connection it came by.
"""

from __future__ import annotations

import os
import socket
import struct
from collections import deque

from sampan import quickjson
from sampan.linux import descriptors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    Message = dict[str, Any]

_HEADER = struct.Struct("!I")
MAX_MESSAGE = 16 << 20
MAX_FDS = 16
_MAX_QUEUE = 4 * MAX_MESSAGE


class TooLong(Exception):
    """A message that no peer would take."""


class NotRead(OSError):
    """The peer has not read for so long that no more is kept for it."""


def encode(message: Message) -> bytes:
    """One message as bytes on the wire. Raises TooLong."""
    body = quickjson.dumps(message).encode()
    if len(body) > MAX_MESSAGE:
        raise TooLong(f"{len(body) / (1 << 20):.1f} MiB, and {MAX_MESSAGE >> 20} MiB is the most")
    return _HEADER.pack(len(body)) + body


def send(sock: socket.socket, message: Message, fds: list[int] | None = None) -> None:
    """Sends a message over a blocking socket, with descriptors attached to its first bytes."""
    data = encode(message)
    sent = socket.send_fds(sock, [data], fds) if fds else sock.send(data)
    if sent < len(data):
        sock.sendall(data[sent:])


class Outbox:
    """What is on its way to a peer over a socket that does not block. Descriptors that wait are copies of ours."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._queue: deque[tuple[memoryview, list[int]]] = deque()
        self._size = 0

    def put(self, message: Message, fds: list[int] | None = None) -> bool:
        """Sends what can be sent now; False when some of it has to wait for flush(). Raises TooLong, OSError."""
        data = memoryview(encode(message))
        if self._size + len(data) > _MAX_QUEUE:
            raise NotRead("the peer does not read")
        if not self._queue:
            sent = self._send(data, fds or [])
            if sent == len(data):
                return True
            data, fds = data[sent:], [] if sent else fds
        self._queue.append((data, [os.dup(fd) for fd in fds or []]))
        self._size += len(data)
        return False

    def flush(self) -> bool:
        """Sends more; whether all has gone. Raises OSError."""
        while self._queue:
            data, fds = self._queue[0]
            sent = self._send(data, fds)
            if not sent:
                return False
            self._size -= sent
            _close_all(fds)
            if sent < len(data):
                self._queue[0] = (data[sent:], [])
                return False
            self._queue.popleft()
        return True

    def _send(self, data: memoryview, fds: list[int]) -> int:
        try:
            return socket.send_fds(self._sock, [data], fds) if fds else self._sock.send(data)
        except (BlockingIOError, InterruptedError):
            return 0

    def close(self) -> None:
        """Gives up what has not gone."""
        while self._queue:
            _close_all(self._queue.popleft()[1])


class Reader:
    """Collects bytes and descriptors from a stream socket into whole messages."""

    def __init__(self, most: int = MAX_MESSAGE) -> None:
        self._most = most  # bytes of a message
        self._buffer = bytearray()
        self._fds: list[int] = []

    def receive(self, sock: socket.socket) -> list[tuple[Message, list[int]]] | None:
        """Reads what is there. Returns the complete messages, or None at the end of the stream, which is also where
        something comes that is no message.

        A sender attaches descriptors to one message at a time and says their number in "fds". A receiver whose table is
        full gets fewer than that.
        """
        try:
            data, fds = descriptors.receive(sock, 256 << 10, MAX_FDS)
        except (BlockingIOError, InterruptedError):
            return []
        except OSError:
            return None
        self._fds += fds
        if not data or len(self._fds) > 2 * MAX_FDS:
            return None
        self._buffer += data
        found: list[tuple[Message, list[int]]] = []
        try:
            found.extend(self._messages())
        except (ValueError, RecursionError):
            for _, taken in found:
                _close_all(taken)
            return None
        if not self._buffer:
            self.close()  # more than their messages said
        return found

    def _messages(self) -> Iterator[tuple[Message, list[int]]]:
        while len(self._buffer) >= _HEADER.size:
            (length,) = _HEADER.unpack_from(self._buffer)
            if length > self._most:
                raise ValueError(f"a message of {length} bytes")
            end = _HEADER.size + length
            if len(self._buffer) < end:
                return
            message = quickjson.loads(bytes(self._buffer[_HEADER.size : end]))
            del self._buffer[:end]
            count = message.get("fds", 0) if isinstance(message, dict) else -1
            if type(count) is not int or not 0 <= count <= MAX_FDS:
                raise ValueError("not a message")
            taken, self._fds = self._fds[:count], self._fds[count:]
            yield message, taken

    def close(self) -> None:
        """Closes descriptors that belong to no complete message."""
        _close_all(self._fds)
        self._fds = []


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
