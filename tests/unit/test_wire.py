"""Messages and descriptors between sampand and the keeper."""

from __future__ import annotations

import os
import socket

from sampan.keeper import wire


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
