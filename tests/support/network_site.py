"""A host with an engine and a machine outside of it, each a network namespace, on a wire; servers and clients in any of them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Daemon, end_daemon, eventually

HOST, OUTSIDE = "10.99.0.1", "10.99.0.2"
HOST6, OUTSIDE6 = "fd99::1", "fd99::2"
# Run in a network namespace: a server of TCP and UDP that answers with the client's address, and a client.
SERVER = """
import socket, sys, threading
port = int(sys.argv[1])
def tcp(family, address):
    s = socket.socket(family); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    s.bind((address, port)); s.listen(50)
    while True:
        c, peer = s.accept(); c.sendall(peer[0].encode()); c.close()
def udp(family, address):
    s = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    s.bind((address, port))
    while True:
        d, peer = s.recvfrom(2000); s.sendto(peer[0].encode(), peer)
for family, address in ((socket.AF_INET, '0.0.0.0'), (socket.AF_INET6, '::')):
    for work in (tcp, udp): threading.Thread(target=work, args=(family, address)).start()
print('ready', flush=True)
"""
CLIENT = """
import socket, sys
kind, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
family = socket.AF_INET6 if ':' in address else socket.AF_INET
s = socket.socket(family, socket.SOCK_STREAM if kind == 'tcp' else socket.SOCK_DGRAM)
s.settimeout(float(sys.argv[4]))
try:
    s.connect((address, port))
    if kind == 'udp': s.send(b'x')
    print(s.recv(100).decode())
except OSError as error:
    print('no')
"""


class Site:
    """A host with a daemon in a namespace, and a machine outside of it on a wire."""

    def __init__(self) -> None:
        self._holders: list[subprocess.Popen[bytes]] = []
        self.host, self.outside = self._namespace(), self._namespace()
        self.ip(self.host, f"link add up0 mtu 1400 type veth peer name up0 mtu 1400 netns {self.outside}")
        for pid, address, address6 in ((self.host, HOST, HOST6), (self.outside, OUTSIDE, OUTSIDE6)):
            self.ip(pid, "link set lo up")
            self.ip(pid, f"addr add {address}/24 dev up0")
            self.ip(pid, f"addr add {address6}/64 dev up0 nodad")
            self.ip(pid, "link set up0 up")
        self.ip(self.host, f"route add default via {OUTSIDE}")
        self.daemon = self.new_daemon()
        self.daemon.start()
        self.daemon.ok("bootstrap", "busybox")

    def new_daemon(self) -> Daemon:
        return NamespacedDaemon(Path(tempfile.mkdtemp(prefix="sampan-test-")), self.host)

    def _namespace(self) -> int:
        holder = subprocess.Popen(["unshare", "--net", "sleep", "3600"])
        self._holders.append(holder)
        mine = os.readlink("/proc/self/ns/net")
        eventually(lambda: os.readlink(f"/proc/{holder.pid}/ns/net") != mine)
        return holder.pid

    @staticmethod
    def ip(pid: int, command: str) -> str:
        done = subprocess.run(
            ["nsenter", "-t", str(pid), "-n", "ip", *command.split()], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (command, done.stderr)
        return done.stdout

    def python(self, pid: int, code: str, *args: object) -> list[str]:
        return ["nsenter", "-t", str(pid), "-n", sys.executable, "-c", code, *map(str, args)]

    def reach(self, pid: int, kind: str, address: str, port: int, timeout: float = 1.5) -> str:
        """The address that the server saw, or "no"."""
        command = self.python(pid, CLIENT, kind, address, port, timeout)
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    @contextlib.contextmanager
    def server(self, pid: int, port: int) -> Iterator[None]:
        process = subprocess.Popen(self.python(pid, SERVER, port), stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        try:
            yield
        finally:
            process.kill()
            process.wait()

    def container(self, name: str, *options: str) -> int:
        self.daemon.ok("run", "-d", "--name", name, *options, "busybox", "sleep", "3600")
        return self.pid(name)

    def pid(self, name: str) -> int:
        return int(json.loads(self.daemon.ok("inspect", name))[0]["State"]["Pid"])

    def address(self, name: str, network: str = "bridge", key: str = "IPAddress") -> str:
        return str(json.loads(self.daemon.ok("inspect", name))[0]["NetworkSettings"]["Networks"][network][key])

    @property
    def engine(self) -> str:
        """What of the engine's id is in the names of what it makes."""
        return str(self.daemon.http.call("GET", "/info")["ID"])[:8]

    @property
    def table(self) -> str:
        return f"sampan-{self.engine}"

    def links(self) -> list[str]:
        rows = json.loads(self.ip(self.host, "-json link show"))
        return sorted(row["ifname"] for row in rows)

    def close(self) -> None:
        end_daemon(self.daemon)
        for holder in self._holders:
            holder.kill()
            holder.wait()


class NamespacedDaemon(Daemon):
    """A sampand in a network namespace."""

    def __init__(self, root: Path, pid: int) -> None:
        super().__init__(root)
        self.prefix = ["nsenter", "-t", str(pid), "-n"]


@pytest.fixture(scope="module")
def whole_site() -> Iterator[Site]:
    site = Site()
    yield site
    site.close()


@pytest.fixture
def site(whole_site: Site) -> Iterator[Site]:
    """The site; containers and networks a test leaves behind are removed."""
    yield whole_site
    http = whole_site.daemon.http
    for row in http.call("GET", "/containers/json?all=1"):
        http.call("DELETE", f"/containers/{row['Id']}?force=1&v=1")
    http.call("POST", "/networks/prune")
