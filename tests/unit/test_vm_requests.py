"""Requests to machines and their guests: as they are read, as they have always been written, and what is none."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.keeper import wire
from sampan.keeper.fields import Malformed
from sampan.vm import protocol, requests
from sampan.vm.guest import Guest
from sampan.vm.host import Host

INTERFACE: Any = {"slot": 0, "name": "eth0", "mac": "02:42:ac:11:00:02", "mtu": 1500, "addresses": ["172.17.0.2/16"],
                  "gateways": ["172.17.0.1"], "ipv6": False}  # fmt: skip
BELONGINGS: Any = {"persistent": True, "size": 0, "shares": False, "files": {"hosts": "127.0.0.1 localhost\n"},
                   "interfaces": [INTERFACE], "writable": "fresh", "new": True, "names": True}  # fmt: skip
SPEC: Any = {"process": {"args": ["true"]}, "linux": {"namespaces": []}}

# Each with what the engine of 2026-11-28 (146b8a9) sent beside "seq". Agents of that time are on disks: never to be changed.
WRITTEN: list[tuple[Any, dict[str, Any]]] = [
    (requests.Clock(1.5, "00ff"), {"op": "clock", "time": 1.5, "entropy": "00ff"}),
    (requests.Start("init", 1, 1.5, "00", BELONGINGS, SPEC, "/sampan/container", None),
     {"op": "start", "id": "init", "base": 1, "time": 1.5, "entropy": "00", "guest": BELONGINGS, "spec": SPEC,
      "cgroup": "/sampan/container", "seccomp": None}),
    (requests.Open(1.5, "00", BELONGINGS, "/srv"), {"op": "open", "time": 1.5, "entropy": "00", "guest": BELONGINGS, "cwd": "/srv"}),
    (requests.Close(), {"op": "close"}),
    (requests.Expect(SPEC), {"op": "expect", "request": SPEC}),
    (requests.Exec({"args": ["sh"]}, "AAAA", "exec16", 16),
     {"op": "exec", "process": {"args": ["sh"]}, "seccomp": "AAAA", "id": "exec16", "base": 16}),
    (requests.Job("put", {"path": "/x", "keep_type": False, "user": ""}, "job19", 19),
     {"op": "job", "name": "put", "args": {"path": "/x", "keep_type": False, "user": ""}, "id": "job19", "base": 19}),
    (requests.Signal("init", 15), {"op": "signal", "id": "init", "number": 15}),
    (requests.EndProcess("exec16"), {"op": "end", "id": "exec16"}),
    (requests.Resize("init", 24, 80), {"op": "resize", "id": "init", "rows": 24, "columns": 80}),
    (requests.Usage(), {"op": "usage"}),
    (requests.Processes(), {"op": "processes"}),
    (requests.Limits({"pids": {"limit": 5}}), {"op": "limits", "resources": {"pids": {"limit": 5}}}),
    (requests.Freeze(True), {"op": "freeze", "frozen": True}),
    (requests.Files({"hosts": "x"}), {"op": "files", "files": {"hosts": "x"}}),
    (requests.Named("srv", ["127.0.0.11"]), {"op": "named", "hostname": "srv", "servers": ["127.0.0.11"]}),
    (requests.Shutdown(), {"op": "shutdown"}),
    (requests.Connect(INTERFACE, True), {"op": "connect", "interface": INTERFACE, "names": True}),
    (requests.Disconnect("eth0", 0, "eth1", ["10.0.0.1"]),
     {"op": "disconnect", "name": "eth0", "slot": 0, "way_out": "eth1", "gateways": ["10.0.0.1"]}),
    (requests.Resolved(7, "AAAA"), {"op": "dns", "number": 7, "data": "AAAA"}),
    (requests.Alive(), {"op": "alive"}),
    (requests.GetShape(), {"op": "shape"}),
    (requests.TakeTap(1), {"op": "take", "slot": 1}),
    (requests.Balloon(1 << 29), {"op": "balloon", "bytes": 1 << 29}),
    (requests.Pause(), {"op": "pause"}),
    (requests.Resume(), {"op": "resume"}),
    (requests.Reset(), {"op": "reset"}),
    (requests.SaveSnapshot("one"), {"op": "savevm", "name": "one"}),
    (requests.LoadSnapshot("one"), {"op": "loadvm", "name": "one"}),
    (requests.DeleteSnapshot("one"), {"op": "delvm", "name": "one"}),
    (requests.IsReady(), {"op": "ready"}),
]  # fmt: skip


@pytest.mark.parametrize(("request_", "message"), WRITTEN, ids=[message["op"] for _, message in WRITTEN])
def test_requests_are_written_as_ever_and_read_again(request_: Any, message: dict[str, Any]) -> None:
    assert requests.to_message(request_) == message
    assert requests.read(json.loads(json.dumps(message | {"seq": 5, "fds": 0}))) == request_


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ({"op": "nosuch"}, "no request to a virtual machine: nosuch"),
        ({}, "no request"),
        ({"op": ["x"]}, "no request"),
        ({"op": "signal", "id": "init"}, "lacks number"),
        ({"op": "signal", "id": "init", "number": 65}, "number 65"),
        ({"op": "signal", "id": "init", "number": True}, "number True"),
        ({"op": "resize", "id": "init", "rows": -1, "columns": 1}, "rows -1"),
        ({"op": "files", "files": {"../../etc/passwd": ""}}, "no name of a file"),
        ({"op": "files", "files": {"hosts": 5}}, "hosts is no text"),
        ({"op": "clock", "time": "now", "entropy": ""}, "time is no time"),
        ({"op": "clock", "time": 1, "entropy": "xyz"}, "entropy is not hexadecimal"),
        ({"op": "connect", "interface": INTERFACE | {"slot": "0"}}, "slot '0'"),
        ({"op": "take", "slot": -1}, "slot -1"),
        ({"op": "savevm", "name": "x" * 257}, "at most 256"),
        ({"op": "freeze", "frozen": 1}, "neither true nor false"),
    ],
)
def test_what_is_no_request_is_refused_by_name(message: dict[str, Any], why: str) -> None:
    with pytest.raises(Malformed, match=why):
        requests.read(message)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_KEYS = ["id", "base", "time", "entropy", "guest", "spec", "process", "number", "rows", "columns", "files", "slot", "name", "args",
         "interface", "names", "gateways", "way_out", "frozen", "resources", "data", "bytes", "request", "cgroup", "seccomp"]  # fmt: skip


@given(st.sampled_from([message["op"] for _, message in WRITTEN]), st.dictionaries(st.sampled_from(_KEYS), _JSON))
def test_any_message_is_a_request_or_malformed(op: str, members: dict[str, Any]) -> None:
    try:
        found = requests.read({**members, "op": op})
    except Malformed:
        return
    assert found.op == op


class Port:
    """A mux that only keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []

    def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)


def test_a_guest_answers_what_it_does_not_understand_with_why() -> None:
    port: Any = Port()
    guest = Guest(port, slots=False)
    for number, message in enumerate(
        ({"op": "nosuch"}, {"op": "signal", "id": 5, "number": 9}, {"op": "savevm", "name": "x"}, {"op": "alive"}), 1
    ):
        guest.handle({**message, "seq": number})
    errors = [answer.get("error", "") for answer in port.sent]
    assert [answer["seq"] for answer in port.sent] == [1, 2, 3, 4]
    assert errors == [
        "no request to a virtual machine: nosuch",
        "id is no text of at most 256 characters",
        "the guest does not know savevm",
        "",
    ]


def test_an_agent_tells_its_version() -> None:
    assert protocol.parse({"event": "ready", "release": "6.1"}) == protocol.Ready(1)
    assert protocol.parse({"event": "ready", "version": 2}) == protocol.Ready(2)
    with pytest.raises(protocol.BrokenProtocol, match="version"):
        protocol.parse({"event": "ready", "version": "x"})


class Machine(Host):
    """A machine's process without a machine."""

    def __init__(self, directory: Path) -> None:
        super().__init__(str(directory / "control"), str(directory / "console"))
        self.ours, self.theirs = socket.socketpair()
        self.meet(self.ours.fileno())
        self.listen()

    def drive(self, request: requests.Request) -> object:
        if isinstance(request, requests.GetShape):
            return {"memory": 512}
        return NotImplemented

    def ask_over_socket(self, message: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(self._control)
            wire.send(sock, {"seq": 1, "fds": len(fds), **message}, fds)
            sock.setblocking(False)
            reader = wire.Reader()
            while not (found := reader.receive(sock)):
                assert found is not None
                self.loop.turn(1)
        return found[0][0]

    def finish(self) -> None:
        self.loop.turn(0)
        self.ours.close()
        self.theirs.close()
        assert self._listener is not None
        self._listener.close()
        os.close(self.log.fileno())


def test_a_machine_s_process_refuses_what_is_no_request_and_goes_on(tmp_path: Path) -> None:
    """Whoever speaks over its socket may be an exec's process that its guest has taken over."""
    machine = Machine(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    for message, fds, why in (
        ({"op": "exec"}, [], "lacks process"),
        ({"op": "exec", "process": {}, "seccomp": None}, [], "takes the descriptors"),
        ({"op": "exec", "process": {}, "seccomp": None, "names": ["stdout", "stdin"]}, [0, 1], "takes the descriptors"),
        ({"op": "exec", "process": {}, "seccomp": None, "names": ["stdin", "stdout"]}, [0], "takes the descriptors"),
        ({"op": "take", "slot": "x"}, [0, 1], "slot 'x'"),
        ({"op": 5}, [0], "no request"),
    ):  # fmt: skip
        assert why in machine.ask_over_socket(message, fds)["error"]
    assert machine.ask_over_socket({"op": "shape"}, [])["result"] == {"memory": 512}
    machine.loop.turn(0)
    assert len(os.listdir("/proc/self/fd")) <= before + 1
    machine.finish()
