"""Filters against a real daemon: what they exclude stays, what is wrong is refused, no pattern stops anybody (T02, T15, T75, T100)."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import pytest

from sampan.client.http import APIError
from tests.conftest import Daemon
from tests.support.commands import NONE

LISTS = ("GET /containers/json", "GET /images/json", "GET /volumes", "GET /networks", "GET /events")
PRUNES = ("containers", "images", "volumes", "networks", "build")


def ask(daemon: Daemon, method: str, path: str, filters: object, more: str = "") -> object:
    text = filters if isinstance(filters, str) else json.dumps(filters)
    return daemon.http.call(method, f"{path}?filters={quote(text)}{more}")


def refused(daemon: Daemon, method: str, path: str, filters: object, more: str = "") -> str:
    with pytest.raises(APIError) as caught:
        ask(daemon, method, path, filters, more)
    assert caught.value.status == 400, (path, filters, caught.value)
    return str(caught.value)


def names(daemon: Daemon, *filters: str) -> set[str]:
    wanted: dict[str, list[str]] = {}
    for key, _, value in (text.partition("=") for text in filters):
        wanted.setdefault(key, []).append(value)
    rows = daemon.http.call("GET", f"/containers/json?all=1&filters={quote(json.dumps(wanted))}")
    return {row["Names"][0].removeprefix("/") for row in rows}


@pytest.fixture
def few(daemon: Daemon) -> Iterator[Daemon]:
    """Two containers, with settings to tell them by."""
    daemon.ok("network", "create", "front")
    daemon.ok("volume", "create", "data")
    daemon.ok("run", "-d", "--name", "web", "--network", "front", "-p", "127.0.0.1:18080:80", "-v", "data:/srv", "-l", "keep=1",
              "busybox", "sleep", "60")  # fmt: skip
    assert (
        daemon.sampan(
            "run", "--name", "webserver", *NONE, "--expose", "53/udp", "busybox", "sh", "-c", "exit 3"
        ).returncode
        == 3
    )
    yield daemon
    daemon.sampan("rm", "-f", "web", "webserver")
    daemon.sampan("network", "rm", "front")
    daemon.sampan("volume", "rm", "data")


def test_each_filter_of_containers_is_applied(few: Daemon) -> None:
    identifier = few.ok("inspect", "-f", "{{.Id}}", "web").strip()
    network = few.ok("inspect", "--type", "network", "-f", "{{.Id}}", "front").strip()
    both = {"web", "webserver"}
    for wanted, expected in {
        "name=web": both, "name=^web$": {"web"}, "name=^/web$": {"web"}, "name=/web": both, "name=w.bs": {"webserver"},
        f"id={identifier[:12]}": {"web"}, "id=" + "0" * 64: set(), "label=keep": {"web"}, "label=keep=1": {"web"},
        "label=keep=2": set(), "label!=keep": {"webserver"}, "status=running": {"web"}, "status=exited": {"webserver"},
        "exited=3": {"webserver"}, "exited=0": set(), "publish=18080": {"web"}, "publish=18080/udp": set(),
        "publish=18000-18100/tcp": {"web"}, "publish=80": set(), "expose=80": {"web"}, "expose=53/udp": {"webserver"},
        "expose=53": set(), "volume=data": {"web"}, "volume=/srv": {"web"}, "volume=dat": set(), "network=front": {"web"},
        f"network={network[:12]}": {"web"}, "network=none": {"webserver"}, "network=fron": set(), "before=webserver": {"web"},
        "since=web": {"webserver"}, "ancestor=busybox": both, "ancestor=busybox:latest": both, "ancestor=busyb": set(),
        "ancestor=none-such": set(), "is-task=false": both, "is-task=true": set(), "health=none": both, "health=healthy": set(),
        "isolation=container": both, "isolation=vm": set(),
    }.items():  # fmt: skip
        assert names(few, wanted) & both == expected, wanted
    assert names(few, "name=web", "label=keep") & both == {"web"}
    assert names(few, "status=running", "status=exited") & both == both


def test_images_made_from_another_are_its_children(daemon: Daemon) -> None:
    assert daemon.sampan("build", "-q", "-t", "child-of", "-", input=b"FROM busybox\nENV a=b\n").returncode == 0
    daemon.ok("create", "--name", "descendant", *NONE, "child-of")
    try:
        assert "descendant" in names(daemon, "ancestor=busybox")
        assert names(daemon, "ancestor=child-of") == {"descendant"}
        before = set(daemon.ok("images", "-q", "-f", "before=child-of").split())
        since = set(daemon.ok("images", "-q", "-f", "since=child-of").split())
        child = daemon.ok("images", "-q", "child-of").split()
        assert len(child) == 1
        assert child[0] not in before | since
        assert daemon.ok("images", "-q", "-f", "reference=child-*").split() == child
        assert daemon.ok("images", "-q", "-f", "reference=child").split() == []
        daemon.ok("tag", "child-of", "other-name:1")
        assert daemon.ok("images", "--format", "{{.Repository}}", "child-of").split() == ["child-of"]
    finally:
        daemon.ok("rm", "descendant")
        daemon.ok("rmi", "-f", "child-of", "other-name:1")


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("/containers/json", {"status": ["bogus"]}), ("/containers/json", {"health": ["x"]}), ("/containers/json", {"exited": ["x"]}),
        ("/containers/json", {"exited": ["9" * 6000]}), ("/containers/json", {"is-task": ["maybe"]}),
        ("/containers/json", {"publish": ["x"]}), ("/containers/json", {"expose": ["80-70"]}), ("/containers/json", {"expose": ["1/x"]}),
        ("/containers/json", {"publish": ["99999"]}), ("/containers/json", {"name": ["("]}), ("/containers/json", {"isolation": ["x"]}),
        ("/containers/json", {"until": ["1h"]}), ("/images/json", {"dangling": ["maybe"]}), ("/images/json", {"until": [""]}),
        ("/images/json", {"reference": ["[a"]}), ("/volumes", {"dangling": ["x"]}), ("/volumes", {"name": ["*"]}),
        ("/networks", {"dangling": ["true", "false"]}), ("/networks", {"type": ["x"]}), ("/networks", {"scope": ["x"]}),
    ],
)  # fmt: skip
def test_each_value_is_checked(daemon: Daemon, path: str, wanted: dict[str, list[str]]) -> None:
    assert f"invalid filter '{next(iter(wanted))}" in refused(daemon, "GET", path, wanted)


def test_each_noun_refuses_what_it_does_not_know(daemon: Daemon) -> None:
    for place in LISTS:
        method, path = place.split()
        for wanted in ({"nonsense": ["1"]}, {"nonsense": []}, {"nonsense": {"1": True}}):
            assert "invalid filter 'nonsense'" in refused(daemon, method, path, wanted, "&until=1")
        for garbage in (
            "{",
            "[]",
            "7",
            '{"name":"x"}',
            '{"name":[1]}',
            "[" * 3000,
            '{"label":["\\ud800"],"nonsense":["\\ud800"]}',
        ):
            refused(daemon, method, path, garbage, "&until=1")
        for fine in ("null", "{}", '{"label":null}', '{"label":[]}', '{"label":["\\ud800\\u0000"]}'):
            response = daemon.http.send(method, f"{path}?filters={quote(fine)}&until=1")
            assert response.status == 200, (path, fine)
            response.read()


def test_prunes_refuse_before_anything_is_deleted(daemon: Daemon) -> None:
    daemon.ok("create", "--name", "stays", *NONE, "busybox")
    daemon.ok("volume", "create", "--label", "x=1", "stays")
    for noun in PRUNES:
        for wanted in ({"nonsense": ["1"]}, {"until": ["x"]}, {"until": ["1h", "2h"]}, {"until": [""]}):
            assert "invalid filter" in refused(daemon, "POST", f"/{noun}/prune", wanted) or "until" in wanted
    for command in (
        ("container", "prune", "--filter", "nonsense=1"), ("container", "prune", "--filter", "until=x"),
        ("volume", "prune", "-a", "--filter", "until=1h"), ("system", "prune", "--filter", "nonsense=1"),
        ("system", "prune", "--volumes", "--filter", "until=1h"), ("image", "prune", "-a", "--filter", "nonsense=1"),
        ("network", "prune", "--filter", "nonsense=1"), ("builder", "prune", "--filter", "nonsense=1"),
    ):  # fmt: skip
        done = daemon.sampan(*command, "-f")
        assert done.returncode == 1, command
        assert command[-1].partition("=")[0] in done.stderr.decode(), command
    assert "stays" in names(daemon)
    daemon.ok("rm", "stays")
    daemon.ok("volume", "rm", "stays")


def test_what_a_filter_excludes_stays(daemon: Daemon) -> None:
    daemon.ok("create", "--name", "kept", "-l", "keep", *NONE, "busybox")
    daemon.ok("create", "--name", "loose", *NONE, "busybox")
    for name, label in (("v-keep", "keep=1"), ("v-drop", "other=1")):
        daemon.ok("volume", "create", "--label", label, name)
        daemon.ok("network", "create", "--label", label, name)
    try:
        daemon.ok("system", "prune", "-a", "-f", "--filter", "until=24h")
        daemon.ok("container", "prune", "-f", "--filter", "until=1h")
        daemon.ok("network", "prune", "-f", "--filter", "until=1h")
        assert names(daemon) >= {"kept", "loose"}
        daemon.ok("volume", "prune", "-a", "-f", "--filter", "label!=keep")
        assert daemon.ok("volume", "ls", "-q").split() == ["v-keep"]
        daemon.ok("system", "prune", "-f", "--filter", "label!=keep")
        assert names(daemon) == {"kept"}
        left = daemon.ok("network", "ls", "--format", "{{.Name}}").split()
        assert "v-keep" in left
        assert "v-drop" not in left
    finally:
        daemon.sampan("rm", "-f", "kept", "loose")
        daemon.sampan("volume", "rm", "v-keep", "v-drop")
        daemon.sampan("network", "rm", "v-keep", "v-drop")


def test_images_that_are_not_old_enough_stay(daemon: Daemon) -> None:
    assert daemon.sampan("build", "-q", "-t", "young", "-", input=b"FROM busybox\nLABEL young=1\n").returncode == 0
    kept = daemon.ok("images", "-q", "young")
    daemon.ok("image", "prune", "-a", "-f", "--filter", "until=1h", "--filter", "label=young")
    daemon.ok("image", "prune", "-a", "-f", "--filter", "label!=young", "--filter", "label=none-such")
    daemon.ok("image", "prune", "-f", "--filter", "label=young")
    assert daemon.ok("images", "-q", "young") == kept
    daemon.ok("image", "prune", "-a", "-f", "--filter", "label=young")
    assert daemon.ok("images", "-q", "young") == ""
    assert daemon.ok("images", "-q", "busybox")


def test_the_build_cache_keeps_what_a_filter_excludes(daemon: Daemon) -> None:
    assert daemon.sampan("build", "-q", "-", input=b"FROM busybox\nRUN echo kept > /kept\n").returncode == 0
    rows = {row["ID"] for row in daemon.http.call("GET", "/system/df")["BuildCache"]}
    assert rows
    for wanted in (
        "until=1h",
        "unused-for=24h",
        "id=none",
        "inuse=true",
        "type=source.local",
        "description=none-such",
        "label=k",
    ):
        assert daemon.ok("builder", "prune", "-a", "-f", "--filter", wanted).startswith("Total"), wanted
    assert {row["ID"] for row in daemon.http.call("GET", "/system/df")["BuildCache"]} == rows
    assert "RUN" not in daemon.ok("builder", "prune", "-a", "-f", "--filter", "description=kept")
    assert {row["ID"] for row in daemon.http.call("GET", "/system/df")["BuildCache"]} < rows


def test_no_pattern_stops_anybody(daemon: Daemon) -> None:
    """A regular expression of a caller's, on a name of a caller's: with one that goes back, for ever."""
    daemon.ok("create", "--name", "a" * 40 + "b", *NONE, "busybox")
    bad = ["(a+)+$", "(a|aa)+$", "^/?(a|a?)+$", "(.*a){25}c"]
    began = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        for path in ("/containers/json", "/networks", "/volumes"):
            asked = list(pool.map(lambda p, path=path: ask(daemon, "GET", path, {"name": [p]}, "&all=1"), bad * 4))
            assert len(asked) == 16
        list(pool.map(lambda p: ask(daemon, "GET", "/images/json", {"reference": [p]}), ["*a" * 500, "a*" * 500] * 4))
    assert daemon.http.call("GET", "/version")
    assert time.monotonic() - began < 20
