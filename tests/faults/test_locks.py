"""Two engines and one data root, one exec root, one keeper (T09): the second is refused with a sentence."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from tests.conftest import BIN, Daemon
from tests.support.commands import NONE


def second(daemon: Daemon, data: Path, run: Path) -> subprocess.CompletedProcess[bytes]:
    socket = daemon.root / "second.sock"
    command = [BIN / "sampand", "-H", f"unix://{socket}", "--data-root", data, "--exec-root", run]
    return subprocess.run(command, env=daemon.env, capture_output=True, timeout=30, check=False)


def test_a_second_engine_is_refused_and_harms_nothing(own_daemon: Daemon, tmp_path: Path) -> None:
    own_daemon.ok("run", "-d", *NONE, "--name", "box", "busybox", "sleep", "600")
    data, run = own_daemon.root / "data", own_daemon.root / "run"
    for other in ((data, tmp_path / "run"), (tmp_path / "data", run), (data, run)):
        done = second(own_daemon, *other)
        assert done.returncode == 1
        text = done.stderr.decode()
        assert "is used by another sampand" in text
        assert str(own_daemon.process.pid if own_daemon.process else 0) in text
        assert "Traceback" not in text
    assert own_daemon.ok("exec", "box", "echo", "fine") == "fine\n"


def test_the_keeper_of_another_data_root(own_daemon: Daemon, tmp_path: Path) -> None:
    own_daemon.ok("run", "-d", *NONE, "--name", "box", "busybox", "sleep", "600")
    pid = json.loads(own_daemon.ok("inspect", "box"))[0]["State"]["Pid"]
    own_daemon.kill()
    done = second(own_daemon, tmp_path / "data", own_daemon.root / "run")
    assert done.returncode == 1
    assert f"keeps the containers of the data root {own_daemon.root}/data" in done.stderr.decode()
    own_daemon.start()
    assert json.loads(own_daemon.ok("inspect", "box"))[0]["State"]["Pid"] == pid


def test_a_data_root_under_another_name(own_daemon: Daemon) -> None:
    """Links and mounts give a directory several names: it is still the same."""
    other = own_daemon.root / "other"
    other.symlink_to(own_daemon.root / "data")
    done = second(own_daemon, other, own_daemon.root / "run2")
    assert b"is used by another sampand" in done.stderr
    shutil.rmtree(own_daemon.root / "run2", ignore_errors=True)
