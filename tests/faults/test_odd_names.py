"""Names with everything in them that means something in a path: each is the name that it is, for every command that takes one."""

from __future__ import annotations

import pytest

from tests.conftest import Daemon

ODD = ["ab/json?force=1", "ab#", "..", "a%2Fb c", "ü/é//", "/", "b\udcff\t"]
BY_NAME = {
    "container": [
        "start",
        "stop",
        "restart",
        "kill",
        "pause",
        "unpause",
        "wait",
        "rm",
        "inspect",
        "logs",
        "top",
        "port",
        "diff",
        "export",
        "attach",
    ],
    "image": ["rm", "inspect", "history", "save", "push"],
    "volume": ["rm", "inspect"],
    "network": ["rm", "inspect"],
    "vm": ["start", "stop", "kill", "pause", "unpause", "reset", "rm", "inspect", "logs", "console"],
}


@pytest.mark.parametrize("name", ODD)
def test_each_command_looks_for_just_that_name(daemon: Daemon, name: str) -> None:
    daemon.ok("create", "--name", "ab", "--network", "none", "busybox", "true")
    for group, verbs in BY_NAME.items():
        for verb in verbs:
            done = daemon.sampan(group, verb, name)
            words = done.stderr.decode(errors="surrogateescape").lower()
            assert done.returncode == 1, (group, verb, done)
            assert "traceback" not in words, (group, verb, words)
            assert "page not found" not in words, (group, verb, words)
            assert "no such" in words or "not found" in words or "invalid" in words or "does not exist" in words, (
                group,
                verb,
                words,
            )
    assert daemon.ok("ps", "-aq").strip(), "nothing else was meant"
    daemon.ok("rm", "ab")


@pytest.mark.parametrize("group", BY_NAME)
def test_an_empty_name_is_no_name(daemon: Daemon, group: str) -> None:
    for verb in BY_NAME[group]:
        done = daemon.sampan(group, verb, "")
        assert done.returncode in (1, 125), (verb, done)
        assert b"Traceback" not in done.stderr
        assert done.stderr, (group, verb)
