"""linux/durable: a file is the old one or the new one, and nothing is left of an attempt."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path
from unittest import mock

import pytest

from sampan.linux import durable


def test_replaces_with_mode_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(b"a much longer old content")
    durable.write(str(path), "new\u00e9", 0o640)
    assert path.read_text() == "new\u00e9"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["state.json"]


@pytest.mark.parametrize("call", ["os.fsync", "os.rename"])
def test_a_failure_keeps_the_old_file(tmp_path: Path, call: str) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(b"old")
    with mock.patch(call, side_effect=OSError(28, "full")), pytest.raises(OSError, match="full"):
        durable.write(str(path), b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["state.json"]


def test_order_is_content_then_name_then_directory(tmp_path: Path) -> None:
    calls: list[str] = []
    real_fsync, real_rename = os.fsync, os.rename

    def fsync(fd: int) -> None:
        calls.append("directory" if stat.S_ISDIR(os.fstat(fd).st_mode) else f"file {os.fstat(fd).st_size}")
        real_fsync(fd)

    def rename(source: str, target: str) -> None:
        calls.append("rename")
        real_rename(source, target)

    with mock.patch("os.fsync", fsync), mock.patch("os.rename", rename):
        durable.write(str(tmp_path / "x"), b"12345")
    assert calls == ["file 5", "rename", "directory"]


def test_many_writers_of_one_path(tmp_path: Path) -> None:
    path = str(tmp_path / "x")
    failures: list[BaseException] = []

    def go(number: int) -> None:
        try:
            for _ in range(20):
                durable.replace(path, bytes([65 + number]) * 5000)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=go, args=(n,)) for n in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert not failures
    assert len(set(Path(path).read_bytes())) == 1
    assert len(Path(path).read_bytes()) == 5000


def test_leftovers_are_told_from_other_files(tmp_path: Path) -> None:
    for name in ("a.json", "a.json.0123456789ab.tmp", "mine.tmp", "b.xyz.tmp"):
        (tmp_path / name).write_bytes(b"")
    durable.remove_leftovers(str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == ["a.json", "b.xyz.tmp", "mine.tmp"]


def test_syncfs_and_its_failure(tmp_path: Path) -> None:
    durable.sync_tree(str(tmp_path))
    with pytest.raises(OSError, match="syncfs"):
        durable.syncfs(-1)
