"""Requests and answers between sampand and the keeper: as they are now, as earlier versions have them, and what is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.keeper import envelope, protocol
from sampan.keeper.fields import Malformed
from sampan.keeper.protocol import Handover, LogOptions

FROZEN = json.loads((Path(__file__).parent / "keeper_messages.json").read_text())
TASK = Handover("a" * 64, 42, 17, "/data/containers/a", False, LogOptions(0, 1), [1, 2], True)


def launch(path: str = "@network", **more: Any) -> Any:
    namespaces = [{"type": "mount"}, {"type": "network", "path": path}]
    return {"spec": {"process": {"args": ["true"]}, "linux": {"namespaces": namespaces}, "mounts": []}, **more}


def entry(**more: Any) -> Any:
    return {**launch(), "entry": "sampan.vm.shim:main", "process": {}, **more}


def start(**more: Any) -> protocol.Start:
    return protocol.Start(
        "a" * 64,
        launch(),
        "/data/containers/a",
        True,
        LogOptions(5, 2),
        {"network": 7, "sources": 8, "root": 9, **more},
    )


STDIO = dict(zip(protocol.STDIO, (5, 6, 7), strict=True))
REQUESTS: list[Any] = [
    protocol.Ping(),
    protocol.Prepare(""),
    protocol.Prepare("sandbox", launch(), {"network": 7}),
    protocol.MountRoot("a", {"lower": ["/l"], "upper": "/u", "work": "/w"}),
    protocol.UnmountRoot("a"),
    protocol.Stop(),
    protocol.List(),
    protocol.Acknowledge(["a:17"]),
    protocol.Abandon("a"),
    protocol.Hold("a"),
    protocol.Adopt(TASK, {"process": 7, "stdout": 8, "stderr": 9, "stdin": 10}),
    start(),
    protocol.Start("a", entry(), "", False, LogOptions(), {"network": 7, "memory": 8, "tap0": 9}),
    protocol.Exec("b", {"pid": 42, "cgroup": "/c", "process": {"args": ["sh"]}, "seccomp": None}, STDIO),
    protocol.Exec("b", {"pid": 42, "cgroup": "/c", "process": {"args": ["sh"], "terminal": True}, "seccomp": None}),
    protocol.Exec("b", entry(), {**STDIO, "network": 8, "memory": 9}),
    protocol.Exec("b", {"entry": "m:f", "spec": {"linux": {"namespaces": []}}, "cgroup": None, "process": {"args": ["sh"]}, "seccomp": None}, STDIO),
    protocol.GetStdin("a"),
    protocol.CloseStdin("a"),
    protocol.Resize("a", 24, 80),
]  # fmt: skip


def through_wire(request: Any, version: int) -> Any:
    message, fds = envelope.to_message(request, version)
    message = json.loads(json.dumps(message))
    assert message["fds"] == len(fds)
    return protocol.read_request(message, envelope.named(message, fds))


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: request.op)
def test_a_request_is_read_as_it_was_written(request_: Any) -> None:
    found = through_wire(request_, 2)
    if "entry" in (vars(request_).get("request") or ()):
        names = found.request.pop("descriptors")
        assert names == [name for name in request_.descriptors if request_.op == "start" or name not in STDIO]
    assert found == request_


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: request.op)
def test_a_keeper_reads_version_1_too(request_: Any) -> None:
    """What refers to a descriptor finds the same one, by whatever name."""
    found = through_wire(request_, 1)
    assert type(found) is type(request_)
    given, wanted = getattr(found, "descriptors", {}), getattr(request_, "descriptors", {})
    assert list(given.values()) == list(wanted.values())
    for name in ("sources", "root", *protocol.STDIO):
        if name in wanted:
            assert given[name] == wanted[name]
    if "spec" in (getattr(found, "request", None) or {}) and "network" in wanted:
        path = found.request["spec"]["linux"]["namespaces"][1]["path"]
        assert found.op == "prepare" or given[path[1:]] == wanted["network"]


@pytest.mark.parametrize("name", FROZEN["requests of version 1"])
def test_what_is_written_for_a_keeper_of_version_1_is_what_its_engine_wrote(name: str) -> None:
    """keeper_messages.json has what the engine of 2026-11-28 (146b8a9) sent: no keeper of that time may meet anything else."""
    frozen = FROZEN["requests of version 1"][name]
    wrote = {
        "ping": protocol.Ping(),
        "prepare": protocol.Prepare("sandbox", None, {"network": 7}),
        "start": start(),
        "start of a machine": protocol.Start("a" * 64, entry(), "/data/containers/a", False, LogOptions(5, 2), {"network": 7, "memory": 8, "tap0": 9}),
        "exec": protocol.Exec("b", {"pid": 42, "cgroup": "/c", "process": {"args": ["sh"]}, "seccomp": None}, STDIO),
        "adopt": protocol.Adopt(TASK, {"process": 7, "stdout": 8, "stderr": 9, "stdin": 10}),
        "acknowledge": protocol.Acknowledge(["a:17"]),
        "resize": protocol.Resize("a", 24, 80),
    }[name]  # fmt: skip
    message, _ = envelope.to_message(wrote, 1)
    for key, value in frozen.items():
        if key not in ("seq", "request"):
            assert message[key] == value, key
    for key, value in (frozen.get("request") or {}).items():
        assert message["request"][key] == value, key


@pytest.mark.parametrize("name", FROZEN["answers of version 1"])
def test_answers_of_a_keeper_of_version_1(name: str) -> None:
    frozen = FROZEN["answers of version 1"][name]
    message = frozen["message"]
    fds = list(range(10, 10 + message.get("fds", 0)))
    asked: dict[str, Any] = {"pong": protocol.Ping(), "tasks": protocol.List(), "stdin": protocol.GetStdin("a")}
    answer = asked.get(name, protocol.Hold("a")).answer(message, envelope.named(message, fds))
    if "descriptors" in frozen:
        assert answer.descriptors == frozen["descriptors"]
        assert answer.task == protocol.read_task(message)
    elif name == "pong":
        assert envelope.agreed(answer.version, answer.oldest) == 1
    elif name == "tasks":
        assert [task.id for task in answer.tasks + answer.others] == ["a", "b"]
        assert [end.key for end in answer.ended] == ["c:19"]
    else:
        assert answer == 10


def test_versions() -> None:
    assert envelope.agreed(1, 1) == 1
    assert envelope.agreed(2, 1) == 2
    assert envelope.agreed(7, 2) == 2
    for version, oldest in ((9, 3), (0, 0)):
        with pytest.raises(Malformed, match="this engine 1 to 2"):
            envelope.agreed(version, oldest)


BAD = [
    ({"op": "nosuch"}, "no keeper operation"),
    ({"op": "hold", "id": ["x"]}, "id is no text"),
    ({"op": "hold", "id": "x" * 129}, "at most 128"),
    ({"op": "prepare"}, "lacks sandbox"),
    ({"op": "prepare", "sandbox": "", "request": {}}, "lacks spec"),
    ({"op": "acknowledge", "keys": 3}, "keys is no list"),
    ({"op": "acknowledge", "keys": [3]}, "keys is no list"),
    ({"op": "mount", "id": "x", "overlay": 1}, "overlay is no object"),
    ({"op": "resize", "id": "x", "rows": True, "columns": 1}, "rows True is no number"),
    ({"op": "resize", "id": "x", "rows": 1, "columns": 1 << 16}, "columns 65536"),
    ({"op": "adopt", "id": "x", "streams": 5}, "pid"),
    ({"op": "exec", "id": "x", "request": {"process": {}, "pid": 0}}, "pid 0"),
    ({"op": "exec", "id": "x", "request": {"pid": 5}}, "lacks process"),
    ({"op": "start", "id": "x", "request": {"spec": {"process": {}, "linux": {"namespaces": [{"path": "@9"}]}}}}, "lacks type"),
]  # fmt: skip


@pytest.mark.parametrize(("message", "why"), BAD)
def test_a_request_that_is_none_is_refused_by_name(message: dict[str, Any], why: str) -> None:
    with pytest.raises(Malformed, match=why):
        protocol.read_request(message, {})


@pytest.mark.parametrize("names", [["a"], ["a", "a"], ["a", "b", "c"], "ab", [1, 2], ["a", "x" * 33]])
def test_names_that_are_not_those_of_what_came(names: Any) -> None:
    with pytest.raises(Malformed):
        envelope.named({"op": "start", "names": names}, [7, 8])


def test_descriptors_of_a_process_are_those_that_it_says() -> None:
    message, fds = envelope.to_message(protocol.Adopt(TASK, {"process": 7, "stdout": 8, "stderr": 9, "stdin": 10}), 2)
    message["names"] = ["process", "stdout", "stdin", "stderr"]
    with pytest.raises(Malformed, match="the descriptors of"):
        protocol.read_request(message, envelope.named(message, fds))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
_KEYS = ["id", "request", "overlay", "keys", "rows", "columns", "sandbox", "pid", "start_time", "directory", "tty", "log",
         "streams", "has_stdin", "stdin", "names"]  # fmt: skip


@given(
    st.sampled_from([request.op for request in REQUESTS]),
    st.dictionaries(st.sampled_from(_KEYS), _JSON),
    st.integers(0, 4),
)
def test_any_message_is_a_request_or_malformed(op: str, members: dict[str, Any], count: int) -> None:
    message = {**members, "op": op}
    try:
        found = protocol.read_request(message, envelope.named(message, list(range(count))))
    except Malformed:
        return
    assert found.op == op
