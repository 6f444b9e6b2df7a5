"""A container's connections and questions to its name server cost the engine a few descriptors and nobody else anything (T73)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.conftest import eventually
from tests.support.neighbours import Neighbour, neighbours

HOLD = """
import socket, sys
kept = []
for _ in range(int(sys.argv[1])):
    s = socket.socket()
    s.settimeout(5)
    try:
        s.connect(('127.0.0.11', 53))
    except OSError as error:
        print(error, file=sys.stderr)
    kept.append(s)
print('ready', flush=True)
sys.stdin.read()
"""
FLOOD = """
import socket, struct, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for number in range(int(sys.argv[1])):
    name = b'%d.example.net' % number
    labels = b''.join(bytes([len(part)]) + part for part in name.split(b'.')) + bytes(1)
    s.sendto(struct.pack('!HHHHHH', number & 0xffff, 0x100, 1, 0, 0, 0) + labels + struct.pack('!HH', 1, 1), ('127.0.0.11', 53))
print('ready', flush=True)
sys.stdin.read()
"""
SILENT = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(('127.0.0.1', 53))
print('ready', flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def engine() -> Iterator[Neighbour]:
    with neighbours("namespace", 1) as (daemon,):
        yield daemon


def descriptors(daemon: Neighbour) -> int:
    assert daemon.process is not None
    return len(os.listdir(f"/proc/{daemon.process.pid}/fd"))


def running(command: list[str]) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n", process.communicate()
    return process


def inside(daemon: Neighbour, name: str, code: str, *args: object) -> subprocess.Popen[bytes]:
    pid = json.loads(daemon.ok("inspect", name))[0]["State"]["Pid"]
    return running(["nsenter", "-t", str(pid), "-n", sys.executable, "-c", code, *map(str, args)])


def resolves(daemon: Neighbour, name: str, other: str) -> None:
    began = time.monotonic()
    assert "Address" in daemon.ok("exec", name, "nslookup", other)
    assert time.monotonic() - began < 5


def test_silent_connections_stop_nobody(engine: Neighbour) -> None:
    engine.ok("network", "create", "front")
    for name in ("one", "two"):
        engine.ok("run", "-d", "--name", name, "--network", "front", "busybox", "sleep", "3600")
    before = descriptors(engine)
    holder = inside(engine, "one", HOLD, 1000)
    try:
        assert descriptors(engine) - before <= 400
        eventually(lambda: descriptors(engine) - before <= 40)
        resolves(engine, "one", "two")
        resolves(engine, "two", "one")
        assert engine.ok("run", "--rm", "--network", "front", "busybox", "nslookup", "one")
    finally:
        holder.kill()
        holder.communicate()
    eventually(lambda: descriptors(engine) <= before + 4, 20)
    engine.ok("rm", "-f", "one", "two")


def test_questions_to_a_silent_server_stop_nobody(engine: Neighbour) -> None:
    server = running([*engine.inside, sys.executable, "-c", SILENT])
    try:
        engine.ok("network", "create", "back")
        for name in ("three", "four"):
            engine.ok(
                "run", "-d", "--name", name, "--network", "back", "--dns", "127.0.0.1", "busybox", "sleep", "3600"
            )
        before = descriptors(engine)
        flood = inside(engine, "three", FLOOD, 3000)
        for _ in range(10):
            assert descriptors(engine) - before <= 120
            resolves(engine, "three", "four")
            resolves(engine, "four", "three")
        flood.kill()
        flood.communicate()
        engine.ok("rm", "-f", "three", "four")
        eventually(lambda: descriptors(engine) <= before + 4, 20)
    finally:
        server.kill()
        server.communicate()
