"""The network's measurements, from the host's side of the probe's server."""

from __future__ import annotations

import socket
import statistics
import time

from sampan.compare.model import CompareError

_ROUNDS = 150
_SECONDS = 0.4


def connect(address: tuple[str, int], patience: float = 20.0) -> socket.socket:
    """A connection to a server that may still be starting. Raises CompareError."""
    deadline = time.monotonic() + patience
    while True:
        try:
            sock = socket.create_connection(address, 2)
            sock.settimeout(patience)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
        except OSError as error:
            if time.monotonic() > deadline:
                raise CompareError(f"the probe at {address[0]}:{address[1]} can't be reached: {error}") from None
            time.sleep(0.05)


def wait_for(address: tuple[str, int], patience: float = 30.0) -> None:
    """Until the server answers: a proxy in front of it takes connections before it is there. Raises CompareError."""
    deadline = time.monotonic() + patience
    while True:
        try:
            with connect(address, patience) as sock:
                sock.sendall(b"ex")
                if sock.recv(1) == b"x":
                    return
        except OSError:
            pass
        if time.monotonic() > deadline:
            raise CompareError(f"the probe at {address[0]}:{address[1]} does not answer")
        time.sleep(0.1)


def latency(address: tuple[str, int]) -> float:
    """Seconds of one byte there and back."""
    with connect(address) as sock:
        sock.sendall(b"e")
        found = []
        for number in range(_ROUNDS):
            began = time.perf_counter()
            sock.sendall(b"x")
            try:
                if not sock.recv(1):
                    raise CompareError(f"the probe at {address[0]} has closed the connection")
            except TimeoutError:
                raise CompareError(
                    f"the probe at {address[0]} does not answer any more, after {number} times"
                ) from None
            found.append(time.perf_counter() - began)
    return statistics.median(found)


def throughput(address: tuple[str, int]) -> float:
    """Bytes per second of one stream from there to here."""
    with connect(address) as sock:
        sock.sendall(b"s")
        sock.recv(1)
        total, began = 0, time.perf_counter()
        try:
            while (spent := time.perf_counter() - began) < _SECONDS:
                total += len(sock.recv(1 << 20))
        except TimeoutError:
            raise CompareError(f"the stream from {address[0]} has stopped after {total} bytes") from None
    return total / spent
