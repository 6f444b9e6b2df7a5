"""Whoever does not read, does not send or can't be answered to the end costs only himself (T72, T74, T76)."""

from __future__ import annotations

import io
import os
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conftest import Daemon, eventually
from tests.faults import raw
from tests.support.commands import NONE

CLIENTS = 12
LATEST = 15.0  # seconds: some ten times what a start takes on a busy machine


@pytest.fixture
def large(daemon: Daemon) -> Iterator[str]:
    """A container with 8 MB that do not compress, and an image of it: more than any socket's buffer."""
    daemon.ok("run", "--name", "large", *NONE, "busybox", "dd", "if=/dev/urandom", "of=/large", "bs=1M", "count=8")
    daemon.ok("commit", "large", "large-image")
    yield "large"
    daemon.ok("rm", "large")
    daemon.sampan("rmi", "large-image")


def check_others_go_on(daemon: Daemon) -> None:
    began = time.monotonic()
    assert daemon.ok("run", "--rm", *NONE, "busybox", "echo", "on") == "on\n"
    assert daemon.ok("ps", "-q") == ""
    daemon.ok("system", "df")
    assert time.monotonic() - began < LATEST


@pytest.mark.parametrize(
    "path",
    ["/containers/large/export", "/containers/large/archive?path=/large", "/images/large-image/get", "/containers/large/logs?stdout=1&follow=1",
     "/events?since=1", "/containers/large/stats"],
)  # fmt: skip
def test_readers_that_do_not_read_stop_nobody(daemon: Daemon, large: str, path: str) -> None:
    with raw.Held() as held:
        for _ in range(CLIENTS):
            held.hold(raw.send(daemon, "GET", path))
        check_others_go_on(daemon)
        if "large" in path and "logs" not in path and "stats" not in path:  # one that reads gets all of it beside them
            status, data = raw.ask(daemon, "GET", path)
            assert status == 200
            assert len(data) > 8 << 20


def test_writers_that_stall_stop_nobody(daemon: Daemon, large: str) -> None:
    with raw.Held() as held:
        for method, path in (
            ("PUT", "/containers/large/archive?path=/"), ("POST", "/images/load"), ("POST", "/build"), ("POST", "/containers/create"),
            ("POST", "/images/create?fromSrc=-&repo=stalled"), ("POST", "/commit?container=large"),
        ):  # fmt: skip
            for _ in range(CLIENTS):
                headers = "Content-Type: application/json\r\nContent-Length: 1000000\r\n"
                held.hold(raw.send(daemon, method, path, headers, b"x" * 1000))
        for _ in range(CLIENTS):
            sock = held.hold(raw.connect(daemon))
            sock.sendall(b"GET /version HT")  # and no more
        check_others_go_on(daemon)
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            tar.addfile(tarfile.TarInfo("beside"))
        assert raw.ask(daemon, "PUT", "/containers/large/archive?path=/", out.getvalue())[0] == 200
    assert "stalled" not in daemon.ok("images")


def test_saves_at_once(daemon: Daemon, large: str) -> None:
    with ThreadPoolExecutor(CLIENTS) as pool:
        found = list(
            pool.map(lambda _: raw.ask(daemon, "GET", "/images/get?names=large-image", timeout=60), range(CLIENTS))
        )
    assert {status for status, _ in found} == {200}
    assert len({len(data) for _, data in found}) == 1


def test_an_error_within_an_archive_ends_the_connection(daemon: Daemon, large: str) -> None:
    """The second layer is gone from the disk: what came before must not look like all of it."""
    layer = max(
        (daemon.root / "data/images/blobs/sha256").iterdir(),
        key=lambda path: path.stat().st_mtime_ns if path.stat().st_size > 8 << 20 else 0,
    )
    aside = layer.with_name("aside")
    os.rename(layer, aside)
    try:
        with raw.send(daemon, "GET", "/images/get?names=busybox&names=large-image", "Connection: close\r\n") as sock:
            answer = raw.rest(sock)
    finally:
        os.rename(aside, layer)
    if answer.startswith(b"HTTP/1.1 200"):
        assert b"HTTP/1.1 500" not in answer
        assert not answer.endswith(b"0\r\n\r\n")
        assert len(answer) > 1 << 20  # so there was something to be broken off
    else:  # seen before the first byte
        assert b'{"message"' in answer
    done = daemon.sampan("export", "-o", f"{daemon.root}/out.tar", "large")
    assert done.returncode == 0
    check_others_go_on(daemon)


def test_an_archive_that_fails_midway_is_broken_off(daemon: Daemon, large: str) -> None:
    """A layer gets shorter while it is sent: the answer ends without its last chunk, and without a second answer (T74)."""
    blobs = (daemon.root / "data/images/blobs/sha256").iterdir()
    file = max(blobs, key=lambda blob: blob.stat().st_mtime_ns if blob.stat().st_size > 8 << 20 else 0)
    whole = file.read_bytes()
    with raw.send(daemon, "GET", "/images/large-image/get", "Connection: close\r\n") as sock:
        answer = sock.recv(64 << 10)  # no more for now: the sockets and the pipe hold a part of it
        os.truncate(file, 6 << 20)
        answer += raw.rest(sock)
    file.write_bytes(whole)
    assert answer.startswith(b"HTTP/1.1 200")
    assert len(answer) > 1 << 20
    assert b"HTTP/1.1 500" not in answer
    assert not answer.endswith(b"0\r\n\r\n")
    assert daemon.sampan("save", "-o", f"{daemon.root}/out.tar", "large-image").returncode == 0
    check_others_go_on(daemon)


def test_readers_that_left_leave_nothing(daemon: Daemon, large: str) -> None:
    with raw.Held() as held:
        for _ in range(CLIENTS):
            held.hold(raw.send(daemon, "GET", "/containers/large/export"))
        eventually(lambda: _descriptors(daemon, "pipe:") >= CLIENTS)
        busy = _descriptors(daemon, "pipe:")
    eventually(lambda: _descriptors(daemon, "pipe:") <= busy - CLIENTS)


def _descriptors(daemon: Daemon, kind: str) -> int:
    assert daemon.process is not None
    directory, count = f"/proc/{daemon.process.pid}/fd", 0
    for name in os.listdir(directory):
        try:
            count += os.readlink(f"{directory}/{name}").startswith(kind)
        except OSError:
            continue
    return count
