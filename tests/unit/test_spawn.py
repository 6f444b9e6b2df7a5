"""A start that comes to nothing leaves nothing open: the keeper makes every start, and lives long."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from sampan.linux import namespaces as ns
from sampan.runtime import channel, sources, spawn
from sampan.runtime.errors import RuntimeFailure

OWN = {"type": "network", "path": "/proc/self/ns/net"}
PID = {"type": "pid", "path": "/proc/self/ns/pid"}


def fail(*_: object) -> Any:
    raise OSError("no more")


def test_all_namespaces_of_a_process_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def denied(path: str, *args: int) -> int:
        if path.endswith("net"):
            raise PermissionError(13, "Permission denied")
        return real(path, *args)

    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(PermissionError):
        ns.open_namespaces(os.getpid())
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize(
    ("namespaces", "broken"),
    [
        ([OWN, {"type": "uts", "path": "/nowhere"}], None),
        ([OWN, {"type": "uts", "path": "/proc/self/ns/net"}], None),
        ([OWN, {"type": "ipc", "path": "/proc/self/status"}], None),
        ([OWN, PID, {"type": "user", "path": "/proc/self/ns/user"}], (ns, "owner")),
        ([OWN, PID], (sources, "open_all")),
        ([OWN, PID], (spawn, "_open_procs")),
        ([OWN, PID], (spawn, "clone_child")),
    ],
)
@pytest.mark.parametrize("begin", [spawn.start, lambda request, stdio: spawn.start_entry(request, stdio, [])])
def test_descriptors_of_a_start_that_fails(
    monkeypatch: pytest.MonkeyPatch,
    namespaces: list[dict[str, str]],
    broken: tuple[object, str] | None,
    begin: Callable[[Any, channel.Stdio | None], spawn.Child],
) -> None:
    monkeypatch.setattr(ns, "same_namespace", lambda fd, kind: False)
    monkeypatch.setattr(spawn, "clone_child", fail)
    if broken is not None:
        monkeypatch.setattr(*broken, fail)
    before = os.listdir("/proc/self/fd")
    with pytest.raises((OSError, RuntimeFailure)):
        begin({"spec": {"linux": {"namespaces": namespaces}}, "where": "/", "machine": True, "entry": "os:abort"}, None)
    assert os.listdir("/proc/self/fd") == before
