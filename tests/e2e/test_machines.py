"""Virtual machines over the API and the CLI."""

from __future__ import annotations

import shutil

import pytest

from tests.conftest import Daemon

pytestmark = pytest.mark.skipif(not shutil.which("qemu-system-x86_64"), reason="QEMU is not installed")


def test_prepare(daemon: Daemon) -> None:
    out = daemon.ok("vm", "prepare", timeout=200)
    assert "kernel " in out
    assert "accelerator " in out
    assert "booting a guest once" in out
    assert "booting" not in daemon.ok("vm", "prepare", "--memory", "128m", "--cpus", "1")
    done = daemon.sampan("vm", "prepare", "--memory", "1m")
    assert (done.returncode, b"impossible shape" in done.stderr) == (1, True)
    assert daemon.sampan("vm", "nonsense").returncode == 1
