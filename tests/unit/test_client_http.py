"""Answers that break off: an engine that was killed has not answered."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from sampan.client.asynctransport import AsyncResponse
from sampan.client.http import NoEngine, Response

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
BROKEN = [CHUNKED, CHUNKED + b"5\r\nhello\r\n", CHUNKED + b"5\r\nhel", CHUNKED + b"5\r\nhello\r\n0\r\n",
          b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", b"HTTP/1.1 200 OK\r\nContent", b""]  # fmt: skip


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.mark.parametrize("answer", BROKEN)
def test_an_answer_that_breaks_off_is_none(pair: tuple[socket.socket, socket.socket], answer: bytes) -> None:
    ours, theirs = pair
    theirs.sendall(answer)
    theirs.close()
    with pytest.raises(NoEngine):
        Response(ours).read()


@pytest.mark.parametrize("answer", BROKEN)
def test_the_same_for_asyncio(pair: tuple[socket.socket, socket.socket], answer: bytes) -> None:
    ours, theirs = pair
    theirs.sendall(answer)
    theirs.close()

    async def read() -> bytes:
        response = AsyncResponse(*await asyncio.open_unix_connection(sock=ours), bodyless=False)
        await response.begin()
        return await response.read()

    with pytest.raises(NoEngine):
        asyncio.run(read())


def test_a_whole_answer(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.sendall(CHUNKED + b"5\r\nhello\r\n6\r\n again\r\n0\r\n\r\n")
    assert Response(ours).read() == b"hello again"
