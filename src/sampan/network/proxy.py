"""Copying for published ports that DNAT can't serve: IPv6 loopback, IPv6 clients of an IPv4 container, and
clients in another network namespace, those of an engine without root."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import cast

_CHUNK = 1 << 16
_UDP_IDLE = 60.0
_IP_TRANSPARENT, _IPV6_TRANSPARENT = 19, 75

Foreign = Callable[[str], bool]  # whether the target may see a client by this address


def _towards(target: tuple[str, int], client: tuple[str, int], foreign: Foreign, kind: int) -> socket.socket:
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

    async def start(self) -> None:
        """Starts to accept."""
        self._listener.setblocking(False)
        self._server = await asyncio.start_server(self._serve, sock=self._listener)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            sock = _towards(self._target, writer.get_extra_info("peername"), self._foreign, socket.SOCK_STREAM)
            await asyncio.get_running_loop().sock_connect(sock, self._target)
            far_reader, far_writer = await asyncio.open_connection(sock=sock)
        except OSError:
            writer.transport.abort()
            return
        await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer), return_exceptions=True)
        for end in (writer, far_writer):
            end.close()

    def close(self) -> None:
        """Stops accepting; the connections there are go on."""
        if self._server is not None:
            self._server.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()


class UdpProxy(asyncio.DatagramProtocol):
    """Sends each client's datagrams on from a socket of its own, and the answers back."""

    def __init__(self, listener: socket.socket, target: tuple[str, int], foreign: Foreign) -> None:
        self._listener, self._target, self._foreign = listener, target, foreign
        self._transport: asyncio.DatagramTransport | None = None
        self._clients: dict[tuple[str, int], asyncio.DatagramTransport] = {}

    async def start(self) -> None:
        """Starts to receive."""
        self._listener.setblocking(False)
        await asyncio.get_running_loop().create_datagram_endpoint(lambda: self, sock=self._listener)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of asyncio.DatagramProtocol."""
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Part of asyncio.DatagramProtocol."""
        known = self._clients.get(addr)
        if known is not None:
            known.sendto(data)
        else:
            asyncio.get_running_loop().create_task(self._open(addr, data))

    async def _open(self, addr: tuple[str, int], data: bytes) -> None:
        proxy = self

        class Back(asyncio.DatagramProtocol):
            def datagram_received(self, data: bytes, _: tuple[str, int]) -> None:
                if proxy._transport is not None:
                    proxy._transport.sendto(data, addr)

        loop = asyncio.get_running_loop()
        try:
            sock = _towards(self._target, addr, self._foreign, socket.SOCK_DGRAM)
            sock.connect(self._target)
            transport, _ = await loop.create_datagram_endpoint(Back, sock=sock)
        except OSError:
            return
        self._clients[addr] = transport
        transport.sendto(data)
        loop.call_later(_UDP_IDLE, self._forget, addr)

    def _forget(self, addr: tuple[str, int]) -> None:
        transport = self._clients.pop(addr, None)
        if transport is not None:
            transport.close()

    def close(self) -> None:
        """Stops."""
        for addr in list(self._clients):
            self._forget(addr)
        if self._transport is not None:
            self._transport.close()
