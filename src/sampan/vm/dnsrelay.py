"""Questions for the name server: from the guest's 127.0.0.11 to the one that listens there on the host.

The shim is in the network namespace where the engine's name server of this container listens.
"""

from __future__ import annotations

import binascii
import socket

from sampan.vm.mux import Mux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SERVER = ("127.0.0.11", 53)
_AT_ONCE = 64


class DnsRelay:
    """The host's half: one socket for each question that has no answer yet."""

    def __init__(self, mux: Mux) -> None:
        self._mux = mux
        self._sockets: dict[int, socket.socket] = {}

    def ask(self, message: dict[str, Any]) -> None:
        """Passes a question on; its answer goes back as {"op": "dns", "number", "data"}."""
        number = message["number"]
        if len(self._sockets) >= _AT_ONCE:
            self._forget(next(iter(self._sockets)))
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        self._sockets[number] = sock
        self._mux.loop.watch(sock.fileno(), lambda _: self._answered(number))
        try:
            sock.connect(_SERVER)
            sock.send(binascii.a2b_base64(message["data"]))
        except OSError:
            self._forget(number)

    def _answered(self, number: int) -> None:
        try:
            data = self._sockets[number].recv(65535)
        except OSError:
            data = b""
        self._forget(number)
        if data:
            text = binascii.b2a_base64(data, newline=False).decode()
            self._mux.send({"op": "dns", "number": number, "data": text, "seq": 0})

    def _forget(self, number: int) -> None:
        sock = self._sockets.pop(number)
        self._mux.loop.forget(sock.fileno())
        sock.close()
