"""Builds: a context written down as a table of files, and what is built of it."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

from tests.conftest import Daemon

Files = dict[str, str | None]


def lay(top: Path, files: Files) -> Path:
    """Writes a context; a value that begins with "-> " is a symlink, None a directory."""
    for name, content in files.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.mkdir()
        elif content.startswith("-> "):
            path.symlink_to(content[3:])
        else:
            path.write_text(content)
    return top


def build(daemon: Daemon, top: Path, *options: str, **more: Any) -> subprocess.CompletedProcess[bytes]:
    # Without a network: a bridge would be one of this machine's.
    return daemon.sampan("build", "--network", "none", "--network", "none", *options, str(top), **more)


def result(daemon: Daemon, top: Path, *options: str) -> Path:
    """Builds and puts the result's files beside the context."""
    out = top.parent / "out"
    shutil.rmtree(out, ignore_errors=True)
    done = build(daemon, top, *options, "-o", str(out))
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    return out


def image(daemon: Daemon, top: Path, *options: str) -> dict[str, Any]:
    """Builds and inspects."""
    done = build(daemon, top, "-q", *options)
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, Any] = json.loads(daemon.ok("inspect", done.stdout.decode().strip()))[0]
    return found


def tar_of_one_file(compressed: bool) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz" if compressed else "w") as tar:
        member = tarfile.TarInfo("inside")
        member.size = 6
        tar.addfile(member, io.BytesIO(b"packed"))
    return out.getvalue()
