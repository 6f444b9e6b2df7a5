"""What is copied out of a container is a stranger's: on the host it is a file, and no right, no device, and nowhere but where it was asked for."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from sampan.client.http import NoEngine
from sampan.engine import guest_archives
from sampan.images.errors import ImageError
from tests.conftest import Daemon
from tests.support.commands import NONE

SCRIPT = (
    "mkdir -p /x/d; cp /bin/busybox /x/su; chown 1000:1000 /x/su; chmod 6755 /x/su; chmod 7777 /x/d; ln -s /etc/passwd /x/link; "
    "mknod /x/d/disk b 8 0; mknod /x/mem c 1 1; chmod 666 /x/mem; echo plain >/x/d/f; chmod 640 /x/d/f; chmod 777 /x"
)


def _rights(top: Path) -> list[str]:
    found = []
    for path in [top, *top.rglob("*")]:
        mode = path.lstat().st_mode
        if stat.S_ISBLK(mode) or stat.S_ISCHR(mode) or mode & (stat.S_ISUID | stat.S_ISGID):
            found.append(str(path))
        if not stat.S_ISLNK(mode) and [name for name in os.listxattr(path) if not name.startswith("user.")]:
            found.append(f"attributes of {path}")
    return found


def test_cp_makes_no_rights_and_no_devices(daemon: Daemon, tmp_path: Path) -> None:
    """A file that is set-uid for anybody would be set-uid for who copies: root, often."""
    daemon.ok("run", "--name", "box", *NONE, "busybox", "sh", "-c", SCRIPT)
    done = daemon.sampan("cp", "box:/x", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert _rights(tmp_path) == []
    assert (tmp_path / "x/su").stat().st_mode & 0o7777 == 0o755
    assert (tmp_path / "x/d/f").read_text() == "plain\n"
    assert (tmp_path / "x/d/f").stat().st_mode & 0o7777 == 0o640
    assert b"'x/d/disk' is a device, and not copied" in done.stderr
    (tmp_path / "content").mkdir(mode=0o700)
    daemon.ok("cp", "box:/x/.", str(tmp_path / "content"))
    assert _rights(tmp_path) == []
    assert (tmp_path / "content").stat().st_mode & 0o777 == 0o700
    raw = tarfile.open(fileobj=io.BytesIO(daemon.sampan("cp", "box:/x", "-").stdout))  # a tar says what is there
    assert raw.getmember("x/su").mode == 0o6755


@pytest.mark.parametrize("path", ["/x/..", "/x/../x/d/../..", "x/./.."])
def test_names_never_lead_up(daemon: Daemon, path: str) -> None:
    daemon.ok("create", "--name", "box", *NONE, "busybox")
    response = daemon.http.send("GET", f"/containers/box/archive?path={path}")
    names = tarfile.open(fileobj=io.BytesIO(b"".join(response.chunks()))).getnames()
    assert "./bin/busybox" in names
    assert not [name for name in names if ".." in name.split("/")]


def test_no_words_of_a_client_s_are_lines_of_the_log(daemon: Daemon) -> None:
    # What is nested too deep for an archive is found when the answer has begun.
    deep = 'for top in /b "$1"; do p=$top; mkdir "$p"; for i in 1 2 3 4 5 6 7 8 9; do p=$p/$2; mkdir "$p"; done; done; mv /b "$p"'
    name = "/tmp/deep\nsampand: forged"
    daemon.ok("run", "--name", "box", *NONE, "busybox", "sh", "-c", deep, "sh", name, "x" * 240)
    before = (daemon.root / "log").stat().st_size
    with pytest.raises(NoEngine):
        b"".join(daemon.http.send("GET", "/containers/box/archive?path=/tmp/deep%0Asampand:%20forged").chunks())
    log = (daemon.root / "log").read_bytes()[before:]
    assert b"is broken off" in log
    assert not [line for line in log.splitlines() if line.startswith(b"sampand: forged")]


def _archive(*members: tuple[str, bytes, str]) -> io.BytesIO:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, kind, target in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            member.size = 3 if kind == tarfile.REGTYPE else 0
            tar.addfile(member, io.BytesIO(b"abc"))
    out.seek(0)
    return out


def test_what_a_guest_s_archive_was_asked_for() -> None:
    """Whatever tells of files in the guest may be the guest's own: the engine has to see what it tells."""
    asked = _archive(("log", tarfile.DIRTYPE, ""), ("log/a", tarfile.REGTYPE, ""), ("log/b", tarfile.LNKTYPE, "log/a"),
                     ("log/c", tarfile.SYMTYPE, "../../etc"))  # fmt: skip
    out = io.BytesIO()
    guest_archives.retell(asked, out, "log")
    out.seek(0)
    with tarfile.open(fileobj=out) as tar:
        assert [(m.name, m.type, m.linkname) for m in tar] == [
            ("log", tarfile.DIRTYPE, ""),
            ("log/a", tarfile.REGTYPE, ""),
            ("log/b", tarfile.LNKTYPE, "log/a"),
            ("log/c", tarfile.SYMTYPE, "../../etc"),
        ]
        content = tar.extractfile("log/a")
        assert content is not None
        assert content.read() == b"abc"


@pytest.mark.parametrize(
    ("top", "members"),
    [
        ("log", [(".bashrc", tarfile.REGTYPE, "")]),
        ("log", [("log", tarfile.REGTYPE, ""), (".ssh/authorized_keys", tarfile.REGTYPE, "")]),
        ("log", [("log/../.bashrc", tarfile.REGTYPE, "")]),
        ("log", [("/log", tarfile.REGTYPE, "")]),
        ("log", [("logs", tarfile.REGTYPE, "")]),
        ("log", [("log", tarfile.LNKTYPE, "/etc/shadow")]),
        ("log", [("log", b"V", "")]),
        (".", [("./../x", tarfile.REGTYPE, "")]),
        (".", [("/x", tarfile.REGTYPE, "")]),
    ],
)
def test_what_it_was_not_asked_for(top: str, members: list[tuple[str, bytes, str]]) -> None:
    """CVE-2019-6111, of a guest instead of a server."""
    out = io.BytesIO()
    with pytest.raises(ImageError):
        guest_archives.retell(_archive(*members), out, top)
    assert b"bashrc" not in out.getvalue()
    assert b"authorized" not in out.getvalue()


@pytest.mark.parametrize("spoil", [lambda data: data[:700], lambda data: data + bytes(2 << 20), lambda data: b"", lambda data: b"x" * 4096])  # fmt: skip
def test_what_is_no_archive(spoil: Callable[[bytes], bytes]) -> None:
    data = _archive(("log", tarfile.REGTYPE, "")).getvalue()
    with pytest.raises(ImageError):
        guest_archives.retell(io.BytesIO(spoil(data)), io.BytesIO(), "log")


def test_copies_out_of_a_guest() -> None:
    """Of every kind of file, what a guest of ours tells is told on as it is."""
    from sampan.images import pack

    out, told = io.BytesIO(), io.BytesIO()
    here = os.open(Path(__file__).parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        pack.pack_tree(here, "/", out)
    finally:
        os.close(here)
    out.seek(0)
    guest_archives.retell(out, told, ".")
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as one, tarfile.open(fileobj=io.BytesIO(told.getvalue())) as other:  # fmt: skip
        assert [m.get_info() for m in one] == [m.get_info() for m in other]
