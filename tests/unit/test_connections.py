"""Connections of others, bounded: who ends for whom, and the proxies and the name server that live by it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator

import pytest

from sampan.network import dns, proxy
from sampan.network.connections import Connections, Total


def test_the_silent_one_goes_first() -> None:
    ended: list[int] = []
    open_ = Connections(3, Total(100), ended.append)
    for number in range(3):
        open_.add(number)
    open_.touch(0)
    open_.add(3)
    assert ended == [1]
    open_.remove(2)
    open_.add(4)
    assert ended == [1]
    open_.end_all()
    assert sorted(ended) == [0, 1, 3, 4]


def test_who_has_most_gives_up() -> None:
    total, ended = Total(10), []
    greedy = Connections(100, total, lambda key: ended.append(("greedy", key)))
    modest = Connections(100, total, lambda key: ended.append(("modest", key)))
    modest.add("only")
    for number in range(50):
        greedy.add(number)
    assert total.count == 10
    assert len(greedy) == 9
    late = Connections(100, total, lambda key: ended.append(("late", key)))
    for number in range(3):
        late.add(number)
    assert {name for name, _ in ended} == {"greedy"}
    for owner in (greedy, modest, late):
        owner.end_all()
    assert total.count == 0
    assert not total.owners


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def listener(kind: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, kind)
    sock.bind(("127.0.0.1", 0))
    if kind == socket.SOCK_STREAM:
        sock.listen(128)
    return sock


@contextlib.asynccontextmanager
async def echo() -> AsyncIterator[tuple[str, int]]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(100):
                writer.write(data)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()
    server.close()


async def _tcp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy, "_ALL_PAIRS", Total(16))
    async with echo() as target:
        front = listener(socket.SOCK_STREAM)
        address = front.getsockname()
        published = proxy.TcpProxy(front, target, lambda _: False)
        await published.start()
        before, ends = descriptors(), []
        for number in range(100):
            reader, writer = await asyncio.open_connection(*address)
            ends.append(writer)
            writer.write(b"%d" % number)
            assert await reader.read(10) == b"%d" % number
        # Ours are 100 of them; the proxy's and the server's are what they may have.
        assert descriptors() - before - 100 <= 3 * 8 + 8
        for writer in ends:
            writer.close()
        published.close()


def test_a_tcp_proxy_always_serves_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    asyncio.run(_tcp(monkeypatch))


async def _udp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy, "_UDP_CLIENTS", 8)
    target, front = listener(socket.SOCK_DGRAM), listener(socket.SOCK_DGRAM)
    loop = asyncio.get_running_loop()

    def answer() -> None:
        data, client = target.recvfrom(100)
        target.sendto(data, client)

    target.setblocking(False)
    loop.add_reader(target.fileno(), answer)
    published = proxy.UdpProxy(front, target.getsockname(), lambda _: False)
    await published.start()
    before = descriptors()
    clients = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(100)]
    for number, client in enumerate(clients):
        client.setblocking(False)
        client.connect(front.getsockname())
        client.send(b"%d" % number)
        assert await asyncio.wait_for(loop.sock_recv(client, 10), 5) == b"%d" % number
    assert descriptors() - before - 100 <= 8
    monkeypatch.setattr(proxy, "_UDP_IDLE", 0.0)
    published._end_idle()
    assert descriptors() - before == 100
    published.close()
    for sock in (target, front, *clients):
        sock.close()


def test_a_udp_proxy_forgets_silent_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    asyncio.run(_udp(monkeypatch))


async def _names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns, "_IDLE", 0.2)
    server = dns.NameServer(lambda name: ["10.0.0.7"] if name == "db" else None, lambda _: None, [])
    udp, tcp = listener(socket.SOCK_DGRAM), listener(socket.SOCK_STREAM)
    address = tcp.getsockname()
    await server.start(-1, (udp, tcp))
    silent = [await asyncio.open_connection(*address) for _ in range(200)]
    # Half a question is as silent as none.
    silent[-1][1].write(b"\0")
    query = struct.pack("!HHHHHH", 7, 0x100, 1, 0, 0, 0) + dns.encode_name("db") + struct.pack("!HH", 1, 1)
    reader, writer = await asyncio.open_connection(*address)
    writer.write(struct.pack("!H", len(query)) + query)
    reply = await asyncio.wait_for(reader.readexactly(2 + len(query) + 16), 5)
    assert reply.endswith(bytes([10, 0, 0, 7]))
    for end, _ in silent:
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(end.read(1), 5) == b""
    for _, other in (*silent, (reader, writer)):
        other.close()
    server.close()


def test_silent_connections_to_a_name_server_end(monkeypatch: pytest.MonkeyPatch) -> None:
    asyncio.run(_names(monkeypatch))
