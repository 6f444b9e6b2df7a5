"""The name server of a container, on 127.0.0.11 in its network namespace.

Names of the networks it is on are answered here; everything else goes to the host's servers as it came,
over the same transport, and comes back as it is (EDNS, truncation and all).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import random
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import cast

from sampan.linux import netns, nftables
from sampan.network.connections import Connections, Total, budget

ADDRESS = "127.0.0.11"
_TABLE = "sampan_dns"  # of rules, in the container's network namespace
_A, _PTR, _AAAA, _ANY = 1, 12, 28, 255
_TTL = 600
_TIMEOUT = 4.0
# What one container, and all together, may have open: TCP connections to us, questions that are asked elsewhere.
_IDLE, _BACKLOG = 10.0, 128  # as many are accepted in one turn
_CONNECTIONS, _QUESTIONS, _WAITING = 32, 64, 1000
_ALL_CONNECTIONS, _ALL_QUESTIONS = Total(budget(16)), asyncio.Semaphore(budget(16))
_SO_RCVBUFFORCE, _RECEIVE_BUFFER = 33, 4 << 20
_SERVFAIL, _NOERROR = 2, 0


@dataclass(frozen=True, slots=True)
class Question:
    """The one question of a query."""

    id: int
    flags: int
    name: str
    kind: int
    end: int


def parse(query: bytes) -> Question | None:
    """The question of a query, or None for anything else (RFC 1035, section 4)."""
    if len(query) < 17:
        return None
    identifier, flags, count = struct.unpack_from("!HHH", query)
    if flags & 0x8000 or flags & 0x7800 or count != 1:
        return None
    labels, position = [], 12
    while position < len(query) and query[position]:
        length = query[position]
        if length > 63 or position + 1 + length > len(query):
            return None
        labels.append(query[position + 1 : position + 1 + length])
        position += 1 + length
    if position + 5 > len(query) or sum(len(label) + 1 for label in labels) > 254:
        return None
    kind, class_ = struct.unpack_from("!HH", query, position + 1)
    if class_ != 1:
        return None
    name = b".".join(labels).decode("ascii", "replace").lower()
    return Question(identifier, flags, name, kind, position + 5)


def answer(query: bytes, question: Question, records: list[tuple[int, bytes]], code: int = _NOERROR) -> bytes:
    """A response with (type, data) records to the question; with none and no error it means "no such data"."""
    flags = 0x8080 | (question.flags & 0x0100) | code
    header = struct.pack("!HHHHHH", question.id, flags, 1, len(records), 0, 0)
    body = b"".join(struct.pack("!HHHIH", 0xC00C, kind, 1, _TTL, len(data)) + data for kind, data in records)
    return header + query[12 : question.end] + body


def encode_name(name: str) -> bytes:
    """A name as labels."""
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".") if label) + b"\0"


def reverse_address(name: str) -> str:
    """The address that an in-addr.arpa or ip6.arpa name stands for, or ""."""
    labels = name.split(".")
    if name.endswith(".in-addr.arpa") and len(labels) == 6:
        text = ".".join(reversed(labels[:4]))
    elif name.endswith(".ip6.arpa") and len(labels) == 34:
        digits = "".join(reversed(labels[:32]))
        text = ":".join(digits[index : index + 4] for index in range(0, 32, 4))
    else:
        return ""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return ""


Sockets = tuple[socket.socket, socket.socket]
# Name → addresses (None: not ours to answer), and address → name.
Lookup = Callable[[str], list[str] | None]
Ask = Callable[[str, bytes], Awaitable[bytes | None]]
Reverse = Callable[[str], str | None]


def local_answer(query: bytes, lookup: Lookup, reverse: Reverse) -> bytes | None:
    """The answer to a query about our own names, or None when it is to be forwarded."""
    question = parse(query)
    if question is None:
        return None
    if question.kind == _PTR:
        name = reverse(reverse_address(question.name)) if reverse_address(question.name) else None
        return None if name is None else answer(query, question, [(_PTR, encode_name(name))])
    addresses = lookup(question.name)
    if addresses is None:
        return None
    records = []
    for text in random.sample(addresses, len(addresses)):  # round-robin for shared aliases
        address = ipaddress.ip_address(text)
        if question.kind == (_A if address.version == 4 else _AAAA) or question.kind == _ANY:
            records.append((_A if address.version == 4 else _AAAA, address.packed))
    return answer(query, question, records)


class NameServer(asyncio.DatagramProtocol):
    """Serves one container. `servers`: where everything else is asked, from the host's namespace."""

    def __init__(self, lookup: Lookup, reverse: Reverse, servers: list[str]) -> None:
        self._lookup, self._reverse, self._servers = lookup, reverse, servers
        self._transport: asyncio.DatagramTransport | None = None
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._questions = asyncio.Semaphore(_QUESTIONS)
        self._connections: Connections[asyncio.Transport] = Connections(
            _CONNECTIONS, _ALL_CONNECTIONS, lambda transport: transport.abort()
        )

    async def start(self, namespace: int, sockets: Sockets | None = None) -> None:
        """Serves on sockets in the container's namespace; without any it opens them by open_sockets()."""
        if sockets is None:
            sockets = await asyncio.to_thread(open_sockets, namespace)
        udp, tcp = sockets
        loop = asyncio.get_running_loop()
        await loop.create_datagram_endpoint(lambda: self, sock=udp)
        self._server = await asyncio.start_server(self._serve_tcp, sock=tcp, backlog=_BACKLOG)

    def close(self) -> None:
        """Closes its sockets."""
        if self._transport is not None:
            self._transport.close()
        if self._server is not None:
            self._server.close()
        self._connections.end_all()
        for task in self._tasks:
            task.cancel()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of asyncio.DatagramProtocol."""
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Part of asyncio.DatagramProtocol."""
        reply = local_answer(data, self._lookup, self._reverse)
        if reply is not None and self._transport is not None:
            self._transport.sendto(reply, addr)
            return
        if len(self._tasks) >= _WAITING:
            return  # who asks more than can be asked elsewhere asks again
        task = asyncio.get_running_loop().create_task(self._forward_udp(data, addr))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _forward_udp(self, query: bytes, addr: tuple[str, int]) -> None:
        reply = await self._ask(_ask_udp, query) or _failure(query)
        if reply is not None and self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(reply, addr)

    async def _ask(self, ask: Ask, query: bytes) -> bytes | None:
        """What the first server that answers says."""
        async with self._questions, _ALL_QUESTIONS:
            for server in self._servers:
                reply = await ask(server, query)
                if reply is not None:
                    return reply
        return None

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        transport = cast(asyncio.Transport, writer.transport)
        self._connections.add(transport)
        try:
            while True:
                async with asyncio.timeout(_IDLE):
                    (length,) = struct.unpack("!H", await reader.readexactly(2))
                    query = await reader.readexactly(length)
                self._connections.touch(transport)
                reply = local_answer(query, self._lookup, self._reverse)
                reply = reply or await self._ask(_ask_tcp, query) or _failure(query)
                if reply is None:
                    break
                writer.write(struct.pack("!H", len(reply)) + reply)
                async with asyncio.timeout(_IDLE):
                    await writer.drain()
        except (asyncio.IncompleteReadError, OSError, TimeoutError):
            pass
        finally:
            self._connections.remove(transport)
            transport.abort() if transport.get_write_buffer_size() else writer.close()


def _failure(query: bytes) -> bytes | None:
    question = parse(query)
    return None if question is None else answer(query, question, [], _SERVFAIL)


def open_sockets(namespace: int) -> Sockets:
    """A UDP and a TCP socket in a container's namespace, to which port 53 of our address there leads.

    Raises OSError.
    """
    return netns.inside(namespace, open_sockets_here)


def open_sockets_here() -> Sockets:
    """As open_sockets() in the calling thread's network namespace: both on one port, and port 53 of our address sent to it.

    Not on port 53 itself, which the container may want on all addresses. Where an earlier daemon's rules still lead
    to a port, that one is taken again: a transaction is 20 ms of waiting for the kernel, a look is none.
    """
    before = nftables.output_redirection(_TABLE)
    udp, tcp, port = _bound(before)
    if port != before:
        nftables.redirect_output(_TABLE, ADDRESS, 53, port)
    with contextlib.suppress(OSError):  # a burst of questions; without the right to it the usual is what there is
        udp.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
    for sock in (udp, tcp):
        sock.setblocking(False)
    return udp, tcp


def _bound(wanted: int) -> tuple[socket.socket, socket.socket, int]:
    """A UDP socket and a listening TCP socket on one port: the wanted one if that is free, or any. Raises OSError."""
    for number in (wanted, *[0] * 20):
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            if number:  # connections that ended a moment ago are no hindrance
                tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tcp.bind((ADDRESS, number))
            tcp.listen(_BACKLOG)
            port = tcp.getsockname()[1]
            udp.bind((ADDRESS, port))
            return udp, tcp, port
        except OSError:
            tcp.close()
            udp.close()
    raise OSError(errno.EADDRINUSE, "no free port for the name server")


async def _ask_udp(server: str, query: bytes) -> bytes | None:
    loop = asyncio.get_running_loop()
    sock = socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        sock.connect((server, 53))
        await loop.sock_sendall(sock, query)
        async with asyncio.timeout(_TIMEOUT):
            while True:
                reply = await loop.sock_recv(sock, 65535)
                if reply[:2] == query[:2]:
                    return reply
    except (OSError, TimeoutError):
        return None
    finally:
        sock.close()


async def _ask_tcp(server: str, query: bytes) -> bytes | None:
    try:
        async with asyncio.timeout(_TIMEOUT):
            reader, writer = await asyncio.open_connection(server, 53)
            try:
                writer.write(struct.pack("!H", len(query)) + query)
                (length,) = struct.unpack("!H", await reader.readexactly(2))
                return await reader.readexactly(length)
            finally:
                writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return None


def host_servers(text: str) -> list[str]:
    """The name servers of a resolv.conf that a container could reach or we can ask for it."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            with contextlib.suppress(ValueError):
                found.append(str(ipaddress.ip_address(words[1].partition("%")[0])))
    return found
