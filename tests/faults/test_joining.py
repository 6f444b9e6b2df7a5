"""T60, S003: whatever enters a container's pid namespace is harmless before it can be seen there.

A container that may trace (SYS_PTRACE) looks at every new process in its pid namespace, in every way there is, while others
are made there. `SAMPAN_SOAK=1`: a minute or 1,000 tries of each kind.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.linux import namespaces
from tests.conftest import Daemon
from tests.faults.exchanging import SOAK, tries
from tests.support.commands import NONE, background

TOKEN, OTHER = "engine-token-5b1c7e", "other-secret-92ad0f"  # of the daemon's environment; of another container's
# The host's interpreter, with which the container can do more than a shell can.
PYTHON = [
    option for path in ("/usr", "/lib", "/lib64") if Path(path).is_dir() for option in ("-v", f"{path}:{path}:ro")
]

ATTACK = """
import ctypes, os, stat, sys
libc = ctypes.CDLL(None)
sentinel, *marks = [word[::-1] for word in sys.argv[1:]]
marks = [mark.encode() for mark in marks]
mine = int(next(l for l in open("/proc/self/status") if l.startswith("CapBnd")).split()[1], 16)
seen, told, tries = 0, set(), 0
print("ready", flush=True)

def through(what):
    if not entering(now) or what in told:
        return  # it is the container's by now
    told.add(what)
    print("THROUGH", what, os.readlink(now + "/exe"), flush=True)

def entering(p):
    return os.readlink(p + "/exe") not in ("/bin/busybox", "/bin/sh", "/bin/ls", "/bin/true", "/bin/tty", "/bin/sleep")

def descriptors(p):
    sockets = 0
    for fd in os.listdir(p + "/fd"):
        info = os.stat(p + "/fd/" + fd)
        sockets += stat.S_ISSOCK(info.st_mode)
        if stat.S_ISDIR(info.st_mode) or stat.S_ISREG(info.st_mode):
            through("fd " + os.readlink(p + "/fd/" + fd))
    if sockets > 1:
        through("sockets")

def directories(p):
    for name in ("root", "cwd"):
        if os.path.exists(f"{p}/{name}{sentinel}") or os.path.exists(f"{p}/{name}/../../../../../..{sentinel}"):
            through(name)

def environment(p):
    if any(mark in open(p + "/environ", "rb").read() for mark in marks):
        through("environ")

def capabilities(p):
    for line in open(p + "/status"):
        if line.startswith(("CapEff", "CapPrm")) and int(line.split()[1], 16) & ~mine:
            through(line)

def memory(p):
    with open(p + "/mem", "rb", 0) as file:
        for line in open(p + "/maps"):
            if line.split()[1].startswith("rw"):
                begin, end = (int(part, 16) for part in line.split()[0].split("-"))
                file.seek(begin)
                content = file.read(min(end - begin, 32 << 20))
                if any(mark in content for mark in marks):
                    through("memory")

def traced(p):
    pid = int(p[6:])
    if libc.ptrace(0x4206, pid, 0, 0) == 0:  # PTRACE_SEIZE, and PTRACE_INTERRUPT
        libc.ptrace(0x4207, pid, 0, 0)
        os.waitpid(pid, 0x40000000)
        try:
            for look in looks[:-1]:
                look(p)
        finally:
            libc.ptrace(17, pid, 0, 0)

looks = [directories, descriptors, environment, capabilities, memory, traced]
while True:
    for name in os.listdir("/proc"):
        p = "/proc/" + name
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            now = p
            if not entering(p):
                continue
            tries += 1
            seen += 1
            if seen in (1, 10, 100):
                print("seen", seen, flush=True)
            looks[tries % len(looks)](p)
        except (OSError, StopIteration, ValueError):
            pass
"""


@pytest.fixture(scope="module")
def engine() -> Iterator[Daemon]:
    """An engine with a secret in its environment, which has started a container with another."""
    made = Daemon(Path(tempfile.mkdtemp(prefix="sampan-test-")), prefix=["env", f"TOKEN={TOKEN}"])
    made.start()
    made.ok("bootstrap", "busybox")
    made.ok("run", "-d", *NONE, "--name", "other", "-e", f"SECRET={OTHER}", "busybox", "sleep", "600")
    made.ok("exec", "-e", f"SECRET={OTHER}", "other", "true")
    yield made
    made.sampan("rm", "-f", "other", "box", "guest")
    made.stop()
    shutil.rmtree(made.root, ignore_errors=True)


@pytest.fixture
def attacker(engine: Daemon, tmp_path: Path) -> Iterator[Daemon]:
    """A container "box" that looks at all that comes."""
    sentinel = tmp_path / "sentinel"
    sentinel.write_text("of the host")
    arguments = [word[::-1] for word in (str(sentinel), TOKEN, OTHER)]
    background(engine, os.path.realpath(sys.executable), "-I", "-S", "-c", ATTACK, *arguments,
               options=("--cap-add", "SYS_PTRACE", *PYTHON))  # fmt: skip
    engine.ok("exec", "box", "/bin/true")
    yield engine
    logs = engine.sampan("logs", "box").stdout.decode()
    engine.ok("rm", "-f", "box")
    assert "ready" in logs
    assert "THROUGH" not in logs, logs


def test_what_is_left_of_an_ending_process_is_not_joined() -> None:
    """A zombie has its pid namespace still, and no others: an exec at that moment ran in it with the host's files."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    try:
        assert os.path.exists(f"/proc/{pid}/ns/pid")
        with pytest.raises(ProcessLookupError):
            namespaces.open_namespaces(pid)
        with pytest.raises(ProcessLookupError):
            namespaces.others(pid)
    finally:
        os.waitpid(pid, 0)


def test_execs(attacker: Daemon) -> None:
    for number in tries(25):
        done = attacker.sampan("exec", *(("-u", "1000", "-w", "/tmp") if number % 2 else ()), "box", "/bin/true")
        assert done.returncode == 0 or SOAK, done.stderr
        if number % 10 == 0:
            attacker.sampan("top", "box")
            attacker.sampan("cp", "box:/etc/passwd", "-")
            attacker.sampan("exec", "-t", "box", "/bin/tty")


def test_containers_in_its_pid_namespace(attacker: Daemon) -> None:
    """Setting one up takes every right and the host's files; it is done where nobody of that namespace looks."""
    options = ("--pid", "container:box", *NONE)
    for _ in tries(8):
        shown = attacker.ok("run", "--rm", *options, "busybox", "sh", "-c", "echo $$; ls /proc/1/task").split()
        assert shown[0] != "1"
        assert shown[1:2] == ["1"]  # its /proc is the other's
    attacker.ok(
        "run",
        "-d",
        "--name",
        "guest",
        *options,
        "--health-cmd",
        "true",
        "--health-interval",
        "1s",
        "busybox",
        "sleep",
        "60",
    )
    for _ in tries(8):
        attacker.ok("exec", "guest", "/bin/true")
        attacker.ok("restart", "-t", "0", "guest")
    attacker.ok("rm", "-f", "guest")
