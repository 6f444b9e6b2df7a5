"""Messages and descriptors between sampand and the keeper, and what else may come by that way (T77)."""

from __future__ import annotations

import gc
import json
import os
import socket
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.keeper import wire


def descriptors() -> int:
    gc.collect()  # sockets of tests before
    return len(os.listdir("/proc/self/fd"))


def test_messages_and_descriptors_stay_together() -> None:
    ours, theirs = socket.socketpair()
    reader, writer = os.pipe()
    wire.send(ours, {"seq": 1, "fds": 1}, [writer])
    wire.send(ours, {"seq": 2, "text": "x" * 1000})
    collected: list = []
    receiver = wire.Reader()
    while len(collected) < 2:
        collected += receiver.receive(theirs) or []
    (first, fds), (second, none) = collected
    assert (first["seq"], second["seq"], none) == (1, 2, [])
    os.write(fds[0], b"through")
    assert os.read(reader, 10) == b"through"


def test_end_of_stream() -> None:
    ours, theirs = socket.socketpair()
    ours.close()
    assert wire.Reader().receive(theirs) is None


def packed(body: bytes) -> bytes:
    return struct.pack("!I", len(body)) + body


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("!I", wire.MAX_MESSAGE + 1),
        struct.pack("!I", 2**32 - 1),
        packed(b"not json"),
        packed(b"[1, 2]"),
        packed(b"null"),
        packed(b'"text"'),
        packed(b"\xff\xfe"),
        packed(b""),
        packed(b'{"fds": -1}'),
        packed(b'{"fds": 17}'),
        packed(b'{"fds": "1"}'),
        packed(b'{"fds": true}'),
        packed(b"[" * 100_000),
        packed(b'{"seq": 1}') + packed(b"{"),
    ],
)
def test_what_is_no_message_ends_the_connection(data: bytes) -> None:
    ours, theirs = socket.socketpair()
    before = descriptors()
    socket.send_fds(ours, [data], [0, 1])
    receiver = wire.Reader()
    found = [receiver.receive(theirs)]
    while found[-1] is not None:
        assert found[-1] == []
        found.append(receiver.receive(theirs))
    receiver.close()
    assert descriptors() == before


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=8))
def test_no_bytes_raise(pieces: list[bytes]) -> None:
    ours, theirs = socket.socketpair()
    receiver = wire.Reader()
    for piece in pieces:
        if piece:
            ours.send(piece)
            if receiver.receive(theirs) is None:
                break
    receiver.close()
    ours.close()
    theirs.close()


def test_descriptors_beyond_need_are_closed() -> None:
    ours, theirs = socket.socketpair()
    before = descriptors()
    receiver = wire.Reader()
    for _ in range(50):
        socket.send_fds(ours, [packed(b'{"seq": 1, "fds": 1}')], [0, 1, 2])
        [(_, fds)] = receiver.receive(theirs) or []
        os.close(*fds)
    assert descriptors() == before


def test_a_message_that_nobody_would_take_is_not_sent() -> None:
    ours, theirs = socket.socketpair()
    with pytest.raises(wire.TooLong, match="16 MiB"):
        wire.Outbox(ours).put({"env": "x" * (17 << 20)})
    theirs.setblocking(False)
    with pytest.raises(BlockingIOError):
        theirs.recv(1)


def test_a_peer_that_does_not_read_costs_a_bounded_queue_and_no_time() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    outbox = wire.Outbox(ours)
    before = descriptors()
    reader, writer = os.pipe()

    def fill() -> None:
        for number in range(1000):
            outbox.put({"seq": number, "text": "x" * (1 << 20), "fds": 1}, [writer])

    with pytest.raises(wire.NotRead):
        fill()
    os.close(writer)
    receiver, found = wire.Reader(), []
    for _ in range(10_000):
        done = outbox.flush()
        theirs.setblocking(False)
        for message, fds in receiver.receive(theirs) or []:
            found.append(message["seq"])
            os.write(fds[0], b"x")
            os.close(fds[0])
        if done and found and len(found) == found[-1] + 1 and outbox._size == 0 and len(found) > 60:
            break
    assert found == list(range(len(found)))
    assert os.read(reader, 1000) == b"x" * len(found)
    os.close(reader)
    outbox.close()
    assert descriptors() == before


def test_numbers_in_json_are_kept() -> None:
    ours, theirs = socket.socketpair()
    ours.send(packed(json.dumps({"seq": 1, "time": 2**62}).encode()))
    [(message, _)] = wire.Reader().receive(theirs) or []
    assert message["time"] == 2**62
