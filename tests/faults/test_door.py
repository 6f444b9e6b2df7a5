"""What comes to the door: bodies, names, connections and objects without end (T73, T76, T77), and forms of requests (T46, T57)."""

from __future__ import annotations

import base64
import gzip
import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Daemon, end_daemon, share_vm_cache
from tests.faults import raw
from tests.support.commands import NONE

MIB = 1 << 20


def memory(daemon: Daemon) -> int:
    """Bytes of the daemon that are in memory."""
    assert daemon.process is not None
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) << 10


def test_a_body_without_end_is_refused_unread(daemon: Daemon) -> None:
    before = memory(daemon)
    with raw.send(
        daemon, "POST", "/containers/create", f"Content-Type: application/json\r\nContent-Length: {500 * MIB}\r\n"
    ) as sock:
        answer = raw.head(sock)
    assert b"413" in answer.partition(b"\r\n")[0]
    assert b"4194304 at most" in answer
    with raw.send(
        daemon, "POST", "/networks/create", "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
    ) as sock:
        try:
            for _ in range(64):
                sock.sendall(b"100000\r\n" + b" " * MIB + b"\r\n")
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert b" 413 " in raw.head(sock)
    assert memory(daemon) - before < 64 * MIB


def test_a_body_is_not_inflated(daemon: Daemon) -> None:
    before = memory(daemon)
    bomb = gzip.compress(b"[" * (200 * MIB), 9)
    for path in ("/containers/create", "/volumes/create", "/auth"):
        status, data = raw.ask(daemon, "POST", path, bomb, "Content-Encoding: gzip\r\n")
        assert status == 400, data
    assert memory(daemon) - before < 64 * MIB


@pytest.mark.parametrize(
    "body",
    [b"[" * 100_000, b'{"a":' * 100_000, b'{"Labels":' + b'{"a":' * 500 + b"1" + b"}" * 501, b"{", b"[]", b"7", b'"x"', b"\xff\xfe", b"{\"Image\":NaN}",
     b'{"Memory":' + b"9" * 5000 + b"}", b'{"Image":"\xff"}', b'{"Image":"a\\u0000b"}', b"null", b""],
)  # fmt: skip
def test_json_that_is_none(daemon: Daemon, body: bytes) -> None:
    for path in ("/containers/create", "/networks/create", "/exec/x/start", "/auth"):
        status, data = raw.ask(daemon, "POST", path, body)
        assert status in (400, 404), (path, data)
        assert json.loads(data)["message"]


def test_names_and_labels_without_end(daemon: Daemon) -> None:
    body = b'{"Image":"busybox"}'
    for path in (
        f"/containers/create?name={'n' * 256}",
        f"/containers/create?name={'n' * 60_000}",
        "/containers/create?name=a%00b",
    ):
        assert raw.ask(daemon, "POST", path, body)[0] == 400, path[:60]
    assert raw.ask(daemon, "POST", "/volumes/create", json.dumps({"Name": "v" * 300}).encode())[0] == 400
    assert raw.ask(daemon, "POST", "/networks/create", json.dumps({"Name": "n" * 3000}).encode())[0] == 400
    large = json.dumps({"Image": "busybox", "Labels": {"large": "x" * (100 * MIB)}}).encode()
    with raw.send(
        daemon, "POST", "/containers/create", f"Content-Type: application/json\r\nContent-Length: {len(large)}\r\n"
    ) as sock:
        assert b" 413 " in raw.head(sock)
    assert daemon.ok("ps", "-aq") == ""


def test_a_start_is_never_too_large_for_the_keeper(daemon: Daemon) -> None:
    """As large as the door lets through, and escaped to six times the letters; whatever comes of it, all others go on."""
    keeper = daemon.keeper_pid()
    for env in (
        ["A=" + "ü" * 1_900_000],
        [f"A{n}=" + "\x01" * 900 for n in range(700)],
        [f"A{n}=x" for n in range(200_000)],
    ):
        body = json.dumps(
            {"Image": "busybox", "Cmd": ["true"], "Env": env, "HostConfig": {"NetworkMode": "none"}}, ensure_ascii=False
        ).encode()
        status, data = raw.ask(daemon, "POST", "/containers/create", body)
        assert status in (201, 400, 413), data[:200]
        if status == 201:
            status, data = raw.ask(daemon, "POST", f"/containers/{json.loads(data)['Id']}/start")
            assert status in (204, 400, 500), data[:200]
            assert status == 204 or b"too l" in data.lower() or b"too b" in data.lower(), data[:200]
    tmpfs = {f"/t{n}": "" for n in range(5000)}
    body = json.dumps({"Image": "busybox", "HostConfig": {"Tmpfs": tmpfs}}).encode()
    assert raw.ask(daemon, "POST", "/containers/create", body)[0] == 400
    many = {
        "Image": "busybox",
        "Cmd": ["true"],
        "HostConfig": {"NetworkMode": "none", "Tmpfs": dict(list(tmpfs.items())[:600])},
    }
    status, data = raw.ask(daemon, "POST", "/containers/create", json.dumps(many).encode())
    assert status == 201
    assert raw.ask(daemon, "POST", f"/containers/{json.loads(data)['Id']}/start", timeout=60)[0] in (204, 400, 500)
    assert daemon.keeper_pid() == keeper
    assert daemon.ok("run", "--rm", *NONE, "busybox", "echo", "on") == "on\n"


def test_execs_that_never_start_are_forgotten(daemon: Daemon) -> None:
    daemon.ok("run", "-d", "--name", "busy", *NONE, "busybox", "sleep", "100")
    daemon.ok("run", "-d", "--name", "other", *NONE, "busybox", "sleep", "100")
    other = daemon.http.call("POST", "/containers/other/exec", {"Cmd": ["true"]})["Id"]
    before, ids = memory(daemon), []
    for _ in range(2100):
        ids.append(daemon.http.call("POST", "/containers/busy/exec", {"Cmd": ["true"]})["Id"])
    assert raw.ask(daemon, "GET", f"/exec/{ids[0]}/json")[0] == 404
    assert raw.ask(daemon, "GET", f"/exec/{ids[-1]}/json")[0] == 200
    assert raw.ask(daemon, "GET", f"/exec/{other}/json")[0] == 200  # another's is not pushed out
    large = {"Cmd": ["true"], "Env": ["A=" + "x" * 3 * MIB]}
    for _ in range(16):
        daemon.http.call("POST", "/containers/busy/exec", large)
    assert memory(daemon) - before < 120 * MIB
    assert raw.ask(daemon, "GET", f"/exec/{other}/json")[0] == 200
    daemon.ok("kill", "busy")
    daemon.ok("wait", "busy")
    assert raw.ask(daemon, "GET", f"/exec/{ids[-1]}/json")[0] == 404


@pytest.fixture
def narrow() -> Iterator[Daemon]:
    """A daemon with few descriptors."""
    daemon = Daemon(Path(tempfile.mkdtemp(prefix="sampan-test-")), prefix=["prlimit", "--nofile=1024:1024"])
    share_vm_cache(daemon)
    daemon.start()
    yield daemon
    end_daemon(daemon)


def test_connections_without_end(narrow: Daemon) -> None:
    """1,024 descriptors: 256 connections. Idle ones go; a process that has them all in use gets no more; others are served."""
    narrow.ok("bootstrap", "busybox")
    narrow.ok("run", "-d", "--name", "box", *NONE, "busybox", "sleep", "100")
    with raw.Held() as held:
        for _ in range(300):
            held.hold(raw.connect(narrow))  # and never a word
        for _ in range(300):
            held.hold(raw.connect(narrow)).sendall(b"GET /version HT")
        assert narrow.ok("ps", "--format", "{{.Names}}") == "box\n"
        assert raw.ask(narrow, "GET", "/version")[0] == 200
    with raw.Held() as held:
        refused = 0
        for _ in range(320):
            sock = held.hold(raw.send(narrow, "POST", "/containers/box/wait"))
            refused += b" 503 " in raw.head(sock)
        assert refused >= 32
        began = time.monotonic()
        assert narrow.ok("ps", "--format", "{{.Names}}") == "box\n"  # another process
        assert narrow.ok("run", "--rm", *NONE, "busybox", "echo", "on") == "on\n"
        assert time.monotonic() - began < 20
    narrow.ok("rm", "-f", "box")


def test_forms_of_go_and_python_clients(daemon: Daemon) -> None:
    for path in ("/containers/json/", "/v1.41/images/json/", "/version/", "/networks/?filters=null", "/volumes/"):
        assert raw.ask(daemon, "GET", path)[0] == 200, path
    assert raw.ask(daemon, "GET", "/no-such-thing/")[0] == 404
    assert raw.ask(daemon, "GET", "//")[0] == 404
    null = base64.urlsafe_b64encode(b"null").decode()
    _, data = raw.ask(daemon, "POST", "/build?remote=", b"", f"X-Registry-Config: {null}\r\n")
    assert b"X-Registry" not in data, data
    assert json.loads(raw.ask(daemon, "GET", "/plugins")[1]) == []


def test_an_answer_to_nonsense_is_docker_json(daemon: Daemon) -> None:
    for request in (b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"GET /%zz HTTP/1.1\r\nHost: x\r\n\r\n", b"G" * 100_000,
                    b"GET /version HTTP/1.1\r\nContent-Length: -1\r\n\r\n"):  # fmt: skip
        with raw.connect(daemon) as sock:
            try:
                sock.sendall(request)
                answer = raw.head(sock)
            except (BrokenPipeError, ConnectionResetError):
                continue
            assert answer[:12] in (b"HTTP/1.1 400", b"HTTP/1.0 400", b"HTTP/1.1 404", b""), (request[:30], answer[:200])
    assert subprocess.run(["sampan", "version"], env=daemon.env, capture_output=True, timeout=30).returncode == 0
