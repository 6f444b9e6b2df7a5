"""Copying for published ports that DNAT can't serve: IPv6 loopback, and IPv6 clients of an IPv4 container."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import cast

_CHUNK = 1 << 16
_UDP_IDLE = 60.0


class TcpProxy:
    """Listens on a reserved socket and copies each connection to the target and back."""

    def __init__(self, listener: socket.socket, target: tuple[str, int]) -> None:
        self._listener, self._target = listener, target
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Starts to accept."""
        self._listener.setblocking(False)
        self._server = await asyncio.start_server(self._serve, sock=self._listener)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
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

    def __init__(self, listener: socket.socket, target: tuple[str, int]) -> None:
        self._listener, self._target = listener, target
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
            transport, _ = await loop.create_datagram_endpoint(Back, remote_addr=self._target)
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
