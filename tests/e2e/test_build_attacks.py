"""Builds against whoever writes the Dockerfile and the context: nothing leaves its tree, and secrets stay out of what is kept."""

from __future__ import annotations

import io
import json
import os
import tarfile
import time
from pathlib import Path

import pytest

from tests.conftest import Daemon
from tests.support.contexts import Files, build, image, lay, result


def test_hostile_contexts(daemon: Daemon, tmp_path: Path) -> None:
    """S024: links out of the context stay links or resolve inside; a Dockerfile that is a link shows nothing of the host."""
    secret = tmp_path / "secret"
    secret.write_text("host secret")
    top = lay(
        tmp_path / "c", {"Dockerfile": "FROM busybox\nCOPY d /d\n", "d/l": f"-> {secret}", "d/up": "-> ../../secret"}
    )
    out = result(daemon, top)
    assert os.readlink(out / "d/l") == str(secret)
    for source in ("out", "up/secret", "out/passwd"):
        files: Files = {"Dockerfile": f"FROM busybox\nCOPY {source} /x\n", "out": f"-> {secret}", "up": "-> .."}
        done = build(daemon, lay(tmp_path / source.replace("/", "_"), files))
        assert (done.returncode, b"not found" in done.stderr) == (1, True)
    for name in ("Dockerfile", ".dockerignore"):
        out_tar = io.BytesIO()
        with tarfile.open(fileobj=out_tar, mode="w") as tar:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, str(secret)
            tar.addfile(member)
        done = daemon.sampan("build", "--network", "none", "-", input=out_tar.getvalue())
        assert done.returncode == 1
        assert b"host secret" not in done.stderr + done.stdout


def test_a_context_that_escapes(daemon: Daemon, tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in (
            ("Dockerfile", b"FROM scratch\nCOPY . /\n"),
            ("../../../../tmp/sampan-escaped", b"x"),
            ("/tmp/sampan-escaped", b"x"),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    assert daemon.sampan("build", "--network", "none", "-q", "-", input=out.getvalue()).returncode == 0
    assert not Path("/tmp/sampan-escaped").exists()


def test_mounts_can_not_leave_their_tree(daemon: Daemon, tmp_path: Path) -> None:
    """S026, S027"""
    text = """FROM busybox AS evil
RUN ln -s / /l && ln -s /etc /e
FROM busybox
RUN --mount=type=bind,from=evil,source=/l,target=/m test ! -e /m/root/.bashrc && ls /m > /seen
RUN --mount=type=bind,from=evil,source=/e,target=/m ls /m > /etcseen
RUN --mount=type=cache,id=../../../x,target=/c touch /c/y
"""
    out = result(daemon, lay(tmp_path / "c", {"Dockerfile": text}))
    assert "bin" in (out / "seen").read_text().split()
    assert "shadow" not in (out / "etcseen").read_text()
    assert not (daemon.root / "data/x").exists()


def test_a_mount_point_that_becomes_a_link(daemon: Daemon, tmp_path: Path) -> None:
    """S026: nothing of the host is removed when the step cleans up."""
    sentinel = tmp_path / "sentinel"
    sentinel.mkdir()
    (sentinel / "y").mkdir()
    text = f"FROM busybox\nRUN --mount=type=tmpfs,target=/l/y sh -c 'umount /l/y 2>/dev/null; rm -rf /l; ln -s {sentinel} /l; true'\n"
    build(daemon, lay(tmp_path / "c", {"Dockerfile": text}))
    assert (sentinel / "y").is_dir()


def test_secrets_stay_out_of_everything(daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """S029"""
    monkeypatch.setenv("S", "hunter2-secret")
    text = (
        "FROM busybox\nRUN --mount=type=secret,id=s --mount=type=secret,id=s,env=E,target=/x true\nRUN touch /after\n"
    )
    found = image(daemon, lay(tmp_path / "c", {"Dockerfile": text}), "--secret", "id=s,env=S", "-t", "secretive:1")
    archive = daemon.sampan("save", "secretive:1").stdout
    history = daemon.ok("history", "--no-trunc", "secretive:1")
    assert "hunter2" not in history + json.dumps(found)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            if member.isfile():
                file = tar.extractfile(member)
                assert file is not None
                data = file.read()
                if data[:2] == b"\x1f\x8b":
                    import gzip

                    data = gzip.decompress(data)
                assert b"hunter2" not in data
                assert b"run/secrets" not in data
    assert "hunter2" not in (daemon.root / "log").read_text()
    daemon.ok("rmi", "secretive:1")


def test_a_sparse_giant(daemon: Daemon, tmp_path: Path) -> None:
    """P018"""
    began = time.monotonic()
    found = image(
        daemon, lay(tmp_path / "c", {"Dockerfile": "FROM busybox\nRUN truncate -s 4G /giant\n"}), "-t", "giant:1"
    )
    assert time.monotonic() - began < 60
    assert found["Size"] < 20 << 20
    assert daemon.ok(
        "run", "--rm", "--network", "none", "giant:1", "sh", "-c", "stat -c %s /giant; du -k /giant"
    ).split()[:2] == [str(4 << 30), "0"]
    daemon.ok("rmi", "giant:1")
