"""What a guest puts before its packets reaches the host's kernel (virtio_net_hdr, IFF_VNET_HDR): it is refused or harmless."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import socket
import struct
from collections.abc import Iterator

import pytest

from sampan.linux import netns, tap

pytestmark = pytest.mark.root
_HEADER = struct.Struct("<BBHHHH")  # flags, gso_type, hdr_len, gso_size, csum_start, csum_offset
_NEEDS_CSUM, _TCPV4, _UDP, _TCPV6, _UDP_L4, _ECN = 1, 1, 3, 4, 5, 0x80
_KIND = 0x88B5  # of local experiments
TRIES = 20_000 if os.environ.get("SAMPAN_SOAK") == "1" else 3_000


@pytest.fixture
def tapped() -> Iterator[tuple[int, socket.socket]]:
    """A tap that is up in a namespace of its own, and a socket that gets what comes out of it there."""
    namespace = netns.new()

    def make() -> tuple[int, socket.socket]:
        fd = tap.new("t0")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            fcntl.ioctl(control, 0x8914, struct.pack("16sh22x", b"t0", 0x1 | 0x1000))  # SIOCSIFFLAGS, IFF_UP
        listening = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
        listening.bind(("t0", 0))
        listening.settimeout(5)
        return fd, listening

    fd, listening = netns.inside(namespace, make)
    yield fd, listening
    listening.close()
    os.close(fd)
    os.close(namespace)


def frame(payload: bytes, kind: int = _KIND) -> bytes:
    return b"\xff" * 6 + b"\x02\0\0\0\0\x01" + struct.pack("!H", kind) + payload


def test_a_header_that_points_outside_of_its_packet_is_refused(tapped: tuple[int, socket.socket]) -> None:
    fd, listening = tapped
    for bad in (
        (_NEEDS_CSUM, 0, 0, 0, 65535, 65535),  # a checksum to be put far outside
        (_NEEDS_CSUM, 0, 0, 0, 60, 40),
        (0, _TCPV4, 0, 0, 0, 0),  # segments of no length
        (0, 77, 0, 0, 0, 0),  # no such kind
        (0, 0, 65535, 0, 0, 0),  # more head than packet
        (0, _TCPV6 | _ECN, 65535, 1, 65535, 0),
    ):
        with pytest.raises(OSError, match="Invalid argument"):
            os.write(fd, _HEADER.pack(*bad) + frame(b"bad" + bytes(60)))
    with pytest.raises(OSError, match="Invalid argument"):
        os.write(fd, b"\0" * 4)  # not even a header
    os.write(fd, _HEADER.pack(0, 0, 0, 0, 0, 0) + frame(b"good" + bytes(60)))
    got = next(data for data in iter(lambda: listening.recv(1 << 16), b"") if data[12:14] == struct.pack("!H", _KIND))
    assert got[14:18] == b"good"  # and none of the others came before it


def test_the_tap_goes_on_after_any_header(tapped: tuple[int, socket.socket]) -> None:
    fd, listening = tapped
    chance = random.Random(48)
    kinds = [0, _TCPV4, _UDP, _TCPV6, _UDP_L4, _ECN | _TCPV4, 2, 6, 255]
    refused = 0
    for _ in range(TRIES):
        header = _HEADER.pack(
            chance.choice([0, 1, 2, 4, 255]), chance.choice(kinds),
            *(chance.choice([0, 1, 14, 34, 54, 1448, 65535, chance.randrange(65536)]) for _ in range(4)),
        )  # fmt: skip
        body = bytes(
            [0x45 if chance.random() < 0.5 else 0x60, *chance.randbytes(chance.choice([1, 19, 60, 4000, 60000]))]
        )
        try:
            os.write(fd, header + frame(body, chance.choice([0x0800, 0x86DD, 0x8100, 0x0806])))
        except OSError:
            refused += 1
    assert 0 < refused < TRIES
    # What has been taken lies in the socket, as far as there was room.
    listening.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            assert len(listening.recv(1 << 17)) <= 1 << 16
    listening.settimeout(5)
    os.write(fd, _HEADER.pack(0, 0, 0, 0, 0, 0) + frame(b"last"))
    while listening.recv(1 << 16)[14:18] != b"last":
        pass
