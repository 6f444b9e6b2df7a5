"""Copying for published ports that DNAT can't serve: IPv6 loopback, IPv6 clients of an IPv4 container, and
clients in another network namespace, those of an engine without root."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

from sampan.network.connections import Connections, Total, budget

_CHUNK = 1 << 16
_CONNECT = 30.0  # seconds that a container may take to answer a connection
_UDP_IDLE, _UDP_CLIENTS, _AT_ONCE = 60.0, 1024, 64
_ALL_PAIRS, _ALL_CLIENTS = Total(budget(4)), Total(budget(8))
_IP_TRANSPARENT, _IPV6_TRANSPARENT = 19, 75

Client = tuple[Any, ...]  # an address as recvfrom(2) gives it
Foreign = Callable[[str], bool]  # whether the target may see a client by this address


def _towards(target: tuple[str, int], client: Client, foreign: Foreign, kind: int) -> socket.socket:
    """A socket to the target, with the client's own address if it may be seen and the kernel lets us (ip(7))."""
    family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
    sock = socket.socket(family, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    address = client[0].removeprefix("::ffff:")
    if (":" in address) == (":" in target[0]) and foreign(address):
        level, option = (socket.IPPROTO_IPV6, _IPV6_TRANSPARENT) if family == socket.AF_INET6 else (0, _IP_TRANSPARENT)
        with contextlib.suppress(OSError):
            sock.setsockopt(level, option, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((address, client[1]))
    return sock


class TcpProxy:
    """Listens on a reserved socket and copies each connection to the target and back."""

    def __init__(self, listener: socket.socket, target: tuple[str, int], foreign: Foreign) -> None:
        self._listener, self._target, self._foreign = listener, target, foreign
        self._server: asyncio.Server | None = None
        self._pairs: Connections[_Pair] = Connections(_ALL_PAIRS.limit // 2, _ALL_PAIRS, _Pair.abort)

    async def start(self) -> None:
        """Starts to accept."""
        self._listener.setblocking(False)
        self._server = await asyncio.start_server(self._serve, sock=self._listener)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pair = _Pair(writer)
        self._pairs.add(pair)
        try:
            sock = _towards(self._target, writer.get_extra_info("peername"), self._foreign, socket.SOCK_STREAM)
            with pair.connecting(sock):
                async with asyncio.timeout(_CONNECT):
                    await asyncio.get_running_loop().sock_connect(sock, self._target)
                far_reader, pair.far = await asyncio.open_connection(sock=sock)
            _keep_alive(writer, pair.far)
            async with asyncio.TaskGroup() as both:  # when one way fails the other ends too
                both.create_task(self._copy(pair, reader, pair.far))
                both.create_task(self._copy(pair, far_reader, writer))
            pair.close()
        except* (OSError, TimeoutError):
            pair.abort()
        finally:
            self._pairs.remove(pair)

    async def _copy(self, pair: _Pair, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_CHUNK):
            self._pairs.touch(pair)
            writer.write(data)
            await writer.drain()
        with contextlib.suppress(OSError):
            writer.write_eof()

    def close(self) -> None:
        """Stops accepting; the connections there are go on."""
        if self._server is not None:
            self._server.close()


class _Pair:
    """Both ends of a connection that is copied."""

    def __init__(self, near: asyncio.StreamWriter) -> None:
        self.near = near
        self.far: asyncio.StreamWriter | None = None

    @contextlib.contextmanager
    def connecting(self, sock: socket.socket) -> Iterator[None]:
        """Closes a socket that does not become the far end."""
        try:
            yield
        except BaseException:
            sock.close()
            raise

    def close(self) -> None:
        """Ends it when what is on its way has been sent."""
        for end in (self.near, self.far):
            if end is not None:
                end.close()

    def abort(self) -> None:
        """Ends it at once."""
        for end in (self.near, self.far):
            if end is not None:
                end.transport.abort()


def _keep_alive(*ends: asyncio.StreamWriter) -> None:
    """A peer that is gone without a word is found out after a while (tcp(7))."""
    for end in ends:
        sock = end.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 300)


class UdpProxy:
    """Sends each client's datagrams on from a socket of its own, and the answers back."""

    def __init__(self, listener: socket.socket, target: tuple[str, int], foreign: Foreign) -> None:
        self._listener, self._target, self._foreign = listener, target, foreign
        self._clients: dict[Client, tuple[socket.socket, float]] = {}  # with when it was used last
        self._places: Connections[Client] = Connections(_UDP_CLIENTS, _ALL_CLIENTS, self._forget)
        self._sweep: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Starts to receive."""
        self._listener.setblocking(False)
        asyncio.get_running_loop().add_reader(self._listener.fileno(), self._received)

    def _received(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                data, client = self._listener.recvfrom(_CHUNK)
            except OSError:
                return
            with contextlib.suppress(OSError):  # no descriptor, no route, nobody there: a datagram may get lost
                self._socket(client).send(data)

    def _socket(self, client: Client) -> socket.socket:
        """The client's own socket to the target. Raises OSError."""
        now = asyncio.get_running_loop().time()
        if client in self._clients:
            sock = self._clients[client][0]
        else:
            sock = _towards(self._target, client, self._foreign, socket.SOCK_DGRAM)
            try:
                sock.connect(self._target)
            except OSError:
                sock.close()
                raise
            self._places.add(client)
            asyncio.get_running_loop().add_reader(sock.fileno(), self._answered, client, sock)
        self._clients[client] = (sock, now)
        self._places.touch(client)
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(_UDP_IDLE / 4, self._end_idle)
        return sock

    def _answered(self, client: Client, sock: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            try:
                data = sock.recv(_CHUNK)
            except OSError:
                return
            self._clients[client] = (sock, asyncio.get_running_loop().time())
            with contextlib.suppress(OSError):
                self._listener.sendto(data, client)

    def _end_idle(self) -> None:
        self._sweep = None
        before = asyncio.get_running_loop().time() - _UDP_IDLE
        for client in [client for client, (_, used) in self._clients.items() if used < before]:
            self._places.remove(client)
            self._forget(client)
        if self._clients:
            self._sweep = asyncio.get_running_loop().call_later(_UDP_IDLE / 4, self._end_idle)

    def _forget(self, client: Client) -> None:
        sock, _ = self._clients.pop(client)
        asyncio.get_running_loop().remove_reader(sock.fileno())
        sock.close()

    def close(self) -> None:
        """Stops."""
        self._places.end_all()
        if self._sweep is not None:
            self._sweep.cancel()
        if self._listener.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._listener.fileno())
