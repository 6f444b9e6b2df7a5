"""OCI bundles of busybox, and the runtime's command line over each."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sampan.runtime import bundle as bundles

RUNTIME = str(Path(sys.executable).parent / "sampan-runtime")
_APPLETS = ["sh", "ls", "cat", "echo", "id", "sleep", "mount", "ps", "hostname", "touch", "stat", "readlink", "env", "kill", "tty", "cp", "date", "mkdir", "test", "true", "false", "printf", "uname", "head", "wc", "ln", "rm", "unshare", "ulimit", "awk", "grep", "dmesg"]  # fmt: skip


class Bundle:
    """A bundle of busybox with its own `--root`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rootfs = path / "rootfs"
        binary = self.rootfs / "bin"
        binary.mkdir(parents=True)
        shutil.copy("/bin/busybox", binary)
        for name in _APPLETS:
            (binary / name).symlink_to("busybox")
        (self.rootfs / "etc").mkdir()
        (self.rootfs / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n")
        self.spec = bundles.template(rootless=False)
        self.spec["process"]["terminal"] = False
        self.spec["root"]["readonly"] = False

    def script(self, text: str, **process: Any) -> None:
        self.spec["process"] |= {"args": ["sh", "-c", text], **process}

    def runtime(self, *args: str, **options: Any) -> subprocess.CompletedProcess[str]:
        (self.path / "config.json").write_text(json.dumps(self.spec))
        options = {"capture_output": True, "text": True, "timeout": 30, "cwd": self.path} | options
        return subprocess.run([RUNTIME, "--root", f"{self.path}/state", *args], check=False, **options)

    def ok(self, *args: str, **options: Any) -> str:
        done = self.runtime(*args, **options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def run(self, text: str, **process: Any) -> str:
        self.script(text, **process)
        return self.ok("run", "c")

    def namespaces(self, *kinds: str | dict[str, str]) -> None:
        self.spec["linux"]["namespaces"] = [k if isinstance(k, dict) else {"type": k} for k in kinds]

    def create(self, *options: str) -> dict[str, Any]:
        """`create`, with files for its output, which the container goes on to hold."""
        self.detached("create", *options, "c")
        return self.state()

    def detached(self, *args: str) -> None:
        with open(self.path / "out", "wb") as out, open(self.path / "err", "wb") as err:
            done = self.runtime(*args, capture_output=False, stdout=out, stderr=err)
        assert done.returncode == 0, (self.path / "err").read_text()

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self.ok("state", "c"))
        return state

    def until(self, status: str) -> None:
        for _ in range(200):
            if self.state()["status"] == status:
                return
            time.sleep(0.02)
        raise AssertionError(f"not {status}: {self.state()}")

    @property
    def output(self) -> str:
        return (self.path / "out").read_text()


@pytest.fixture
def bundle() -> Iterator[Bundle]:
    # Not tmp_path: an ordinary user could not reach it.
    made = Bundle(Path(tempfile.mkdtemp(prefix="sampan-bundle-")))
    made.path.chmod(0o755)
    yield made
    made.runtime("delete", "--force", "c")
    shutil.rmtree(made.path)


ID_MAPS = {"uidMappings": [{"containerID": 0, "hostID": 100000, "size": 65536}],
         "gidMappings": [{"containerID": 0, "hostID": 200000, "size": 65536}]}  # fmt: skip


def chown_tree(path: Path, uid: int, gid: int) -> None:
    for top, directories, files in os.walk(path):
        for name in [".", *directories, *files]:
            os.chown(os.path.join(top, name), uid, gid, follow_symlinks=False)


def in_user_namespace(bundle: Bundle) -> None:
    bundle.namespaces("user", "mount", "pid", "network", "ipc", "uts", "cgroup")
    bundle.spec["linux"] |= ID_MAPS
    chown_tree(bundle.rootfs, 100000, 200000)
