"""What comes in pieces of bytes: archives, name queries, what guests, keepers, clients and log files say."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import socket
import stat
import struct
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import strategies as st

from sampan import quickjson
from sampan.api.buildkit import filesync, messages
from sampan.build.errors import BuildError
from sampan.images.errors import ImageError
from sampan.images.extract import Extractor
from sampan.images.layer import LayerExtractor, NeedsLower
from sampan.images.tarstream import TarStream
from sampan.keeper import frames, wire
from sampan.linux import filetree
from sampan.network import dns
from sampan.vm import dhcp, dnsrelay
from sampan.vm.errors import VmError
from sampan.vm.ovf import Appliance, describe
from sampan.vm.ovf import parse as parse_ovf
from tests.security.fuzzing import bounded, fuzzed, mutated, refused_or, values

# archives

NAMES = ["a", "b", "d/a", "d/e/b", "./c/", "/abs", "../up", "a/../../b", "d/../x", "l/x", "l", "..", ".", "", ".wh.a", ".wh..", ".wh...", "d/.wh..wh..opq",
         ".wh..wh..opq", "d/.wh.e", "n" * 255, "n" * 256, "x\udcff"]  # fmt: skip
TARGETS = ["/", "..", "../../../..", "a", "d", "/proc/self/root", "l", "", ".", "d/e", "OUTSIDE", "OUTSIDE/secret"]
MEMBERS = st.lists(
    st.tuples(
        st.sampled_from(NAMES), st.sampled_from([b"0", b"5", b"2", b"1", b"3", b"6", b"0", b"5", b"2"]), st.sampled_from(TARGETS),
        st.sampled_from([0o644, 0o6777, 0, 0o1777]), st.sampled_from([0, 1000, 1 << 31, -1]), st.binary(max_size=40),
        st.sampled_from([{}, {"SCHILY.xattr.user.x": "v"}, {"SCHILY.xattr.trusted.overlay.redirect": "/x"}, {"path": "../../p"}]),
    ), max_size=12,
)  # fmt: skip


def packed(rows: list[Any], outside: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, errors="surrogateescape") as tar:
        for name, kind, target, mode, owner, data, records in rows:
            member = tarfile.TarInfo(name)
            member.type, member.mode, member.uid, member.gid = kind, mode, max(owner, 0), max(owner, 0)
            member.linkname, member.pax_headers = target.replace("OUTSIDE", outside), records
            member.devmajor = member.devminor = 0
            member.size = len(data) if kind == b"0" else 0
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A directory of the host's with a secret, which nothing may read, change or add to."""
    top = tmp_path_factory.mktemp("outside")
    (top / "secret").write_text("secret")
    return str(top)


def seen(path: str) -> list[Any]:
    info = os.stat(f"{path}/secret")
    return [
        sorted(os.listdir(path)),
        Path(path, "secret").read_text(),
        info.st_mode,
        info.st_uid,
        info.st_nlink,
        os.stat(path).st_mode,
    ]


@contextlib.contextmanager
def empty_root() -> Iterator[tuple[int, str]]:
    top = tempfile.mkdtemp()
    os.mkdir(f"{top}/root")
    fd = os.open(f"{top}/root", os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd, top
    finally:
        os.close(fd)
        filetree.remove(top)


def unpack(root: int, data: bytes, way: str) -> None:
    stream = io.BytesIO(data)
    if way == "layer":
        LayerExtractor(root).extract(TarStream(stream.read))
    else:
        Extractor(root, whiteouts=way == "whiteouts", keep_type=way == "cp").extract(stream)


@fuzzed(MEMBERS, st.sampled_from(["layer", "whiteouts", "cp"]), short=80)
def test_members_of_any_kind_stay_inside(outside: str, rows: list[Any], way: str) -> None:
    """S017: names, links through links, whiteouts, devices, owners: in the root, or refused."""
    before = seen(outside)
    with empty_root() as (root, top):
        refused_or((ImageError, NeedsLower), unpack, root, packed(rows, outside), way)
        assert os.listdir(top) == ["root"]
        for directory, _, names in os.walk(f"{top}/root"):
            for name in names:
                info = os.lstat(f"{directory}/{name}")
                assert not stat.S_ISLNK(info.st_mode) or not os.path.samestat(info, os.lstat(f"{outside}/secret"))
                assert info.st_ino != os.stat(f"{outside}/secret").st_ino or info.st_dev != os.stat(outside).st_dev
    assert seen(outside) == before


@pytest.mark.parametrize("way", ["layer", "whiteouts", "cp"])
@pytest.mark.parametrize("kind", [b"0", b"2", b"3", b"6"])
def test_members_below_what_is_no_directory(outside: str, kind: bytes, way: str) -> None:
    rows = [("f", b"0", "", 0o644, 0, b"", {}), ("l", kind, "f", 0o644, 0, b"", {}), ("l/x", b"0", "", 0o644, 0, b"", {})]  # fmt: skip
    with empty_root() as (root, _), pytest.raises((ImageError, NeedsLower)):
        unpack(root, packed(rows, outside), way)


PLAIN = packed([("a", b"0", "", 0o644, 0, b"x" * 700, {}), ("d", b"5", "", 0o755, 0, b"", {"path": "d/" + "e" * 200}), ("l", b"2", "a", 0o777, 0, b"", {})], "/")  # fmt: skip


@fuzzed(mutated([PLAIN, PLAIN[:1600]], [b"ustar\0", b"ustar  \0", b"\x80" + b"\xff" * 11, b"\xff" * 12, b"20 path=../x\n"]), st.sampled_from(["layer", "whiteouts"]), short=60)  # fmt: skip
def test_damaged_archives(data: bytes, way: str) -> None:
    with empty_root() as (root, top):
        refused_or((ImageError, NeedsLower), unpack, root, data, way)
        assert os.listdir(top) == ["root"]


# names


def question(name: str, kind: int = 1) -> bytes:
    return struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0) + dns.encode_name(name) + struct.pack("!HH", kind, 1)


KNOWN = {"web": ["10.0.0.2", "fd00::2"]}
QUERIES = [
    question("web"),
    question("web.example.org", 28),
    question("2.0.0.10.in-addr.arpa", 12),
    question(".".join("0" * 32) + ".ip6.arpa", 12),
]


@fuzzed(mutated(QUERIES, [b"\xc0\x0c", b"\x3f" + b"x" * 63, b"\x40", b"in-addr\x04arpa"], most=4), short=40)
def test_queries(data: bytes) -> None:
    reply = refused_or((), dns.local_answer, data, KNOWN.get, {"10.0.0.2": "web.net"}.get)
    if reply is not None:
        assert reply[:2] == data[:2]
        assert len(reply) < 600
        assert reply[2] & 0x80


@fuzzed(mutated([dhcp.packet(2, 5, b"\1" * 6, {54: b"\n\0\0\1", 1: b"\xff\xff\xff\0"})]), short=40)
def test_answers_of_dhcp(data: bytes) -> None:
    refused_or((), dhcp.parse, data, 5)


@fuzzed(st.lists(st.binary(max_size=40), max_size=6), short=60)
def test_names_over_tcp(pieces: list[bytes]) -> None:
    """However it is cut, the same messages come out."""
    whole = b"".join(len(piece).to_bytes(2, "big") + piece for piece in pieces)
    received, found = bytearray(), []
    for index in range(0, len(whole), 3):
        received += whole[index : index + 3]
        found += dnsrelay.framed(received)
    assert found == pieces


@fuzzed(mutated([b"# c\nnameserver 10.0.0.53\nnameserver fe80::1%eth0\nsearch a b\noptions ndots:5\n"]))
def test_resolv_conf(data: bytes) -> None:
    refused_or((), dns.host_servers, data.decode(errors="replace"))


OVF = describe(Appliance("m", 2, 512, "m.vmdk", 1 << 30), 1000)


@fuzzed(
    mutated(
        [OVF], [b"<!DOCTYPE x [<!ENTITY a 'b'>]>", b"&a;", b"<x>" * 3000, b"ovf:href='/etc/shadow'", b"xmlns:ovf='x'"]
    ),
    short=100,
)
def test_descriptions_of_appliances(data: bytes) -> None:
    refused_or(VmError, parse_ovf, data)


# keepers and logs


@fuzzed(mutated([struct.pack("!I", len(body)) + body for body in (b'{"seq": 1, "fds": 1}', b'{"op": "start", "id": "x"}', b"{}")], [b'{"fds": 16}', b"\0\0\0\2{}"], most=4),
        st.integers(0, 3), short=60)  # fmt: skip
def test_messages_to_a_keeper(data: bytes, count: int) -> None:
    ours, theirs = socket.socketpair()
    before = len(os.listdir("/proc/self/fd"))
    ours.setblocking(False)
    with contextlib.suppress(OSError):
        socket.send_fds(ours, [data or b"\0"], [0] * count)
    receiver = wire.Reader()
    theirs.setblocking(False)
    found = refused_or((), receiver.receive, theirs)
    for message, fds in found or []:
        assert isinstance(message, dict)
        for fd in fds:
            os.close(fd)
    receiver.close()
    ours.close()
    theirs.close()
    assert len(os.listdir("/proc/self/fd")) == before - 2


@fuzzed(
    mutated([b'{"a": [1, 2.5, null], "b": "x"}', b"[]", b'"\\u00e9"', b"12"])
    | values(["a"]).map(lambda value: json.dumps(value).encode()),
    short=80,
)
def test_quick_json(data: bytes) -> None:
    refused_or((ValueError, RecursionError), quickjson.loads, data)


SALT = b"\x01\x02saltsa"
LOG = b"".join(frames.header(SALT, 10**18 + n, 10, 1 + n % 2) + b"x" * 10 for n in range(5))
OLD = b"".join(struct.pack("<QIB3s", 1_700_000_000 * 10**9 + n, 4, 1, b"SMP") + b"text" for n in range(5))


@fuzzed(mutated([LOG, OLD, LOG[:100]], [frames.header(SALT, 5, 1 << 31, 1), frames.header(SALT, 5, 0, 7), b"\xf5SF1"]), st.sampled_from(["1.frames", "1.log"]), st.booleans(), short=80)  # fmt: skip
def test_log_files(data: bytes, name: str, final: bool) -> None:
    fd = os.memfd_create("log")
    try:
        os.write(fd, data)
        form = frames.dialect(fd, name)
        if form is None:
            return
        offset, taken, rounds = 0, 0, 0
        with bounded(memory=256 << 20):
            while True:
                found, following = frames.scan(fd, form, offset, 4096, final)
                taken += sum(len(frame.data) for frame in found)
                rounds += 1
                assert following >= offset
                assert rounds < 1000
                if following == offset:
                    break
                offset = following
        assert taken <= len(data)
    finally:
        os.close(fd)


# clients of builds


@fuzzed(mutated([messages.new("Packet", type=0, stat=messages.new("Stat", path="a/b", mode=0o644, size=5)).SerializeToString(),
                 messages.new("ControlSolveRequest", Ref="x", Frontend="dockerfile.v0", FrontendAttrs={"filename": "D"}).SerializeToString()]),
        st.sampled_from(["Packet", "ControlSolveRequest", "BridgeSolveRequest", "StatusRequest", "PruneRequest"]), short=60)  # fmt: skip
def test_messages_of_builds(data: bytes, name: str) -> None:
    refused_or(DecodeError, messages.kind(name).FromString, data)


class Stream:
    """A client's end of a transfer, as grpclib gives it."""

    def __init__(self, packets: list[Any]) -> None:
        self._packets = packets

    async def recv_message(self) -> Any:
        return self._packets.pop(0) if self._packets else None

    async def send_message(self, message: Any, end: bool = False) -> None:
        pass


PATHS = ["a", "b", "d", "d/a", "d/../../x", "/abs", "..", ".", "", "l", "l/x", "l/secret", "a\0b", "n" * 300, "d/l/x"]
LINKS = ["", "a", "/", "..", "../..", "a\0", "OUTSIDE", "OUTSIDE/secret", "l/secret"]
PACKETS = st.lists(
    st.tuples(st.just(0), st.sampled_from(PATHS), st.sampled_from(LINKS),
              st.sampled_from([0o644, 1 << 31 | 0o755, 1 << 27 | 0o777, 1 << 23 | 0o4777, 1 << 25, 1 << 26, 0xFFFFFFFF]), st.sampled_from([0, -1, 1 << 62, -(1 << 63)]))
    | st.tuples(st.just(2), st.integers(0, 4), st.binary(max_size=10))
    | st.tuples(st.sampled_from([1, 3, 4, 9])), max_size=12,
)  # fmt: skip


@fuzzed(PACKETS, short=80)
def test_contexts_that_clients_send(outside: str, rows: list[Any]) -> None:
    """S017, S024: what a client of a build sends instead of a directory stays in the build's own."""
    before = seen(outside)
    packets = []
    for row in rows:
        packet = messages.new("Packet", type=row[0])
        if row[0] == 0:
            path, link, mode, time = row[1:]
            packet.stat.path, packet.stat.linkname, packet.stat.mode, packet.stat.modTime = (
                path,
                link.replace("OUTSIDE", outside),
                mode,
                time,
            )
        elif row[0] == 2:
            packet.ID, packet.data = row[1:]
        packets.append(packet)
    with empty_root() as (root, top):
        descriptors = len(os.listdir("/proc/self/fd"))
        try:
            with bounded():
                asyncio.run(filesync._Receiver(Stream([*packets, messages.new("Packet")]), root).run())
        except BuildError:
            pass
        assert os.listdir(top) == ["root"]
        assert len(os.listdir("/proc/self/fd")) == descriptors
    assert seen(outside) == before
