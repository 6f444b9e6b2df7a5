"""Questions for the name server: from the guest's 127.0.0.11 to the one that listens there on the host.

The shim is in the network namespace where the engine's name server of this container listens.
"""

from __future__ import annotations

import binascii
import socket

from sampan.vm import requests
from sampan.vm.mux import Mux
from sampan.vm.protocol import Question

_SERVER = ("127.0.0.11", 53)
_AT_ONCE = 64


class DnsRelay:
    """The host's half: one socket for each question that has no answer yet."""

    def __init__(self, mux: Mux) -> None:
        self._mux = mux
        self._sockets: dict[int, socket.socket] = {}

    def ask(self, question: Question) -> bool:
        """Passes a question on; its answer goes back as `requests.Resolved`. False: it is asked already."""
        number, tcp, data = question.number, question.tcp, question.data
        if number in self._sockets:
            return False
        if len(self._sockets) >= _AT_ONCE:
            self._forget(next(iter(self._sockets)))
        kind = socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM
        sock = socket.socket(socket.AF_INET, kind | socket.SOCK_CLOEXEC)
        self._sockets[number] = sock
        received = bytearray()
        try:
            sock.settimeout(1)  # the server is in this very namespace
            sock.connect(_SERVER)
            sock.sendall(len(data).to_bytes(2, "big") + data if tcp else data)
            sock.setblocking(False)
        except (OSError, OverflowError):
            self._forget(number)
            return True
        self._mux.loop.watch(sock.fileno(), lambda _: self._readable(number, tcp, received))
        return True

    def _readable(self, number: int, tcp: bool, received: bytearray) -> None:
        try:
            data = self._sockets[number].recv(65535)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        received += data
        answers = framed(received) if tcp else [data]
        if data and not answers:
            return  # there is more to come
        self._forget(number)
        if answers and answers[0]:
            text = binascii.b2a_base64(answers[0], newline=False).decode()
            self._mux.send({**requests.to_message(requests.Resolved(number, text)), "seq": 0})

    def _forget(self, number: int) -> None:
        sock = self._sockets.pop(number)
        self._mux.loop.forget(sock.fileno())
        sock.close()


def framed(received: bytearray) -> list[bytes]:
    """The whole messages at the front of what came over TCP (RFC 1035, 4.2.2), taken off it."""
    found = []
    while len(received) >= 2 and len(received) >= 2 + int.from_bytes(received[:2], "big"):
        end = 2 + int.from_bytes(received[:2], "big")
        found.append(bytes(received[2:end]))
        del received[:end]
    return found
