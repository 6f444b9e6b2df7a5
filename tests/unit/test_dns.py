"""DNS messages: what is ours is answered, everything else goes on, nothing crashes."""

from __future__ import annotations

import struct

from hypothesis import example, given
from hypothesis import strategies as st

from sampan.network import dns

KNOWN = {"web": ["10.0.0.2", "fd00::2"], "only4": ["10.0.0.3"], "many": [f"10.0.1.{n}" for n in range(1, 9)]}


def query(name: str, kind: int = 1, identifier: int = 7, flags: int = 0x0100) -> bytes:
    return struct.pack("!HHHHHH", identifier, flags, 1, 0, 0, 0) + dns.encode_name(name) + struct.pack("!HH", kind, 1)


def ask(name: str, kind: int = 1) -> bytes | None:
    return dns.local_answer(query(name, kind), KNOWN.get, {"10.0.0.2": "web.net", "fd00::2": "web.net"}.get)


def test_answers() -> None:
    reply = ask("web")
    assert reply is not None
    identifier, flags, questions, answers = struct.unpack_from("!HHHH", reply)
    assert (identifier, questions, answers) == (7, 1, 1)
    assert flags & 0x8000
    assert not flags & 0xF
    assert reply.endswith(bytes([0, 4, 10, 0, 0, 2]))
    assert ask("WEB".lower()) == reply
    six = ask("web", 28)
    assert six is not None
    assert six.endswith(bytes.fromhex("fd000000000000000000000000000002"))


def test_no_such_data_is_no_error() -> None:
    reply = ask("only4", 28)
    assert reply is not None
    _, flags, _, answers = struct.unpack_from("!HHHH", reply)
    assert (flags & 0xF, answers) == (0, 0)
    mx = ask("web", 15)
    assert mx is not None
    assert struct.unpack_from("!HHHH", mx)[3] == 0


def test_shared_names_go_round() -> None:
    firsts = set()
    for _ in range(100):
        reply = ask("many")
        assert reply is not None
        firsts.add(reply[len(query("many")) + 12 : len(query("many")) + 16])
    assert len(firsts) > 3


def test_reverse() -> None:
    reply = ask("2.0.0.10.in-addr.arpa", 12)
    assert reply is not None
    assert reply.endswith(dns.encode_name("web.net"))
    nibbles = ".".join(reversed("fd000000000000000000000000000002"))
    assert ask(f"{nibbles}.ip6.arpa", 12) is not None
    assert ask("9.9.9.9.in-addr.arpa", 12) is None
    assert ask("x.in-addr.arpa", 12) is None


def test_what_is_forwarded() -> None:
    assert ask("example.org") is None
    assert dns.local_answer(query("web", flags=0x8100), KNOWN.get, {}.get) is None  # a response
    assert dns.local_answer(query("web", flags=0x2800), KNOWN.get, {}.get) is None  # an update
    two = struct.pack("!HHHHHH", 1, 0, 2, 0, 0, 0) + query("web")[12:] * 2
    assert dns.local_answer(two, KNOWN.get, {}.get) is None


@given(st.binary(max_size=600))
@example(struct.pack("!HHHHHH", 1, 0, 1, 0, 0, 0) + b"\xc0\x0c\x00\x01\x00\x01")
@example(struct.pack("!HHHHHH", 1, 0, 1, 0, 0, 0) + b"\x3f" * 70)
def test_no_message_crashes(data: bytes) -> None:
    dns.local_answer(data, KNOWN.get, {}.get)
    dns.parse(struct.pack("!HHHHHH", 1, 0, 1, 0, 0, 0) + data)


def test_host_servers() -> None:
    text = "# c\nnameserver 10.0.0.53\nnameserver fe80::1%eth0\nnameserver bad\nsearch a b\n nameserver  ::1\n"
    assert dns.host_servers(text) == ["10.0.0.53", "fe80::1", "::1"]
