"""Results that go to files (T07): only a regular file is replaced, and only by the whole result."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import pytest

from sampan.cli.results import is_seekable, result
from sampan.linux import filetree
from tests.conftest import Daemon


def write(path: Path, data: bytes) -> None:
    with result(str(path)) as file:
        file.write(data)


def write_half(path: Path) -> None:
    with result(str(path)) as file:
        file.write(b"half of the third")
        raise RuntimeError


def node(path: Path) -> None:
    """A null device of our own: the host's is not ours to try this on."""
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))


def test_new_and_regular_files_are_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "out"
    write(path, b"first and long")
    os.chmod(path, 0o640)
    write(path, b"second")
    assert path.read_bytes() == b"second"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    with pytest.raises(RuntimeError):
        write_half(path)
    assert path.read_bytes() == b"second"
    assert os.listdir(tmp_path) == ["out"]


def test_devices_pipes_and_links_stay_what_they_are(tmp_path: Path) -> None:
    node(tmp_path / "null")
    write(tmp_path / "null", b"x")
    assert stat.S_ISCHR(os.lstat(tmp_path / "null").st_mode)
    (tmp_path / "link-to-null").symlink_to("null")
    write(tmp_path / "link-to-null", b"x")
    assert stat.S_ISLNK(os.lstat(tmp_path / "link-to-null").st_mode)
    assert stat.S_ISCHR(os.stat(tmp_path / "link-to-null").st_mode)

    os.mkfifo(tmp_path / "pipe")
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    write(tmp_path / "pipe", b"through the pipe")
    reader.join(10)
    assert got == [b"through the pipe"]
    assert stat.S_ISFIFO(os.lstat(tmp_path / "pipe").st_mode)

    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "dangling").symlink_to("made")
    write(tmp_path / "link", b"new")
    write(tmp_path / "dangling", b"new")
    assert os.readlink(tmp_path / "link") == "real"
    assert (tmp_path / "real").read_bytes() == (tmp_path / "made").read_bytes() == b"new"


def test_what_can_not_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        write(tmp_path, b"x")
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "none/x", b"x")
    write(tmp_path / ("n" * 255), b"the longest name")


def test_a_redirected_descriptor_is_written_to(tmp_path: Path) -> None:
    code = "from sampan.cli.results import result\nwith result('/dev/stdout') as f: f.write(b'data')"
    with open(tmp_path / "out", "wb") as out:
        subprocess.run([sys.executable, "-c", code], stdout=out, check=True)
        assert os.path.samestat(os.fstat(out.fileno()), os.stat(tmp_path / "out"))
    assert (tmp_path / "out").read_bytes() == b"data"
    piped = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert piped.stdout == b"data"


def test_holes_are_for_regular_files(tmp_path: Path) -> None:
    node(tmp_path / "null")
    with result(str(tmp_path / "null")) as file:
        assert not is_seekable(file)
    with result(str(tmp_path / "file")) as file:
        assert is_seekable(file)


def test_two_saves_to_one_path_do_not_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "out"
    both = threading.Barrier(2)

    def save(data: bytes) -> None:
        with result(str(path)) as file:
            file.write(data[:10])
            both.wait(10)
            file.write(data[10:])

    threads = [threading.Thread(target=save, args=(bytes([65 + n]) * 100_000,)) for n in range(2)]
    [thread.start() for thread in threads]
    [thread.join(20) for thread in threads]
    assert len(set(path.read_bytes())) == 1
    assert len(path.read_bytes()) == 100_000
    assert os.listdir(tmp_path) == ["out"]


def test_save_and_export_to_what_is_no_file(daemon: Daemon, tmp_path: Path) -> None:
    node(tmp_path / "null")
    daemon.ok("run", "--name", "saved", "--network", "none", "busybox", "true")
    for command in (["save", "busybox"], ["export", "saved"]):
        daemon.ok(*command, "-o", f"{tmp_path}/null")
        assert stat.S_ISCHR(os.lstat(tmp_path / "null").st_mode)
        with open(tmp_path / "out", "wb") as out:
            subprocess.run(["sampan", *command, "-o", "/dev/stdout"], env=daemon.env, stdout=out, check=True)
        assert tarfile.open(tmp_path / "out").getnames()
        done = daemon.sampan(*command, "-o", f"{tmp_path}/none/x")
        assert done.returncode == 1
        assert b"No such file or directory" in done.stderr
        assert b"Traceback" not in done.stderr


def test_saves_of_one_image_at_once(daemon: Daemon) -> None:
    """More than there are threads: none waits for a producer that waits for its turn (T76)."""
    found: list[int] = []

    def save() -> None:
        data = b"".join(daemon.http.send("GET", "/images/get?names=busybox").chunks())
        found.append(len(tarfile.open(fileobj=io.BytesIO(data)).getnames()))

    threads = [threading.Thread(target=save, daemon=True) for _ in range(24)]
    [thread.start() for thread in threads]
    [thread.join(60) for thread in threads]
    assert len(found) == 24
    assert len(set(found)) == 1


def test_cp_replaces_no_device_and_takes_any_depth(daemon: Daemon, tmp_path: Path) -> None:
    script = "cd /root; i=0; while [ $i -lt 1100 ]; do mkdir d; cd d; i=$((i+1)); done; echo end > end; echo data > /root/file"
    daemon.ok("run", "--name", "deep", "--network", "none", "busybox", "sh", "-c", script)
    node(tmp_path / "null")
    daemon.ok("cp", "deep:/root/file", f"{tmp_path}/null")
    assert stat.S_ISCHR(os.lstat(tmp_path / "null").st_mode)
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    daemon.ok("cp", "deep:/root/file", f"{tmp_path}/link")
    assert (tmp_path / "real").read_bytes() == b"data\n"
    assert os.readlink(tmp_path / "link") == "real"
    for _ in range(2):  # the second time over the first
        daemon.ok("cp", "deep:/root", f"{tmp_path}/")
    try:
        assert (tmp_path / "root" / "/".join(["d"] * 1100) / "end").read_bytes() == b"end\n"
        assert sorted(os.listdir(tmp_path)) == ["link", "null", "real", "root"]
    finally:
        filetree.remove(str(tmp_path / "root"))
