"""What builds fetch: files and git repositories from a server on loopback."""

from __future__ import annotations

import http.server
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Daemon
from tests.support.contexts import build, lay, result, tar_of_one_file


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A web server over a directory, also of git repositories (the dumb protocol)."""
    top = tmp_path / "web"
    top.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(top))

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", top
    server.shutdown()
    server.server_close()


def test_add_of_a_url(daemon: Daemon, tmp_path: Path, web: tuple[str, Path]) -> None:
    """P014: not unpacked, mode 0600, the server's time; a checksum is checked."""
    url, top = web
    (top / "a.tar.gz").write_bytes(tar_of_one_file(True))
    (top / "f").write_text("content")
    os.utime(top / "f", (10**9, 10**9))
    good = "sha256:ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"
    text = f"FROM busybox\nADD {url}/f /d/\nADD {url}/a.tar.gz /d/\nADD --unpack=true {url}/a.tar.gz /u/\nADD --checksum={good} {url}/f /g\n"
    out = result(daemon, lay(tmp_path / "c", {"Dockerfile": text}))
    info = (out / "d/f").stat()
    assert ((out / "d/f").read_text(), info.st_mode & 0o777, info.st_mtime) == ("content", 0o600, 10**9)
    assert (out / "d/a.tar.gz").exists()
    assert (out / "u/inside").read_text() == "packed"
    for text, message in ((f"ADD --checksum=sha256:{'0' * 64} {url}/f /g", "digest mismatch"), (f"ADD {url}/nope /g", "404"),
                          ("ADD http://127.0.0.1:1/x /g", "failed to fetch")):  # fmt: skip
        done = build(daemon, lay(tmp_path / message.split()[0], {"Dockerfile": f"FROM busybox\n{text}\n"}))
        assert message in done.stderr.decode()


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_git(daemon: Daemon, tmp_path: Path, web: tuple[str, Path]) -> None:
    """P025, S024"""
    url, top = web
    work = tmp_path / "work"

    def git(*args: str) -> str:
        env = {
            **os.environ,
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_AUTHOR_NAME": "a",
            "GIT_AUTHOR_EMAIL": "a@b",
            "GIT_COMMITTER_NAME": "a",
            "GIT_COMMITTER_EMAIL": "a@b",
        }
        return subprocess.run(
            ["git", *args], cwd=work, env=env, check=True, capture_output=True, text=True
        ).stdout.strip()

    lay(
        work,
        {
            "Dockerfile": "FROM busybox\nCOPY f /f\n",
            "f": "main",
            "sub/Dockerfile": "FROM busybox\nCOPY g /g\n",
            "sub/g": "sub",
            "link": "-> /",
        },
    )
    git("init", "-q", "-b", "main")
    git("add", ".")
    git("commit", "-qm", "1")
    git("tag", "v1")
    (work / "f").write_text("second")
    git("commit", "-qam", "2")
    git("clone", "-q", "--bare", ".", str(top / "r.git"))
    subprocess.run(["git", "update-server-info"], cwd=top / "r.git", check=True)
    for fragment, name, content in (
        ("", "f", "second"),
        ("#main", "f", "second"),
        ("#v1", "f", "main"),
        ("#main:sub", "g", "sub"),
        (f"#{git('rev-parse', 'v1')}", "f", "main"),
    ):
        done = daemon.sampan("build", "--network", "none", "-t", "git:1", f"{url}/r.git{fragment}")
        assert done.returncode == 0, (fragment, done.stderr)
        assert daemon.ok("run", "--rm", "--network", "none", "git:1", "cat", f"/{name}") == content
    daemon.ok("rmi", "git:1")
    for fragment, message in (
        ("#nope", "nope"),
        ("#main:../..", "subdirectory"),
        ("#--upload-pack=touch", "invalid git reference"),
    ):
        done = daemon.sampan("build", "--network", "none", f"{url}/r.git{fragment}")
        assert done.returncode == 1
        assert message in done.stderr.decode(), (fragment, done.stderr)
    # A subdirectory that is a link to / is the repository's own root.
    assert b"COPY f /f" in daemon.sampan("build", "--network", "none", f"{url}/r.git#main:link").stdout
    text = f"FROM busybox\nADD {url}/r.git#v1 /src/\nADD --keep-git-dir=true {url}/r.git /with/\n"
    out = result(daemon, lay(tmp_path / "c", {"Dockerfile": text}))
    assert (out / "src/f").read_text() == "main"
    assert not (out / "src/.git").exists()
    assert (out / "with/.git").exists()
    # A submodule comes along; one below a path of the server's own machine does not.
    git("submodule", "--quiet", "add", f"{url}/r.git", "module")
    git("commit", "-qm", "3")
    git("clone", "-q", "--bare", ".", str(top / "s.git"))
    subprocess.run(["git", "update-server-info"], cwd=top / "s.git", check=True)
    out = result(daemon, lay(tmp_path / "s", {"Dockerfile": f"FROM busybox\nADD {url}/s.git /s/\n"}))
    assert (out / "s/module/f").read_text() == "second"
    (work / ".gitmodules").write_text(f'[submodule "module"]\n\tpath = module\n\turl = {top}/r.git\n')
    git("commit", "-qam", "4")
    git("clone", "-q", "--bare", ".", str(top / "t.git"))
    subprocess.run(["git", "update-server-info"], cwd=top / "t.git", check=True)
    top_level = lay(tmp_path / "t", {"Dockerfile": f"FROM busybox\nADD {url}/t.git /t/\n"})
    done = daemon.sampan("build", "--network", "none", str(top_level))
    assert done.returncode == 1
    assert "transport 'file' not allowed" in done.stderr.decode()
