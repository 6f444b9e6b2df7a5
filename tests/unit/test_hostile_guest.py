"""A guest whose agent is somebody else: what it sends is understood, passed over, or the end of its own channel; never more."""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.engine import guest_answers, shims
from sampan.engine.errors import EngineError
from sampan.linux.eventloop import Loop
from sampan.runtime import channel
from sampan.vm import protocol, qemu_pc, qga, requests
from sampan.vm.console import ConsoleLog
from sampan.vm.errors import VmError
from sampan.vm.host import Host
from sampan.vm.qmp import Monitor
from tests.support.effort import tries

MESSAGES = tries(10_000, 100_000)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


class Listening(Host):
    """The host's half of a machine without a machine."""

    def __init__(self, directory: Path) -> None:
        super().__init__(str(directory / "control"), str(directory / "console"))
        self.ours, self.theirs = socket.socketpair()
        self.ended: list[str] = []
        self.answers: list[protocol.Reply] = []
        self.meet(self.ours.fileno())

    def lost(self, why: str) -> None:
        self.ended.append(why)

    def hear(self, data: bytes) -> None:
        """What a guest sends, and what the host does of it."""
        self.theirs.settimeout(0.0)
        while data and not self.ended:
            try:
                data = data[self.theirs.send(data) :]
            except BlockingIOError:
                pass
            self.loop.turn(0)
            try:
                while self.theirs.recv(1 << 16):
                    pass
            except BlockingIOError:
                pass
        while not self.ended and self.loop.turn(0):
            pass

    def finish(self) -> None:
        self.ours.close()
        self.theirs.close()
        os.close(self.log.fileno())


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Listening]:
    made = Listening(tmp_path)
    yield made
    made.finish()


def frame(message: Any, stream: int = 0, kind: int = 0) -> bytes:
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    return struct.pack("!IIB", stream, len(body), kind) + body


def _anything(chance: random.Random) -> Any:
    return chance.choice(
        [None, True, 0, -1, 1 << 70, 1.5, "", "init", "x" * 5000, "\x1b[2J\ud800", [], {}, [[[]]], {"a": {"b": 1}}]
    )


def _message(chance: random.Random) -> bytes:
    """One of a hostile agent: of the right shape and wrong values, of none, cut, huge, nested, again and again."""
    kind = chance.randrange(12)
    if kind == 0:
        return chance.randbytes(chance.randrange(1, 64))
    if kind == 1:
        return struct.pack("!IIB", chance.randrange(40), chance.randrange(1 << 32), chance.randrange(8))
    if kind == 2:
        return frame(b"[" * chance.randrange(1, 50_000))
    if kind == 3:
        return frame(chance.randbytes(chance.randrange(200)), chance.randrange(1, 40), chance.randrange(5))
    if kind == 4:
        whole = frame({"seq": 1, "result": "y" * chance.randrange(1000)})
        return whole[: chance.randrange(len(whole))]
    if kind == 5:
        return frame(
            {"event": "dns", "number": chance.randrange(3), "data": _anything(chance), "tcp": _anything(chance)}
        )
    keys = ["seq", "error", "failure", "warnings", "result", "event", "id", "status", "oom", "number", "data", "op"]
    message = {key: _anything(chance) for key in chance.sample(keys, chance.randrange(len(keys)))}
    message |= chance.choice([{}, {"event": "exit", "id": "exec16"}, {"event": "ready"}, {"seq": chance.randrange(9)}])
    return frame(message)


def test_ten_thousand_messages_of_a_hostile_agent(tmp_path: Path) -> None:
    """Each channel ends by itself or goes on; nothing is raised, and the memory of the process stays what it was."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seen: set[bool] = set()
    sent = 0
    while sent < MESSAGES:
        chance = random.Random(sent)
        made = Listening(tmp_path)
        for number in range(4):
            made.ask(requests.Usage(), made.answers.append)
            made.exits[f"exec{16 + number}"] = lambda _: None
        while not made.ended and sent < MESSAGES:
            made.hear(_message(chance))
            sent += 1
        seen.add(bool(made.ended))
        assert all(made.ended), "an end names its reason"
        assert all(isinstance(reply, protocol.Reply) for reply in made.answers)
        made.finish()
    assert True in seen
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150 << 10  # KiB


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (frame(b"nonsense"), "not JSON"),
        (frame(b"[" * 100_000), "not JSON"),
        (frame([1]), "is list"),
        (frame({"event": "root", "path": "/etc"}), "an event 'root'"),
        (frame({"seq": True}), "seq True"),
        (frame({"seq": 1 << 60}), "seq"),
        (frame({"event": "exit", "id": "init", "status": 1 << 20}), "status"),
        (frame({"event": "exit", "id": "init", "status": 0x137F}), "an end with the status"),
        (frame({"event": "exit", "id": 7, "status": 0}), "id is no text"),
        (frame({"event": "dns", "number": -1, "data": ""}), "number -1"),
        (frame({"seq": 1, "warnings": [1]}), "warnings"),
        (frame({"seq": 1, "result": [[[[[[[[[[1]]]]]]]]]]}), "a value in a value"),
        (struct.pack("!IIB", 0, protocol.MAX_HEARD + 1, 0), "a frame of 1048577 bytes"),
        (struct.pack("!IIB", 16, 70_000, 0), "a frame of 70000 bytes"),
        (frame(b"xx", 16, 2), "a frame of kind 2"),
        (frame(b"", 16, 9), "a frame of kind 9"),
    ],
)
def test_what_no_agent_sends_is_the_end_of_the_channel(host: Listening, data: bytes, why: str) -> None:
    host.ask(requests.Usage(), host.answers.append)
    host.hear(data)
    assert len(host.ended) == 1
    assert why in host.ended[0]
    host.theirs.settimeout(0)
    host.loop.turn(0)
    assert host.answers == []
    host.ask(requests.Usage(), host.answers.append)  # is no error, and nobody's any more
    assert len(host.ended) == 1


def test_replays_and_answers_that_nobody_asked_for_are_counted(host: Listening) -> None:
    host.ask(requests.Usage(), host.answers.append)
    ends: list[protocol.Exit] = []
    host.exits["exec16"] = ends.append
    for _ in range(3):
        host.hear(frame({"seq": 1, "result": 5}))
        host.hear(frame({"event": "exit", "id": "exec16", "status": 256, "oom": 1}))
        host.hear(frame({"event": "exit", "id": "../../etc", "status": 0}))
        host.hear(frame({"seq": 4711}))
    assert [reply.result for reply in host.answers] == [5]
    assert [(end.status, end.oom) for end in ends] == [(256, True)]
    assert host.ended == []
    host.hear(frame({"seq": 4711}) * (protocol.MAX_IGNORED + 1))
    assert host.ended == ["it goes on sending what nobody has asked for"]


def test_texts_of_a_guest_are_cut_and_say_nothing_to_a_terminal(host: Listening) -> None:
    host.ask(requests.Shutdown(), host.answers.append)
    host.hear(frame({"seq": 1, "error": "\x1b]0;x\x07" + "a" * 9000, "failure": "root"}))
    (reply,) = host.answers
    assert len(reply.error) == 4096
    assert "\x1b" not in reply.error
    assert reply.failure == "other"


def test_who_asks_and_never_reads_is_cut_off(host: Listening) -> None:
    for _ in range(40):
        host.mux.send({"op": "dns", "data": "x" * (1 << 20), "seq": 0})
    assert host.ended == ["it does not read what it is sent"]


def test_a_guest_that_answers_nothing_is_not_asked_without_end(host: Listening) -> None:
    for _ in range(3000):
        host.ask(requests.Usage(), host.answers.append)
    assert len(host.answers) == 3000 - 1024
    assert {reply.error for reply in host.answers} == {"the guest does not answer"}


def test_a_guest_that_boots_anew_is_owed_nothing(host: Listening) -> None:
    ends: list[protocol.Exit] = []
    host.exits["exec16"] = ends.append
    host.ask(requests.Usage(), host.answers.append)
    host.forget_guest()
    assert [reply.error for reply in host.answers] == ["the guest has booted anew"]
    assert [end.status for end in ends] == [9]
    host.hear(frame({"seq": 1, "result": 5}))
    assert len(host.answers) == 1


def test_a_guest_s_words_are_one_line() -> None:
    """They go into the daemon's log and into headers of an answer."""
    said = "slow\r\nsampand: forged\n\tX: y\x1b[2J"
    for message in ({"seq": 1, "warnings": [said]}, {"seq": 1, "error": said}):
        found = protocol.parse(message)
        assert isinstance(found, protocol.Reply)
        assert [found.error, *found.warnings][-1 if found.warnings else 0].isprintable()
    assert guest_answers.failure("box", {"error": said, "kind": "other"}).error.isprintable()
    assert guest_answers.report("box", json.dumps({"error": said}).encode())[1].isprintable()


@given(_JSON)
def test_a_message_is_typed_or_refused(value: Any) -> None:
    try:
        found = protocol.parse(value)
    except VmError:
        return
    assert isinstance(found, (protocol.Reply, protocol.Exit, protocol.Question, protocol.Ready))


_ANSWERS: list[guest_answers.Answer[Any]] = [
    guest_answers.USAGE, guest_answers.PROCESSES, guest_answers.WARNINGS, guest_answers.SHAPE, guest_answers.READY, guest_answers.STAT,
]  # fmt: skip


@given(st.sampled_from(_ANSWERS), _JSON)
def test_an_answer_is_typed_or_refused(answer: guest_answers.Answer[Any], value: Any) -> None:
    try:
        found = answer.of("box", value)
    except EngineError:
        return
    assert answer in (guest_answers.WARNINGS, guest_answers.PROCESSES, guest_answers.READY)
    assert found == [] or isinstance(found, bool | list)


def test_answers_as_they_are() -> None:
    cpu = {"cpu_usage": {"total_usage": 1 << 90, "usage_in_usermode": 2, "usage_in_kernelmode": 3},
           "system_cpu_usage": 4, "online_cpus": 1, "throttling_data": {"periods": 0}}  # fmt: skip
    counts = dict.fromkeys(
        ("rx_bytes", "rx_packets", "rx_errors", "rx_dropped", "tx_bytes", "tx_packets", "tx_errors", "tx_dropped"), 1
    )
    usage = {"cpu_stats": cpu, "memory_stats": {"usage": 1, "limit": 2, "stats": {"file": 1}},
             "pids_stats": {"current": 1, "limit": 2**64 - 1}, "networks": {"eth0": counts}}  # fmt: skip
    found = guest_answers.USAGE.of("box", usage)
    assert found["cpu_stats"]["cpu_usage"]["total_usage"] == 2**64 - 1
    assert found["networks"] == {"eth0": counts}
    for name in ('a"} 1\nx', "../../etc", "x" * 16):
        with pytest.raises(EngineError):
            guest_answers.USAGE.of("box", usage | {"networks": {name: counts}})
    row = ["0", "1", "0", "0", "10:00", "?", "00:00:00", "sleep\x1b[2J"]
    assert guest_answers.PROCESSES.of("box", [row]) == [[*row[:7], "sleep\ufffd[2J"]]
    with pytest.raises(EngineError):
        guest_answers.PROCESSES.of("box", [["root", *row[1:]]])
    with pytest.raises(EngineError):
        guest_answers.STAT.of("box", {"size": 1, "mode": 1, "mtime": 1 << 80, "link": ""})
    with pytest.raises(EngineError):
        guest_answers.failure("box", {"error": "x", "kind": "os", "errno": 1 << 40})


def test_reports_of_ends() -> None:
    assert guest_answers.report("box", b'{"oom": true}') == (True, "")
    for data in (b"", b"[", b"[" * 100_000, b'{"oom": "x"}', b'{"error": 5}', b"\xff"):
        assert guest_answers.report("box", data) == (False, "")
    assert guest_answers.report("box", b'{"error": "\\u001bbroken"}') == (False, "virtual machine box: \ufffdbroken")


def test_changes_are_rows_and_not_without_end() -> None:
    out = guest_answers.Changes("box")
    out.write(b"1/a\x000/b c\x00")
    assert out.rows() == [("/a", 1), ("/b c", 0)]
    for row in (b"7/a", b"1etc", b"/a", b"1"):
        out = guest_answers.Changes("box")
        out.write(row)
        with pytest.raises(EngineError, match="box"):
            out.rows()
    with pytest.raises(EngineError, match="more than can be told"):
        guest_answers.Changes("box").write(b"1/\x00" * 300_001)


# other ways in


def test_s047_what_qemu_and_its_guest_say_is_bounded(tmp_path: Path) -> None:
    loop = Loop()
    log = ConsoleLog(loop, str(tmp_path / "console"))
    pairs = [socket.socketpair() for _ in range(2)]
    log.follow(*(ours for ours, _ in pairs))
    for _, theirs in pairs:
        theirs.setblocking(False)
    sent = 0
    while sent < 4 << 20:
        for _, theirs in pairs:
            try:
                sent += theirs.send(b"virtio: wrong descriptor\n" * 1000)
            except BlockingIOError:
                pass
        loop.turn(0)
        assert (tmp_path / "console").stat().st_size <= 256 << 10
    pairs[1][1].send(b"the end")
    assert "virtio: wrong descriptor" in log.last() or "the end" in log.last()
    for pair in pairs:
        for sock in pair:
            sock.close()


@pytest.mark.parametrize("with_fds", [False, True])
def test_a_shim_that_goes_on_talking_is_listened_to_no_more(tmp_path: Path, with_fds: bool) -> None:
    """Whoever waits gets an error; what it has sent is not kept, neither messages nor descriptors."""
    path, name = str(tmp_path / "shim.sock"), "box"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()

    def serve() -> None:
        sock = listener.accept()[0]
        try:
            sock.recv(65536)
            for number in range(5000):
                body = b'{"seq": 1, "fds": 1}' if with_fds else b'{"seq": 1, "result": "%d"}' % number
                socket.send_fds(sock, [len(body).to_bytes(4, "big") + body], [0] if with_fds else [])
        except OSError:
            pass
        sock.close()

    async def talk() -> int:
        threading.Thread(target=serve, daemon=True).start()
        before = len(os.listdir("/proc/self/fd"))
        async with shims.connected(path, name) as shim:
            heard = 0

            async def listen() -> None:
                nonlocal heard
                await shim.ask(requests.Job("stat", {}), limit=10)
                while True:
                    await shim.next(10)
                    heard += 1

            with pytest.raises(EngineError, match="box has ended"):
                await listen()
            assert heard < 3
        return len(os.listdir("/proc/self/fd")) - before

    assert asyncio.run(talk()) <= 1  # the other end, perhaps
    listener.close()


def _monitor(replies: list[bytes]) -> tuple[Monitor, socket.socket]:
    ours, theirs = socket.socketpair()

    def serve() -> None:
        try:
            theirs.sendall(b'{"QMP": {}}\n')
            for reply in [b'{"return": {}}\n', *replies]:
                theirs.recv(65536)
                theirs.sendall(reply)
        except OSError:
            pass

    threading.Thread(target=serve, daemon=True).start()
    return Monitor(ours, timeout=10), theirs


@pytest.mark.parametrize(
    "reply",
    [b"nonsense\n", b"[1]\n", b"7\n", b'{"error": "x"}\n', b'{"error": {"desc": ["\\u001b"]}}\n', b"[" * 50_000 + b"\n",
     b"x" * (3 << 20), b'{"event": "RTC_CHANGE"}\n' * 10_001],
)  # fmt: skip
def test_a_monitor_that_answers_anything(reply: bytes) -> None:
    """A QEMU that its guest has taken over."""
    monitor, theirs = _monitor([reply])
    with pytest.raises(VmError) as found:
        monitor.run("cont")
    assert len(str(found.value)) < 1200
    assert "in time" not in str(found.value)
    assert "timed out" not in str(found.value)
    assert "\x1b" not in str(found.value)
    theirs.close()


def _hostile_qga(lines: list[bytes]) -> tuple[list[str], list[tuple[int, bytes, bytes]]]:
    loop = Loop()
    ours, theirs = socket.socketpair()
    agent = qga.GuestAgent(loop, ours)
    reader = os.open("/dev/null", os.O_RDONLY)
    begun: list[str] = []
    ended: list[tuple[int, bytes, bytes]] = []
    agent.run({"args": ["id"], "env": []}, reader, begun.append, lambda *found: ended.append(found))
    theirs.settimeout(0)
    for line in lines:
        asked = b""
        for _ in range(100):
            agent.tick()
            loop.turn(0.01)
            try:
                asked = theirs.recv(1 << 20)
                break
            except BlockingIOError:
                continue
        number = json.loads(asked.splitlines()[-1])["id"] if asked else 0
        theirs.settimeout(None)
        sender = threading.Thread(target=theirs.sendall, args=(line.replace(b"ID", str(number).encode()),))
        sender.start()
        while sender.is_alive() or loop.turn(0):
            loop.turn(0.01)
        theirs.settimeout(0)
    for _ in range(50):
        loop.turn(0)
    os.close(reader)
    ours.close()
    theirs.close()
    return begun, ended


def test_an_agent_of_qemus_that_is_none() -> None:
    ping = b'{"return": {}, "id": ID}\n'
    noise = b'\xff\xfe\n[1]\n"x"\n7\n{"id": []}\n' + b"[" * 50_000 + b"\n"
    assert _hostile_qga([noise + ping, b'{"return": {"pid": "x"}, "id": ID}\n'])[0] == [
        "the guest's agent does not say which process it has started"
    ]
    assert _hostile_qga([ping, b'{"error": [], "id": ID}\n'])[0] == ["the guest's agent does not say why"]
    begun, ended = _hostile_qga(
        [ping, b'{"return": {"pid": 5}, "id": ID}\n', b'{"return": {"exited": 1, "exitcode": -7777777, "out-data": "%%%", "signal": "KILL"}, "id": ID}\n']
    )  # fmt: skip
    assert begun == [""]
    assert len(ended) == 1
    assert 0 <= ended[0][0] <= 0xFFFF
    assert ended[0][1:] == (b"", b"")


def test_a_line_of_an_agent_without_an_end_is_not_kept() -> None:
    loop = Loop()
    ours, theirs = socket.socketpair()
    agent = qga.GuestAgent(loop, ours)
    sender = threading.Thread(target=theirs.sendall, args=(b"x" * (60 << 20),), daemon=True)
    sender.start()
    while sender.is_alive() or loop.turn(0):
        loop.turn(0.01)
    assert len(agent._received) < 49 << 20
    ours.close()
    theirs.close()


@pytest.mark.parametrize(
    "data", [b"nonsense", b"[1]", b"{}", b'{"kind": "tty"}', b'{"kind": "error", "text": 5}', b'{"kind": "error", "failure": "root"}']
)  # fmt: skip
def test_reports_of_a_process_that_was_taken_over(data: bytes) -> None:
    """What it sends to the keeper is an error, and descriptors that it sends along are not kept."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.send(data)
    assert channel.receive(ours).kind == "error"
    count = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        socket.send_fds(theirs, [b'{"kind": "warning", "text": "x"}'], [0])
        assert channel.receive(ours).fds == []
    assert len(os.listdir("/proc/self/fd")) == count
    ours.close()
    theirs.close()


# words for QEMU


def test_no_text_of_a_user_is_an_option_of_qemus() -> None:
    for mac in ("52:54:00:00:00:01,romfile=/etc/shadow", "x", "52:54:00:00:00:01\n"):
        made = qemu_pc.Pc(1, 256, "tcg", "qcow2", "virtio", [mac])
        with pytest.raises(VmError, match="MAC"):
            qemu_pc.arguments(made, 5, 6, [7], 11, (8, 9, 10))
    for bad in ({"form": "qcow2,file=/etc/shadow"}, {"bus": "usb"}, {"accelerator": "tcg,plugin=/x"}):
        fields = {
            "cpus": 1,
            "memory": 256,
            "accelerator": "tcg",
            "form": "qcow2",
            "bus": "virtio",
            "interfaces": [],
        } | bad
        with pytest.raises(VmError, match="no machine"):
            qemu_pc.arguments(qemu_pc.Pc(**fields), 5, 6, [], 11, (8, 9, 10))
