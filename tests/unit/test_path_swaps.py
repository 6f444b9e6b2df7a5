"""A name is exchanged right between two calls, once and for certain: what the races of tests/faults/test_path_races hit by chance (T54)."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from pathlib import Path
from typing import Any

import pytest

from sampan.cli import copy
from sampan.cli.flags import UsageError
from sampan.images import pack
from sampan.images.errors import ImageError
from sampan.images.extract import Extractor
from sampan.linux import filetree, nodes


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    top = tmp_path / "outside"
    top.mkdir(0o700)
    (top / "secret").write_text("of the host")
    (top / "secret").chmod(0o600)
    return top


def swap_after(monkeypatch: pytest.MonkeyPatch, call: str, name: str, target: Path) -> None:
    """After `os.call(name, ...)` there is a link to `target` instead of what it has made."""
    real = getattr(os, call)

    def made(path: Any, *args: Any, dir_fd: int, **more: Any) -> Any:
        found = real(path, *args, dir_fd=dir_fd, **more)
        if path == name:
            monkeypatch.setattr(os, call, real)
            (os.rmdir if call == "mkdir" else os.unlink)(name, dir_fd=dir_fd)
            os.symlink(target, name, dir_fd=dir_fd)
        return found

    monkeypatch.setattr(os, call, made)


@pytest.mark.parametrize(
    ("call", "kind", "where"),
    [("mkdir", tarfile.DIRTYPE, ""), ("mknod", tarfile.FIFOTYPE, "secret"), ("open", tarfile.REGTYPE, "secret")],
)
def test_extraction(
    tmp_path: Path, outside: Path, monkeypatch: pytest.MonkeyPatch, call: str, kind: bytes, where: str
) -> None:
    (tmp_path / "root").mkdir()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        member = tarfile.TarInfo("x")
        member.type, member.mode, member.uid = kind, 0o4777, os.getuid()
        tar.addfile(member)
    fd = os.open(tmp_path / "root", os.O_RDONLY | os.O_DIRECTORY)
    before = [os.lstat(path) for path in (outside, outside / "secret")]
    swap_after(monkeypatch, call, "x", outside / where if where else outside)
    try:
        Extractor(fd, owner=(os.getuid(), os.getgid())).extract(io.BytesIO(out.getvalue()))
    except (ImageError, OSError):
        pass
    finally:
        os.close(fd)
    assert (tmp_path / "root/x").is_symlink()
    after = [os.lstat(path) for path in (outside, outside / "secret")]
    assert [(i.st_mode, i.st_mtime_ns, i.st_ctime_ns) for i in after] == [
        (i.st_mode, i.st_mtime_ns, i.st_ctime_ns) for i in before
    ]


@pytest.mark.parametrize("name", ["f", "d"])
def test_packing(tmp_path: Path, outside: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A file, or a directory, that has become a link since it was listed."""
    root = tmp_path / "root"
    (root / "d").mkdir(parents=True)
    (root / "d/secret").write_text("mine")
    (root / "f").write_text("0123456789a")
    real = filetree._listed

    def listed(fd: int) -> Any:
        found = real(fd)
        if (root / name).exists() and not (root / name).is_symlink():
            filetree.remove(str(root / name))
            (root / name).symlink_to(outside if name == "d" else outside / "secret")
        return found

    monkeypatch.setattr(filetree, "_listed", listed)
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    out = io.BytesIO()
    try:
        pack.pack_tree(fd, "", out)
    except OSError:
        pass
    finally:
        os.close(fd)
    assert b"of the host" not in out.getvalue()


def test_a_held_node_stays_what_it_was(tmp_path: Path, outside: Path) -> None:
    (tmp_path / "f").write_text("mine")
    parent = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    held = nodes.hold(parent, "f")
    (tmp_path / "f").unlink()
    (tmp_path / "f").symlink_to(outside / "secret")
    nodes.chmod(held, 0o640)
    nodes.utime(held, 10**9)
    with open(nodes.reopen_regular(held)) as file:
        assert file.read() == "mine"
    assert stat.S_IMODE((outside / "secret").stat().st_mode) == 0o600
    os.close(held)
    with pytest.raises(OSError, match="no regular file"):
        nodes.open_regular(parent, "f")
    os.mkfifo(tmp_path / "p")
    with pytest.raises(OSError, match="no regular file"):
        nodes.open_regular(parent, "p")
    os.close(parent)


def test_cp_merges_into_no_link(tmp_path: Path, outside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory of the target that becomes a link after it was looked at."""
    (tmp_path / "s/d").mkdir(parents=True)
    (tmp_path / "s/d/secret").write_text("copied")
    (tmp_path / "t/d").mkdir(parents=True)
    real = copy._move

    def moved(*args: Any) -> bool:
        found = real(*args)
        if found and not (tmp_path / "t/d").is_symlink():
            (tmp_path / "t/d").rmdir()
            (tmp_path / "t/d").symlink_to(outside)
        return found

    monkeypatch.setattr(copy, "_move", moved)
    source, target = (os.open(tmp_path / name, os.O_RDONLY | os.O_DIRECTORY) for name in "st")
    with pytest.raises((OSError, UsageError)):
        copy._merge(source, target)
    os.close(source)
    os.close(target)
    assert (outside / "secret").read_text() == "of the host"


def test_a_devices_mode_is_not_given_to_another(tmp_path: Path, outside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sampan.runtime import rootfs

    parent = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)

    def mknod(name: str, mode: int, number: int, dir_fd: int) -> None:  # where one may make none, too
        os.symlink(outside / "secret", name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "mknod", mknod)
    with pytest.raises(OSError, match="exchanged"):
        rootfs._make_node(parent, "node", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.close(parent)
    assert stat.S_IMODE((outside / "secret").stat().st_mode) == 0o600
