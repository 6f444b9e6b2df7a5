"""Messages between sampand and the keeper: a length, JSON, and descriptors beside the first byte."""

from __future__ import annotations

import os
import socket
import struct

from sampan import quickjson

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_HEADER = struct.Struct("!I")
MAX_MESSAGE = 16 << 20
MAX_FDS = 16


def encode(message: dict[str, Any]) -> bytes:
    """One message as bytes on the wire."""
    body = quickjson.dumps(message).encode()
    return _HEADER.pack(len(body)) + body


def send(sock: socket.socket, message: dict[str, Any], fds: list[int] | None = None) -> None:
    """Sends a message over a blocking socket, with descriptors attached to its first bytes."""
    data = encode(message)
    sent = socket.send_fds(sock, [data], fds) if fds else sock.send(data)
    if sent < len(data):
        sock.sendall(data[sent:])


class Reader:
    """Collects bytes and descriptors from a stream socket into whole messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._fds: list[int] = []

    def receive(self, sock: socket.socket) -> list[tuple[dict[str, Any], list[int]]] | None:
        """Reads what is there. Returns the complete messages, or None at the end of the stream.

        A sender attaches descriptors to one message at a time and says their number in "fds".
        """
        try:
            data, fds, _, _ = socket.recv_fds(sock, 256 << 10, MAX_FDS, socket.MSG_CMSG_CLOEXEC)
        except (BlockingIOError, InterruptedError):
            return []
        except OSError:
            return None
        self._fds += fds
        if not data:
            return None
        self._buffer += data
        return list(self._messages())

    def _messages(self) -> Any:
        while len(self._buffer) >= _HEADER.size:
            (length,) = _HEADER.unpack_from(self._buffer)
            if length > MAX_MESSAGE:
                raise ValueError(f"keeper message of {length} bytes")
            end = _HEADER.size + length
            if len(self._buffer) < end:
                return
            message = quickjson.loads(bytes(self._buffer[_HEADER.size : end]))
            del self._buffer[:end]
            count = message.get("fds", 0)
            taken, self._fds = self._fds[:count], self._fds[count:]
            yield message, taken

    def close(self) -> None:
        """Closes descriptors that belong to no complete message."""
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()
