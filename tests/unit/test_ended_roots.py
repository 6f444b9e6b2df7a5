"""The files of a container that has ended a moment ago, of which nobody has told the engine yet."""

from __future__ import annotations

import asyncio
import subprocess
from types import SimpleNamespace
from typing import Any

import pytest

from sampan.engine.backends.host_files import HostFiles
from sampan.engine.container import Container
from sampan.engine.model import Config, HostConfig, State, Status
from sampan.engine.roots import Roots


def test_they_are_read_and_written_as_those_of_one_that_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    container = Container("ab" * 32, "box", 1, "sha256:0", "busybox", Config(), HostConfig())
    container.state = State(status=Status.RUNNING, pid=gone.pid)

    async def mounted(_roots: Roots, _container: Container) -> int:
        return 78

    nothing: Any = SimpleNamespace()
    files = HostFiles(nothing, nothing, nothing, nothing)
    monkeypatch.setattr(HostFiles, "_view", lambda _files, _container: 77)
    monkeypatch.setattr(Roots, "_mount", mounted)
    assert files.root(container) == 77
    assert asyncio.run(Roots(nothing, nothing, nothing)._take(container)).fd == 78
