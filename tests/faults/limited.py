"""A client that does not wait for ever: what hangs is a fault, and says so."""

from __future__ import annotations

from _socket import socket

from sampan.client.http import Http

HANGING = 20.0  # seconds without a byte


class LimitedHttp(Http):
    """Raises TimeoutError when the engine says nothing for long."""

    def __init__(self, path: str, seconds: float = HANGING) -> None:
        super().__init__(path)
        self.seconds = seconds

    def connect(self) -> socket:
        """A new connection, whose reads and writes have a limit. Raises NoEngine."""
        sock = super().connect()
        sock.settimeout(self.seconds)
        return sock
