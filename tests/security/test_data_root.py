"""What other users of the host can reach of an engine: nothing, whatever the umask that it was started with (S010)."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Daemon, end_daemon

NOBODY = 65534


@pytest.fixture
def careless() -> Iterator[Daemon]:
    """An engine in a directory that all may enter, started with a umask that takes nothing away."""
    top = Path(tempfile.mkdtemp(prefix="sampan-test-", dir="/tmp"))
    top.chmod(0o755)
    daemon = Daemon(top, prefix=["sh", "-c", 'umask 000; exec "$@"', "sh"], options=["--isolation", "container"])
    daemon.start()
    daemon.ok("bootstrap", "busybox")
    yield daemon
    end_daemon(daemon)


def as_nobody(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True, text=True, cwd="/")


def test_a_user_of_the_host_reaches_nothing(careless: Daemon) -> None:
    careless.ok("run", "--name", "made", "--network", "none", "-v", "vol:/v", "busybox", "sh", "-c", "cp /bin/busybox /v/root; chmod 4755 /v/root; chmod 4755 /bin/busybox")  # fmt: skip
    careless.ok("run", "-d", "--name", "runs", "--network", "none", "busybox", "sleep", "600")
    top = careless.root
    seen = as_nobody("find", str(top), "-mindepth", "2").stdout.split()
    assert seen == []
    suid = [path for path in (top / "data").rglob("root") if path.is_file() and path.stat().st_mode & 0o4000]
    assert suid, "the attack needs one"
    with pytest.raises(PermissionError):
        as_nobody(str(suid[0]), "id")
    for name in ("data", "run"):
        assert os.stat(top / name).st_mode & 0o077 == 0, name
    code = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    for path in (careless.socket, f"{top}/run/keeper.sock"):
        done = as_nobody("/usr/bin/python3", "-c", code, path)
        assert "PermissionError" in done.stderr, path
