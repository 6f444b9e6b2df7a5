"""Filters: both forms, every name known or refused, every value checked."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.build.cache import Record
from sampan.engine.container import Container
from sampan.engine.errors import BadRequest
from sampan.engine.filters import cache, containers, events, networks, reading, rules, volumes
from sampan.engine.model import Config, HostConfig, Status
from sampan.network.model import Network
from sampan.volumes.local import Volume


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, {}),
        ("", {}),
        ("null", {}),
        ("{}", {}),
        ('{"label":["a","b"]}', {"label": ["a", "b"]}),
        ('{"label":{"a":true,"b":false}}', {"label": ["a"]}),
        ('{"label":null}', {"label": []}),
    ],
)
def test_forms(text: str | None, expected: dict[str, list[str]]) -> None:
    assert reading.parse(text) == expected


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "1", '"x"', '{"a":"b"}', '{"a":[1]}', '{"a":[null]}', '{"a":[["b"]]}', '{"a":{"b":1}}', "[" * 99_999, "NaN",
     '{"a":true}', json.dumps({"a": [str(n) for n in range(5000)]})],
)  # fmt: skip
def test_garbage_is_refused(text: str) -> None:
    with pytest.raises(BadRequest, match="invalid filter"):
        reading.parse(text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_any_json_is_read_or_refused(value: Any) -> None:
    try:
        wanted = reading.parse(json.dumps(value))
        networks.listed(wanted, lambda network: False)
    except BadRequest:
        pass


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("k", True), ("k=v", True), ("k=w", False), ("x", False), ("k!=v", False), ("k!=w", True), ("x!=", True),
        ("k!=", False), ("e", True), ("e=", True), ("k=", False), ("q=a!=b", True), ("", False),
    ],
)  # fmt: skip
def test_labels(wanted: str, expected: bool) -> None:
    assert rules.label_matches({"k": "v", "e": "", "q": "a!=b"}, wanted) is expected


def _volume(name: str = "data", anonymous: bool = True, **labels: str) -> Volume:
    return Volume(name, "/x", 0.0, labels, {}, anonymous)


def test_negated_labels_spare_whatever_has_one_of_them() -> None:
    test = volumes.pruned({"label!": ["keep", "owner=me"]})
    assert test(_volume())
    assert not test(_volume(keep=""))
    assert not test(_volume(owner="me"))
    assert test(_volume(owner="you"))


def test_all_of_a_volume_prune() -> None:
    assert not volumes.pruned({})(_volume(anonymous=False))
    assert volumes.pruned({"all": ["true"]})(_volume(anonymous=False))
    assert not volumes.pruned({"all": ["0"]})(_volume(anonymous=False))
    with pytest.raises(BadRequest, match="'all=maybe'"):
        volumes.pruned({"all": ["maybe"]})
    with pytest.raises(BadRequest, match="'all=true false'"):
        volumes.pruned({"all": ["true", "false"]})


@pytest.mark.parametrize("value", ["", "x", "1d", "2020-13-01", "9" * 5000, "9" * 63 + "x", "--5", "nan", "1h1"])
def test_until_is_checked(value: str) -> None:
    with pytest.raises(BadRequest):
        networks.pruned({"until": [value]})


def test_until() -> None:
    now = Network("i" * 64, "n", "bridge", time.time_ns())
    old = Network("i" * 64, "n", "bridge", time.time_ns() - 7200 * 10**9)
    test = networks.pruned({"until": ["1h"]})
    assert test(old)
    assert not test(now)
    with pytest.raises(BadRequest, match="until"):
        networks.pruned({"until": ["1h", "2h"]})


def test_names_of_networks_are_expressions() -> None:
    network = Network("abc" * 20, "web-net", "bridge", 0)
    for value, expected in (("web", True), ("^web-net$", True), ("^net", False), ("w.b", True), ("web-net", True)):
        assert networks.listed({"name": [value]}, lambda n: False)(network) is expected
    with pytest.raises(BadRequest, match="'name="):
        networks.listed({"name": ["("]}, lambda n: False)
    with pytest.raises(BadRequest, match="'type=bogus'"):
        networks.listed({"type": ["bogus"]}, lambda n: False)


def _event(kind: str, action: str, actor: str, **attributes: str) -> events.Event:
    return {"Type": kind, "Action": action, "Actor": {"ID": actor, "Attributes": attributes}, "scope": "local"}


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"image": ["busybox"]}, True), ({"image": ["busybox:1"]}, True), ({"image": ["busy"]}, False), ({"container": ["we"]}, True),
        ({"container": ["abc"]}, True), ({"container": ["eb"]}, False), ({"event": ["exec_create"]}, True), ({"event": ["exec"]}, False),
        ({"label": ["l=1"]}, True), ({"label!": ["l"]}, False), ({"type": ["image"]}, False), ({"scope": ["swarm"]}, False),
        ({"node": ["x"]}, False), ({"network": ["abc"]}, False), ({"type": ["container"], "event": ["die"]}, False),
    ],
)  # fmt: skip
def test_events(wanted: dict[str, list[str]], expected: bool) -> None:
    event = _event("container", "exec_create: ls", "abcdef", name="web", image="busybox:1", l="1")
    assert events.wanted(wanted)(event) is expected


def test_an_unknown_filter_is_never_passed_over() -> None:
    for make in (
        lambda w: networks.listed(w, lambda n: False), networks.pruned, lambda w: volumes.listed(w, lambda n: False),
        volumes.pruned, events.wanted, cache.pruned,
    ):  # fmt: skip
        with pytest.raises(BadRequest, match="invalid filter 'nonsense'"):
            make({"nonsense": ["1"]})
        with pytest.raises(BadRequest, match="invalid filter 'nonsense'"):
            make({"nonsense": []})


def test_build_cache() -> None:
    now = time.time()
    old, new = Record("k" * 64, 1, now - 9000, now - 9000, "RUN make", 5), Record("n" * 64, 2, now, now, "COPY . .", 5)
    for wanted, expected in (
        ({"until": ["2h"]}, [True, False]), ({"unused-for": ["2h"]}, [True, False]), ({"id": ["k" * 25]}, [True, False]),
        ({"description": ["make"]}, [True, False]), ({"type": ["regular"]}, [True, True]), ({"inuse": ["true"]}, [False, False]),
        ({"type": ["source.local"]}, [False, False]), ({}, [True, True]),
        ({"label": ["a=b"]}, [False, False]), ({"label!": ["a=b"]}, [True, True]),
    ):  # fmt: skip
        assert [cache.pruned(wanted)(record) for record in (old, new)] == expected, wanted
    for selectors, unused, expected in (
        ([], 7200.0, [True, False]), (["id==" + "k" * 64], 0.0, [True, False]), (["description~=COPY"], 0.0, [False, True]),
        (["description==COPY"], 0.0, [False, False]), (["id!=" + "k" * 64], 0.0, [False, True]), (["inuse"], 0.0, [False, False]),
        (["!=x"], 0.0, None), (["nonsense==1"], 0.0, None), (["a b"], 0.0, None),
    ):  # fmt: skip
        if expected is None:
            with pytest.raises(BadRequest):
                cache.selected(selectors, unused)
        else:
            assert [cache.selected(selectors, unused)(record) for record in (old, new)] == expected, selectors


def _container(name: str, isolation: str) -> Container:
    found = Container(name * 64, name, 0, "", "", Config(), HostConfig(isolation=isolation))
    found.state.status = Status.EXITED
    return found


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, "ab"),
        ({"isolation": ["machine"]}, "c"),
        ({"isolation": ["vm", "machine"]}, "bc"),
        ({"isolation": ["default"]}, "a"),
    ],
)
def test_system_vms_are_listed_for_those_who_ask(wanted: dict[str, list[str]], expected: str) -> None:
    """Whoever cleans up by a list must not remove their disks."""
    seen = [_container("a", "container"), _container("b", "vm"), _container("c", "machine")]
    nothing: Any = None
    passes = containers.listed(nothing, nothing, nothing, lambda _: True, wanted)
    rows = containers.select(seen, passes, wanted, everything=True, limit=None)
    assert sorted(row.name for row in rows) == list(expected)
    assert containers.select(seen, passes, wanted, everything=False, limit=None) == []
