"""GET /containers/ID/attach/ws: a container's streams over a WebSocket."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from tests.conftest import Daemon


async def _talk(daemon: Daemon, path: str, said: list[bytes | str], until: bytes) -> bytes:
    got = b""
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(daemon.socket)) as session,
        session.ws_connect(f"http://engine/v1.51/containers/{path}") as socket,
    ):
        for text in said:
            await (socket.send_bytes(text) if isinstance(text, bytes) else socket.send_str(text))
        async with asyncio.timeout(10):
            while until not in got:
                message = await socket.receive()
                if message.type != aiohttp.WSMsgType.BINARY:
                    break
                got += message.data
    return got


@pytest.mark.parametrize("tty", [False, True])
def test_both_ways(daemon: Daemon, tty: bool) -> None:
    daemon.ok("run", "-d", "-i", *(["-t"] if tty else []), "--name", "talker", "--network", "none", "busybox", "cat")
    got = asyncio.run(
        _talk(daemon, "talker/attach/ws?stream=1&stdin=1&stdout=1&stderr=1", [b"bytes\n", "text\n"], b"text")
    )
    assert b"bytes" in got
    assert b"\x01\x00\x00\x00" not in got, "no frames"
    assert daemon.http.call("GET", "/containers/talker/json")["State"]["Running"]
    daemon.ok("rm", "-f", "talker")


def test_what_was_said_before(daemon: Daemon) -> None:
    daemon.ok("run", "--name", "talker", "--network", "none", "busybox", "sh", "-c", "echo out; echo err >&2")
    assert asyncio.run(_talk(daemon, "talker/attach/ws?logs=1&stdout=1", [], b"never")) == b"out\n"
    daemon.ok("rm", "talker")


def test_who_can_t_attach_is_told_before(daemon: Daemon) -> None:
    daemon.ok("create", "--name", "talker", "busybox", "true")
    for path, status in (("nobody/attach/ws", 404), ("talker/attach/ws?stream=1&detachKeys=nonsense,", 400)):
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            asyncio.run(_talk(daemon, path, [], b"x"))
        assert caught.value.status == status
    daemon.ok("rm", "talker")
