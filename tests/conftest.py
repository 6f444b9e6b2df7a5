"""Fixtures: a real sampand with a busybox image, and the means to drive it."""

from __future__ import annotations

import compileall
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis
import pytest

import sampan
from sampan.client.http import Http, NoEngine
from sampan.linux import namespaces
from sampan.vm import kernel
from tests.vm_differences import DIFFERENCES

BIN = Path(sys.executable).parent
hypothesis.settings.register_profile("tests", deadline=None)  # a busy machine is no fault
hypothesis.settings.load_profile("tests")


@dataclass
class Daemon:
    """A running sampand with its own state."""

    root: Path
    process: subprocess.Popen[bytes] | None = None
    prefix: list[str] = field(default_factory=list)  # what to start it with
    options: list[str] = field(default_factory=list)

    @property
    def socket(self) -> str:
        return f"{self.root}/sampan.sock"

    @property
    def containers_group(self) -> str:
        """The name of the control group that its containers' are in."""
        return f"sampan-{(self.root / 'data/engine-id').read_text()[:8]}"

    @property
    def env(self) -> dict[str, str]:
        path = f"{BIN}:{os.environ['PATH']}"
        return {
            **os.environ,
            "PATH": path,
            "SAMPAN_HOST": f"unix://{self.socket}",
            "SAMPAN_AUTOSTART": "0",
            "DOCKER_HOST": f"unix://{self.socket}",
        }

    def start(self) -> None:
        with open(self.root / "log", "ab") as log:
            self.process = subprocess.Popen(
                [
                    *self.prefix,
                    str(BIN / "sampand"),
                    "-H",
                    f"unix://{self.socket}",
                    "--data-root",
                    f"{self.root}/data",
                    "--exec-root",
                    f"{self.root}/run",
                    *self.options,
                ],
                stdout=log,
                stderr=log,
            )
        for _ in range(1200):  # a minute: it is 1.5 s of processor time, of which a busy machine gives a tenth
            try:
                Http(self.socket).connect().close()
                return
            except NoEngine:
                assert self.process.poll() is None, (self.root / "log").read_text()
                time.sleep(0.05)
        self.process.terminate()
        raise AssertionError((self.root / "log").read_text())

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        assert self.process is not None
        self.process.terminate()
        self.process.wait(15)

    @property
    def http(self) -> Http:
        return Http(self.socket)

    def run(self, *command: str, input: bytes | None = None, timeout: float = 60) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(command, env=self.env, input=input, capture_output=True, timeout=timeout)

    def sampan(self, *args: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
        return self.run("sampan", *args, **options)

    def ok(self, *args: str, **options: Any) -> str:
        done = self.sampan(*args, **options)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def keeper_pid(self, name: str = "sampan-keeper") -> int:
        """The process that keeps the containers; with "sampan-standby" the one that stands by for it."""
        for entry in os.listdir("/proc"):
            if entry.isdecimal():
                try:
                    line = Path(f"/proc/{entry}/cmdline").read_bytes()
                    found = Path(f"/proc/{entry}/comm").read_text().strip()
                    alive = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
                except OSError:
                    continue
                if alive and found == name and f"{self.root}/run/keeper.sock".encode() in line:
                    return int(entry)
        raise AssertionError(f"no {name}")


_NETWORK = os.open("/proc/self/ns/net", os.O_RDONLY)
OUTSIDE = ["nsenter", f"--net=/proc/{os.getpid()}/fd/{_NETWORK}"]  # before a command: where packages can be fetched


def pytest_sessionstart(session: pytest.Session) -> None:
    """All workers but the first (pytest-xdist) have a network namespace of their own: their engines are not in each other's way.

    There is no way out of it, so what has to be fetched is fetched before, or by a command that begins with OUTSIDE.
    """
    workerinput = getattr(session.config, "workerinput", None)
    if workerinput is None:  # the one who starts them
        compileall.compile_dir(
            sampan.__path__[0], quiet=2
        )  # hundreds of daemons and commands would compile what has changed
    worker = (workerinput or {}).get("workerid", "gw0")
    if worker != "gw0" and os.geteuid() == 0 and session.config.option.markexpr != "not root":
        fetch_kernel()
        namespaces.unshare(namespaces.CLONE_NEWNET)
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


# The files that take longest, the longest first: with few workers it is what comes last that makes one wait for the other.
# `make test` says what is slow at its end.
LONGEST = (
    "e2e/test_compare",
    "e2e/test_machines",
    "e2e/test_system_machines",
    "e2e/test_web",
    "e2e/test_cli",
    "e2e/test_cases",
    "e2e/test_security",
    "e2e/test_networks",
    "e2e/test_builds",
    "e2e/test_build_clients",
    "e2e/test_sdk",
    "e2e/test_rootless",
    "faults/test_silence",
    "integration/test_runtime",
    "e2e/test_docker_clients",
    "faults/test_two_engines",
)


@pytest.hookimpl(trylast=True)  # after pytest has put together what shares a fixture
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(f"{item.path.parent.name}/{item.path.stem}", len(ranks)))
    for item in items:
        if {"integration", "e2e", "faults", "security"} & set(item.path.parts):
            item.add_marker(pytest.mark.root)


# Modules whose tests run in containers and in virtual machines alike, but for those in vm_differences.
BOTH = (
    "test_cli",
    "test_cases",
    "test_docker_clients",
    "test_sdk",
    "test_security",
    "test_networks",
    "test_everyday",
    "test_path_races",
)
VM_CACHE = Path(tempfile.gettempdir()) / "sampan-test-vm"  # kernel and templates, for all daemons


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "isolation" in metafunc.fixturenames:
        both = metafunc.module.__name__.rpartition(".")[2] in BOTH and metafunc.function.__name__ not in DIFFERENCES
        metafunc.parametrize("isolation", ["container", "vm"] if both else ["container"], scope="session")


def new_daemon(isolation: str = "container", *options: str) -> Daemon:
    daemon = Daemon(Path(tempfile.mkdtemp(prefix="sampan-test-")), options=["--isolation", isolation, *options])
    share_vm_cache(daemon)
    daemon.start()
    try:
        daemon.ok("bootstrap", "busybox")
        if isolation == "vm":
            daemon.ok("vm", "prepare", timeout=300)  # so that no test has to wait for the first boot
    except BaseException:
        end_daemon(daemon)
        raise
    return daemon


def end_daemon(daemon: Daemon) -> None:
    for row in daemon.http.call("GET", "/sampan/vm/json"):
        daemon.http.call("DELETE", f"/sampan/vm/{row['Name']}?force=1")
    for row in daemon.http.call("GET", "/containers/json?all=1"):
        daemon.http.call("DELETE", f"/containers/{row['Id']}?force=1&v=1")
    daemon.stop()
    shutil.rmtree(daemon.root)


def share_vm_cache(daemon: Daemon) -> None:
    """A kernel and a template take half a minute to make: all daemons of the tests have the same."""
    (daemon.root / "data").mkdir(mode=0o700, exist_ok=True)
    VM_CACHE.mkdir(mode=0o700, exist_ok=True)
    (daemon.root / "data/vm").symlink_to(VM_CACHE)


def fetch_kernel() -> None:
    """Puts the kernel of virtual machines where the tests' engines look for it, if it is not there."""
    VM_CACHE.mkdir(mode=0o700, exist_ok=True)
    with open(VM_CACHE / "tests.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if kernel.find(str(VM_CACHE)) is None:
            kernel.fetch(str(VM_CACHE))


@pytest.fixture(scope="session")
def shared_daemon(isolation: str) -> Iterator[Daemon]:
    daemon = new_daemon(isolation)
    yield daemon
    end_daemon(daemon)


@pytest.fixture
def daemon(shared_daemon: Daemon) -> Iterator[Daemon]:
    """The shared daemon; every container a test leaves behind is removed."""
    yield shared_daemon
    for row in shared_daemon.http.call("GET", "/containers/json?all=1"):
        shared_daemon.http.call("DELETE", f"/containers/{row['Id']}?force=1&v=1")


@pytest.fixture
def own_daemon(isolation: str) -> Iterator[Daemon]:
    """A daemon that the test may kill."""
    daemon = new_daemon(isolation)
    yield daemon
    end_daemon(daemon)


def eventually(check: Callable[[], bool], seconds: float = 10) -> None:
    """Waits until `check` holds."""
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, "did not become true in time"
        time.sleep(0.02)
