"""The pieces of virtual machines that need none: streams over one port, DHCP, seeds, appliances, shapes."""

from __future__ import annotations

import io
import json
import os
import socket
import struct
import threading
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.engine import machine_shape
from sampan.engine.errors import BadRequest
from sampan.engine.model import Device, DeviceRequest, HostConfig, Limits
from sampan.linux.eventloop import Loop
from sampan.network.ipam import Pool
from sampan.network.model import Endpoint, Network
from sampan.vm import dhcp, iso, ovf, qemu_pc, qga, seed
from sampan.vm.errors import VmError
from sampan.vm.mux import WINDOW, Mux


class Ends:
    """Both ends of a port in one loop."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.sockets = socket.socketpair()
        self.heard: list[Any] = []
        self.lost: list[int] = []
        self.ends = [
            Mux(self.loop, sock.fileno(), self.heard.append, lambda _, number=number: self.lost.append(number))  # type: ignore[misc]
            for number, sock in enumerate(self.sockets)
        ]

    def turn(self, times: int = 400) -> None:
        for _ in range(times):
            if not self.loop.turn(0.001):
                return

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.binary(max_size=2 * WINDOW), min_size=1, max_size=4))
def test_streams_arrive_whole_and_apart(contents: list[bytes]) -> None:
    ends = Ends()
    readers = []
    for stream, content in enumerate(contents, 1):
        source, feed = os.pipe()
        out, target = os.pipe()
        ends.ends[0].source(stream, source)
        ends.ends[1].sink(stream, target)
        readers.append([out, b"", feed, content])
        os.set_blocking(out, False)
        os.set_blocking(feed, False)
    for _ in range(2000):
        busy = False
        for row in readers:
            if row[3] is not None:
                busy = True
                try:
                    row[3] = row[3][os.write(row[2], row[3][:65536]) :] if row[3] else None  # type: ignore[arg-type,index]
                except BlockingIOError:
                    pass
                if row[3] is None:
                    os.close(row[2])  # type: ignore[arg-type]
        ends.turn(20)
        for row in readers:
            try:
                while data := os.read(row[0], 1 << 20):  # type: ignore[arg-type]
                    row[1] += data  # type: ignore[operator]
                    busy = True
            except BlockingIOError:
                busy = True
        if not busy:
            break
    assert [row[1] for row in readers] == contents
    assert all(end.ended(stream) for end in ends.ends for stream in range(1, len(contents) + 1))
    for row in readers:
        os.close(row[0])  # type: ignore[arg-type]
    ends.close()


def test_a_reader_that_waits_holds_up_its_own_stream_only() -> None:
    ends = Ends()
    source, feed = os.pipe()
    out, target = os.pipe()
    os.set_blocking(feed, False)
    ends.ends[0].source(1, source)
    ends.ends[1].sink(1, target)
    written = 0
    for _ in range(200):
        try:
            written += os.write(feed, bytes(65536))
        except BlockingIOError:
            pass
        ends.turn(10)
    assert written < 2 * WINDOW + (2 << 20)  # what the pipes hold, and one window
    ends.ends[0].send({"still": "here"})
    ends.turn()
    assert ends.heard == [{"still": "here"}]
    os.close(out)  # nobody reads any more: the writer is told
    for _ in range(200):
        ends.turn(10)
    with pytest.raises(BrokenPipeError):
        os.write(feed, b"x")
    os.close(feed)
    ends.close()


def test_the_end_of_the_port_is_told() -> None:
    ends = Ends()
    ends.sockets[0].sendall(struct.pack("!IIB", 0, 1 << 30, 0))  # longer than any message may be
    ends.turn()
    assert ends.lost == [1]
    ends.close()


def test_who_sends_more_than_it_may_is_cut_off() -> None:
    ends = Ends()
    out, target = os.pipe()
    ends.ends[1].sink(1, target)
    frame = struct.pack("!IIB", 1, 32768, 0) + bytes(32768)
    ends.sockets[0].setblocking(True)
    for _ in range(200):
        if ends.lost:
            break
        ends.sockets[0].send(frame)
        ends.turn(5)
    assert ends.lost == [1]
    os.close(out)
    ends.close()


@given(st.binary(max_size=600), st.integers(0, 2**32 - 1))
def test_dhcp_answers_never_crash(data: bytes, number: int) -> None:
    dhcp.parse(data, number)
    dhcp.parse(b"\2" + data[1:236].ljust(235, b"\0") + b"\x63\x82\x53\x63" + data, number)


def test_dhcp_talks_to_a_server() -> None:
    asked = dhcp.packet(1, 7, bytes(6), {50: b"\x0a\0\0\1"})
    assert asked[236:240] == b"\x63\x82\x53\x63"
    answer = bytearray(asked)
    answer[0] = 2
    answer[16:20] = socket.inet_aton("10.0.0.9")
    found = dhcp.parse(bytes(answer), 7)
    assert found is not None
    assert found[0] == "10.0.0.9"
    assert found[1][53] == b"\1"
    assert dhcp.parse(bytes(answer), 8) is None


def test_the_seed_of_a_guest() -> None:
    network = Network("n" * 64, "left", "bridge", 0, ipam=[Pool(subnet="10.1.0.0/16", gateway="10.1.0.1")])
    endpoint = Endpoint("e" * 64, "c", "web", "eth0", "02:42:0a:01:00:02", ipv4="10.1.0.2/16")
    guest = seed.Guest(user="jo", ssh_keys=("ssh-ed25519 A: b",), password="p: w")
    files = seed.files("i" * 64, "web", guest, [seed.place(network, endpoint, True)], ["9.9.9.9"])
    assert json.loads(files["meta-data"]) == {"instance-id": "i" * 12, "local-hostname": "web"}
    user = json.loads(files["user-data"].removeprefix("#cloud-config\n"))["users"][0]
    assert (user["name"], user["plain_text_passwd"], user["ssh_authorized_keys"]) == (
        "jo",
        "p: w",
        ["ssh-ed25519 A: b"],
    )
    interface = json.loads(files["network-config"])["ethernets"]["eth0"]
    assert interface["match"] == {"macaddress": "02:42:0a:01:00:02"}
    assert interface["routes"] == [{"to": "0.0.0.0/0", "via": "10.1.0.1"}]
    assert interface["nameservers"] == {"addresses": ["9.9.9.9"]}
    assert seed.files("i", "w", seed.Guest(user_data="mine"), [], [])["user-data"] == "mine"
    disc = __import__("pycdlib").PyCdlib()
    disc.open_fp(io.BytesIO(iso.seed(files)))
    out = io.BytesIO()
    disc.get_file_from_iso_fp(out, joliet_path="/network-config")
    assert out.getvalue().decode() == files["network-config"]
    disc.close()


@given(st.builds(ovf.Appliance, st.text("ab-1", min_size=1, max_size=9), st.integers(1, 64), st.integers(1, 1 << 20), st.text("ab.-", min_size=1, max_size=9), st.integers(1, 1 << 45)))  # fmt: skip
def test_appliances_read_back(appliance: ovf.Appliance) -> None:
    assert ovf.parse(ovf.describe(appliance, 5)) == appliance


@given(st.binary(max_size=300))
def test_appliances_never_crash(text: bytes) -> None:
    with pytest.raises(VmError):
        ovf.parse(text)


def test_hostile_appliances() -> None:
    bomb = b'<!DOCTYPE x [<!ENTITY a "aaaa">]><x>&a;</x>'
    for text in (bomb, b"<x/>", b"x" * (2 << 20)):
        with pytest.raises(VmError):
            ovf.parse(text)


def test_the_shape_of_a_machine() -> None:
    assert machine_shape.cpus(HostConfig()) == 1
    assert machine_shape.cpus(HostConfig(limits=Limits(nano_cpus=1_500_000_000))) == min(2, os.cpu_count() or 1)
    assert machine_shape.cpus(HostConfig(limits=Limits(cpu_quota=50000))) == 1
    assert machine_shape.memory(HostConfig()) == machine_shape.DEFAULT_MEMORY
    assert 512 < machine_shape.memory(HostConfig(limits=Limits(memory=512 << 20))) <= 640
    assert machine_shape.memory(HostConfig(limits=Limits(memory=1000 << 30))) <= (
        os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
    )
    for host, text in (
        (HostConfig(network_mode="host"), "--network host"),
        (HostConfig(pid_mode="container:x"), "another kernel"),
        (HostConfig(device_requests=(DeviceRequest(),)), "--gpus"),
        (HostConfig(storage_options={"size": "1k"}), "32m to 64g"),
        (HostConfig(storage_options={"medium": "x"}), "disk or memory"),
    ):
        with pytest.raises(BadRequest, match=text):
            machine_shape.check(host)
    machine_shape.check(HostConfig(devices=(Device("/dev/null"),), storage_options={"size": "1g"}))


def test_what_a_guest_sees_of_the_host() -> None:
    entries = [
        {"type": "bind", "source": "/d/hosts", "destination": "/etc/hosts", "options": ["rbind"]},
        {"type": "bind", "source": "/data", "destination": "/v", "options": ["rbind", "ro", "rslave"]},
        {"type": "tmpfs", "source": "tmpfs", "destination": "/t", "options": []},
    ]
    shares = machine_shape.share(entries, "/d")
    assert shares == [{"path": "/data", "name": "0", "read_only": True, "follow": True}]
    assert [entry["source"] for entry in entries] == ["/run/files/hosts", "/run/shares/0", "tmpfs"]


def test_arguments_of_a_pc() -> None:
    made = qemu_pc.Pc(2, 1024, "tcg", "qcow2", "sata", ["02:00:00:00:00:01"])
    text = " ".join(qemu_pc.arguments(made, 5, 6, [7], 11, (8, 9, 10)))
    # No guests of its own, and it knows how long addresses are.
    assert "-cpu max,min-xlevel=0x80000008,svm=off,vmx=off " in text
    assert "-device ide-hd,drive=disk" in text
    assert "tap,id=net0,fd=7" in text
    assert "mac=02:00:00:00:00:01" in text
    assert "format=qcow2,auto-read-only=off,file=/dev/fdset/0" in text


def _fake_agent(sock: socket.socket, polls: int) -> None:
    """Answers as qemu-ga does: echoes its input after `polls` questions."""
    file = sock.makefile("rwb", buffering=0)
    data = ""
    for line in file:
        message = json.loads(line)
        if message["execute"] == "guest-ping":
            reply: dict[str, Any] = {"return": {}}
            file.write(b'{"return": {}, "id": 999}\n')  # late, and to another question
        elif message["execute"] == "guest-exec":
            data = message["arguments"]["input-data"]
            missing = message["arguments"]["path"] == "/nothere"
            reply = {"error": {"desc": "not there"}} if missing else {"return": {"pid": 5}}
        elif polls:
            polls -= 1
            reply = {"return": {"exited": False}}
        else:
            reply = {"return": {"exited": True, "exitcode": 3, "out-data": data}}
        file.write(json.dumps({**reply, "id": message["id"]}).encode() + b"\n")


def _run_by_agent(path: str, answering: bool = True) -> tuple[list[str], list[tuple[int, bytes, bytes]]]:
    loop = Loop()
    ours, theirs = socket.socketpair()
    if answering:
        threading.Thread(target=_fake_agent, args=(theirs, 2), daemon=True).start()
    agent = qga.GuestAgent(loop, ours)
    reader, writer = os.pipe()
    os.write(writer, b"input")
    os.close(writer)
    begun: list[str] = []
    ended: list[tuple[int, bytes, bytes]] = []
    agent.run({"args": [path, "a"], "env": []}, reader, begun.append, lambda *found: ended.append(found))
    deadline = time.monotonic() + 10
    while agent.busy and time.monotonic() < deadline:
        loop.turn(0.05)
        agent.tick()
    os.close(reader)
    ours.close()
    theirs.close()
    return begun, ended


def test_commands_by_qemus_agent() -> None:
    begun, ended = _run_by_agent("/bin/cat")
    assert begun == [""]
    assert ended == [(3 << 8, b"input", b"")]
    begun, ended = _run_by_agent("/nothere")
    assert (begun, ended) == (["not there"], [])
    begun, ended = _run_by_agent("/bin/cat", answering=False)
    assert "neither Sampan's nor QEMU's" in begun[0]
