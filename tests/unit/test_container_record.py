"""Any record in: a container, or a reason why it is none (T01)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.engine import broken, container_record
from sampan.engine.container import Container
from sampan.engine.container_record import SCHEMA, Unreadable, checked, read, salvage, write
from sampan.engine.model import (
    Config,
    EndpointSettings,
    Health,
    HealthCheck,
    HealthStatus,
    HostConfig,
    LogConfig,
    Mount,
    MountType,
    PortBinding,
    Probe,
    PublishedPort,
    RestartPolicy,
    State,
    Status,
    Ulimit,
)
from sampan.engine.records import Row
from tests.support.effort import tries

ID = "ab" * 32
OLD: list[dict[str, Any]] = json.loads((Path(__file__).parent / "records/schema-2.json").read_text())


def container() -> Container:
    return Container(
        ID, "box", 1_700_000_000 * 10**9, "sha256:" + "0" * 64, "busybox",
        Config(image="busybox", cmd=("sleep", "1"), env=("A=1",), labels={"a": "b"}, health_check=HealthCheck(test=("NONE",))),
        HostConfig(network_mode="bridge", restart_policy=RestartPolicy("always"), ulimits=(Ulimit("nofile", 1, 2),), isolation="vm",
                   port_bindings={"80/tcp": (PortBinding("", "8080"),)}, log_config=LogConfig("json-file")),
        state=State(status=Status.RUNNING, pid=4711, exit_code=1, started_at=1_790_000_000_100_000_000, finished_at=1), start_time=99,
        mounts=[Mount(kind=MountType.VOLUME, name="v", source="/data/volumes/v/_data", destination="/v", driver="local", read_only=True)],
        networks={"bridge": EndpointSettings(aliases=("x",))}, ports=[PublishedPort("tcp", 80, "0.0.0.0", 8080)],
        health=Health(HealthStatus.HEALTHY, 0, [Probe(1, 2, 0, "fine")]), decision=["because"], owner="bob", stopped_by_user=True,
        restart_count=1,
    )  # fmt: skip


def good() -> dict[str, Any]:
    return json.loads(write(container()))  # type: ignore[no-any-return]


def body(record: Any) -> bytes:
    return json.dumps(record).encode()


def test_what_is_written_is_read() -> None:
    record = good()
    found = read(ID, body(record))
    assert json.loads(write(found)) == record
    assert not found.broken
    assert fields(found) == fields(container())
    assert checked(found) == write(found)


def fields(container: Container) -> dict[str, Any]:
    return {name: getattr(container, name) for name in container_record.SAVED}


@pytest.mark.parametrize("old", OLD, ids=lambda old: old["name"])
def test_records_of_engines_before(old: dict[str, Any]) -> None:
    found = read(old["id"], body(old))
    assert (found.name, found.created, found.image_name) == (old["name"], old["created"], old["image_name"])
    assert found.asked.labels == (old["asked"]["labels"] if "asked" in old else None)
    assert fields(read(found.id, write(found).encode())) == fields(found)
    assert json.loads(write(found))["schema"] == SCHEMA
    data = body(old)
    for end in range(0, len(data), 97):
        with pytest.raises(Unreadable):
            read(old["id"], data[:end])
    cut = broken.of_row(Row(7, old["id"], data[: data.index(b'"state"')]), "why", "/sampan-00000000")
    assert (cut.config, cut.host_config, cut.state.status) == (found.config, found.host_config, Status.DEAD)


@pytest.mark.parametrize("name", ["id", "name", "created", "image", "image_name", "config", "host_config"])
def test_what_records_of_engines_before_must_have(name: str) -> None:
    old = {key: value for key, value in OLD[0].items() if key != name}
    with pytest.raises(Unreadable, match=f"it has no {name}"):
        read(OLD[0]["id"], body(old))
    with pytest.raises(Unreadable, match="unknown field 'invented'"):
        read(OLD[0]["id"], body({**OLD[0], "invented": 1}))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("invented",), 1),
        (("schema",), SCHEMA + 1),
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
        (("config", "env"), "A=1"),
        (("config", "env", 0), 5),
        (("config", "labels", "a"), None),
        (("config", "health_check", "test"), [1]),
        (("config", "invented"), 1),
        (("host_config", "ulimits", 0, "soft"), "many"),
        (("host_config", "port_bindings", "80/tcp", 0, "host_port"), []),
        (("host_config", "isolation"), "moon"),
        (("state", "pid"), -5),
        (("state", "pid"), 1),
        (("state", "pid"), 0),
        (("state", "pid"), 1 << 40),
        (("state", "status"), "flying"),
        (("state", "started_at"), "soon"),
        (("state", "started_at"), -1),
        (("state", "finished_at"), 10**30),
        (("state", "exit_code"), None),
        (("state", "exit_code"), 1 << 40),
        (("start_time",), 0),
        (("start_time",), -7),
        (("restart_count",), -1),
        (("mounts", 0, "source"), "/etc"),
        (("mounts", 0, "name"), "../v"),
        (("mounts", 0, "destination"), "v"),
        (("mounts", 0, "destination"), "/../v"),
        (("mounts", 0, "read_only"), "no"),
        (("mounts", 0, "kind"), "magic"),
        (("networks", "bridge", "aliases"), "x"),
        (("ports", 0, "host_port"), 70000),
        (("ports", 0, "host_port"), -1),
        (("health", "status"), "fine"),
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
    assert (container.name, container.image_name, container.config.cmd) == ("box", "busybox", ("sleep", "1"))
    assert container.state.status is Status.DEAD
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
    assert container.state.status is Status.DEAD
    assert not container.running
    assert container.state.pid == 0
    assert "why" in container.state.error
    assert container_record.ID.fullmatch(container.id)
    assert container_record.NAME.fullmatch(container.name)
    write(container).encode()
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


@settings(max_examples=tries(150, 2000), deadline=None)
@given(damaged())
def test_damaged_records(record: dict[str, Any]) -> None:
    data = json.dumps(record).encode()
    try:
        container = read(ID, data)
    except Unreadable:
        _is_broken(data)
        return
    assert container.id == ID
    assert fields(read(ID, write(container).encode())) == fields(container)


@settings(max_examples=tries(150, 2000), deadline=None)
@given(st.binary(max_size=300) | JSON.map(lambda value: json.dumps(value).encode()), st.text())
def test_anything(data: bytes, key: str) -> None:
    with pytest.raises(Unreadable):
        read(key, data)
    salvage(data)
    _is_broken(data, key)
