"""Any record in: a container, or a reason why it is none (T01)."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.engine import broken, container_record
from sampan.engine.container import Container, new_state
from sampan.engine.container_record import SCHEMA, Unreadable, read, salvage, write
from sampan.engine.records import Row

ID = "ab" * 32


def good() -> dict[str, Any]:
    running = new_state() | {"Status": "running", "Running": True, "Pid": 4711, "StartedAt": "2026-11-28T10:00:00.1Z"}
    container = Container(
        ID, "box", 1_700_000_000 * 10**9, "sha256:" + "0" * 64, "busybox",
        {"Image": "busybox", "Cmd": ["sleep", "1"], "Env": ["A=1"], "Labels": {"a": "b"}, "Healthcheck": {"Test": ["NONE"]}},
        {"NetworkMode": "bridge", "RestartPolicy": {"Name": "always", "MaximumRetryCount": 0}, "Ulimits": [{"Name": "nofile", "Soft": 1, "Hard": 2}],
         "PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}, "LogConfig": {"Type": "json-file", "Config": {}}},
        state=running, start_time=99,
        mounts=[{"Type": "volume", "Name": "v", "Source": "/data/volumes/v/_data", "Destination": "/v", "Driver": "local", "Mode": "", "RW": True, "Propagation": ""}],
        networks={"bridge": {"Aliases": ["x"], "IPAMConfig": None}},
        ports=[{"protocol": "tcp", "container_port": 80, "host_ip": "0.0.0.0", "host_port": 8080}],
        health={"Status": "healthy", "FailingStreak": 0, "Log": [{"ExitCode": 0}]}, decision=["because"],
    )  # fmt: skip
    return json.loads(json.dumps(write(container)))  # type: ignore[no-any-return]


def body(record: Any) -> bytes:
    return json.dumps(record).encode()


def test_what_is_written_is_read() -> None:
    record = good()
    container = read(ID, body(record))
    assert write(container) == record
    assert not container.broken


def test_a_record_of_the_first_engines_has_no_schema() -> None:
    record = good()
    del record["schema"]
    assert write(read(ID, body(record))) == good()


def test_every_saved_field_has_a_type() -> None:
    assert set(Container.SAVED) <= set(container_record._TYPES)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("invented",), 1),
        (("schema",), 3),
        (("schema",), "1"),
        (("schema",), -1),
        (("id",), "../../etc"),
        (("id",), "cd" * 32),
        (("id",), 7),
        (("name",), "../x"),
        (("name",), ""),
        (("created",), -1),
        (("created",), "yesterday"),
        (("created",), 10**30),
        (("created",), True),
        (("image",), "../../x"),
        (("config",), []),
        (("config", "Env"), "A=1"),
        (("config", "Env", 0), 5),
        (("config", "Labels", "a"), None),
        (("config", "Healthcheck", "Test"), [1]),
        (("host_config", "Ulimits", 0, "Soft"), "many"),
        (("host_config", "PortBindings", "80/tcp", 0, "HostPort"), []),
        (("host_config", "Isolation"), "moon"),
        (("state", "Pid"), -5),
        (("state", "Pid"), 1),
        (("state", "Pid"), 0),
        (("state", "Pid"), 1 << 40),
        (("state", "Status"), "flying"),
        (("state", "Running"), False),
        (("state", "Running"), "yes"),
        (("state", "StartedAt"), "soon"),
        (("state", "StartedAt"), "2026-13-45T99:00:00Z"),
        (("state", "ExitCode"), None),
        (("start_time",), 0),
        (("start_time",), -7),
        (("restart_count",), -1),
        (("mounts", 0, "Source"), "/etc"),
        (("mounts", 0, "Name"), "../v"),
        (("mounts", 0, "Destination"), "v"),
        (("mounts", 0, "Destination"), "/../v"),
        (("mounts", 0, "RW"), "no"),
        (("mounts", 0, "Type"), "magic"),
        (("networks", "bridge", "Aliases"), "x"),
        (("ports", 0, "host_port"), 70000),
        (("ports", 0, "host_port"), -1),
        (("health", "Status"), "fine"),
        (("decision",), "because"),
        (("owner",), None),
        (("stopped_by_user",), 1),
    ],
)
def test_a_value_that_is_none(path: tuple[Any, ...], value: Any) -> None:
    record = good()
    place: Any = record
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(Unreadable) as caught:
        read(ID, body(record))
    assert str(path[0]) in str(caught.value) or "schema" in str(caught.value)
    _is_broken(body(record))


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b"nan", b'{"id": NaN}', b"[" * 100000, b'{"a":' * 50000, b'{"id": "\\ud800"}', b"\x00" * 50],
)  # fmt: skip
def test_no_record_at_all(data: bytes) -> None:
    with pytest.raises(Unreadable):
        read(ID, data)
    _is_broken(data)


def test_a_cut_record_gives_what_stands_before_the_cut() -> None:
    data = body(good())
    for end in range(len(data)):
        with pytest.raises(Unreadable):
            read(ID, data[:end])
    container = _is_broken(data[: data.index(b'"host_config"') + 5])
    assert (container.name, container.image_name, container.config["Cmd"]) == ("box", "busybox", ["sleep", "1"])
    assert container.state["Status"] == "dead"
    assert not container.running


def test_what_is_left_out() -> None:
    for name in ("id", "name", "created", "image", "config", "host_config"):
        record = good()
        del record[name]
        with pytest.raises(Unreadable, match=name):
            read(ID, body(record))


def _is_broken(data: bytes, key: str = ID) -> Container:
    container = broken.of_row(Row(7, key, data), "why", "/sampan-00000000")
    assert container.broken == "why"
    assert container.state["Status"] == "dead"
    assert not container.running
    assert container.state["Pid"] == 0
    assert "why" in container.state["Error"]
    assert container_record.ID.fullmatch(container.id)
    assert container_record.NAME.fullmatch(container.name)
    json.dumps(write(container)).encode()
    return container


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def damaged(draw: st.DrawFn) -> dict[str, Any]:
    """A good record with a value anywhere in it exchanged for another."""
    record = good()
    places: list[tuple[Any, Any]] = []

    def collect(value: Any) -> None:
        for key in value if isinstance(value, dict) else range(len(value)):
            places.append((value, key))
            if isinstance(value[key], dict | list):
                collect(value[key])

    collect(record)
    for _ in range(draw(st.integers(1, 3))):
        container, key = draw(st.sampled_from(places))
        container[key] = draw(JSON)
    return record


@settings(max_examples=300, deadline=None)
@given(damaged())
def test_damaged_records(record: dict[str, Any]) -> None:
    data = json.dumps(record).encode()
    try:
        container = read(ID, data)
    except Unreadable:
        _is_broken(data)
        return
    assert container.id == ID
    assert write(container)["schema"] == SCHEMA
    assert read(ID, body(write(copy.copy(container)))).id == ID


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300) | JSON.map(lambda value: json.dumps(value).encode()), st.text())
def test_anything(data: bytes, key: str) -> None:
    with pytest.raises(Unreadable):
        read(key, data)
    salvage(data)
    _is_broken(data, key)
