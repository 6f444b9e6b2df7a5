"""Lines of containers that go to syslog or the journal: all of them, as those read them, and none is lost with a server or a daemon."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sampan.engine.container import Container
from sampan.engine.log_sinks import Journal
from sampan.engine.model import Config, HostConfig, LogConfig
from sampan.keeper.frames import Frame
from tests.conftest import Daemon, eventually

NONE = ("--network", "none")


class Server:
    """A syslog server that keeps what it gets."""

    def __init__(self, family: int, kind: int, place: Any) -> None:
        self.got: list[bytes] = []
        self.sock = socket.socket(family, kind)
        self.sock.bind(place)
        if kind == socket.SOCK_STREAM:
            self.sock.listen()
        self.stream = kind == socket.SOCK_STREAM
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        try:
            while not self.stream:
                self.got.append(self.sock.recv(1 << 16))
            while True:
                connection, _ = self.sock.accept()
                threading.Thread(target=self._read, args=(connection,), daemon=True).start()
        except OSError:
            return

    def _read(self, connection: socket.socket) -> None:
        while data := connection.recv(1 << 16):
            self.got.append(data)

    @property
    def text(self) -> str:
        return b"\0".join(self.got).decode() if not self.stream else b"".join(self.got).decode()

    def close(self) -> None:
        self.sock.close()


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Server]:
    server = Server(socket.AF_UNIX, socket.SOCK_DGRAM, str(tmp_path / "log"))
    yield server
    server.close()


def run(daemon: Daemon, address: str, *options: str) -> str:
    return daemon.ok("run", "-d", "--name", "talker", *NONE, "--log-driver", "syslog", "--log-opt", f"syslog-address={address}", *options,
                     "busybox", "sh", "-c", "echo out; echo 'the other' >&2; printf unended").strip()  # fmt: skip


def test_lines_go_to_a_local_syslog(daemon: Daemon, local: Server, tmp_path: Path) -> None:
    identifier = run(daemon, f"unixgram://{tmp_path}/log")
    eventually(lambda: len(local.got) == 3)
    assert daemon.ok("logs", "talker").startswith("out\n"), "logs are read here as ever"
    daemon.ok("rm", "talker")
    lines = local.text.split("\0")
    assert re.fullmatch(rf"<30>\w{{3}} [ \d]\d \d\d:\d\d:\d\d {identifier[:12]}\[\d+\]: out", lines[0]), lines
    assert sorted(line.partition(">")[0] + line.rpartition(": ")[2] for line in lines) == [
        "<27the other",
        "<30out",
        "<30unended",
    ]


@pytest.mark.parametrize(
    ("form", "pattern"),
    [
        ("", r"<134>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ \S+ app/talker\[\d+\]: out\n"),
        ("rfc3164", r"<134>\w{3} [ \d]\d \d\d:\d\d:\d\d \S+ app/talker\[\d+\]: out\n"),
        ("rfc5424", r"\d+ <134>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ \S+ app/talker \d+ app/talker - out"),
        ("rfc5424micro", r"\d+ <134>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z \S+ app/talker \d+ app/talker - out"),
    ],
)
def test_formats_over_tcp(daemon: Daemon, form: str, pattern: str) -> None:
    server = Server(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0))
    port = server.sock.getsockname()[1]
    run(daemon, f"tcp://127.0.0.1:{port}", "--log-opt", "tag=app/{{.Name}}", "--log-opt", "syslog-facility=local0",
        "--log-opt", f"syslog-format={form}")  # fmt: skip
    eventually(lambda: "unended" in server.text and "the other" in server.text)
    assert re.search(pattern, server.text), server.text
    daemon.ok("rm", "talker")
    server.close()


def test_a_server_that_comes_later_gets_all(daemon: Daemon, local: Server, tmp_path: Path) -> None:
    local.close()
    (tmp_path / "log").unlink()
    (tmp_path / "log").touch()  # there, and nobody listens
    run(daemon, f"unixgram://{tmp_path}/log")
    eventually(lambda: not daemon.http.call("GET", "/containers/talker/json")["State"]["Running"])
    (tmp_path / "log").unlink()
    server = Server(socket.AF_UNIX, socket.SOCK_DGRAM, str(tmp_path / "log"))
    eventually(lambda: len(server.got) == 3, 20)
    daemon.ok("rm", "talker")
    server.close()


def test_another_daemon_goes_on(own_daemon: Daemon, local: Server, tmp_path: Path) -> None:
    """What is written while no daemon is there is sent by the next, and nothing twice but what was under way."""
    script = (
        "echo before; while [ ! -e /go ]; do sleep 0.1; done; for i in 1 2 3; do echo meanwhile $i; done; exec sleep 60"
    )
    own_daemon.ok("run", "-d", "--name", "talker", *NONE, "--log-driver", "syslog", "--log-opt",
                  f"syslog-address=unixgram://{tmp_path}/log", "busybox", "sh", "-c", script)  # fmt: skip
    eventually(lambda: "before" in local.text)
    root = next(Path(f"/proc/{own_daemon.http.call('GET', '/containers/talker/json')['State']['Pid']}").glob("root"))
    own_daemon.kill()
    (root / "go").touch()
    own_daemon.start()
    eventually(lambda: "meanwhile 3" in local.text)
    assert [local.text.count(f"meanwhile {number}") for number in (1, 2, 3)] == [1, 1, 1]
    own_daemon.ok("rm", "-f", "talker")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("syslog-address=tls://x",), "should be in form proto://address"),
        (("syslog-address=udp://",), "it names no host"),
        (("syslog-address=unix:///no/such",), "no syslog listens on /no/such"),
        (("syslog-address=udp://127.0.0.1", "syslog-facility=nonsense"), "invalid syslog facility: nonsense"),
        (("syslog-address=udp://127.0.0.1", "syslog-format=nonsense"), "Invalid syslog format: nonsense"),
        (("syslog-address=udp://127.0.0.1", "max-size=1m"), "unknown log opt 'max-size' for syslog log driver"),
    ],
)
def test_what_no_syslog_is(daemon: Daemon, options: tuple[str, ...], why: str) -> None:
    given = [word for option in options for word in ("--log-opt", option)]
    done = daemon.sampan("create", "--log-driver", "syslog", *given, "busybox", "true")
    assert (done.returncode, why in done.stderr.decode()) == (1, True), done.stderr


@pytest.mark.skipif(Path("/run/systemd/journal/socket").exists(), reason="there is a journal here")
def test_no_journal(daemon: Daemon) -> None:
    done = daemon.sampan("create", "--log-driver", "journald", "busybox", "true")
    assert b"journald is not enabled on this host" in done.stderr


def test_what_the_journal_gets(tmp_path: Path) -> None:
    server = Server(socket.AF_UNIX, socket.SOCK_DGRAM, str(tmp_path / "socket"))
    options = {"tag": "t/{{.Name}}", "labels": "a.b-c", "env": "N"}
    container = Container("f" * 64, "name", 0, "sha256:" + "e" * 64, "image:1", Config(labels={"a.b-c": "of\nlabel"}, env=("N=1",)),
                          HostConfig(log_config=LogConfig("journald", options)))  # fmt: skip

    async def send() -> None:
        sink = Journal(container, str(tmp_path / "socket"))
        await sink.open()
        await sink.send(Frame(1_700_000_000_123_456_789, 2, b"two words\n"))
        sink.close()

    asyncio.run(send())
    eventually(lambda: len(server.got) == 1)
    fields = server.got[0]
    for line in (b"MESSAGE=two words", b"PRIORITY=3", b"SYSLOG_TIMESTAMP=2023-11-14T22:13:20.123456Z", b"CONTAINER_ID=ffffffffffff",
                 b"CONTAINER_NAME=name", b"CONTAINER_TAG=t/name", b"IMAGE_NAME=image:1", b"SYSLOG_IDENTIFIER=t/name", b"N=1"):  # fmt: skip
        assert b"\n" + line + b"\n" in b"\n" + fields, line
    assert b"A_B_C\n" + (8).to_bytes(8, "little") + b"of\nlabel\n" in fields
    server.close()
