"""A machine whose plug can be pulled: an engine in pid, network and mount namespaces of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from sampan.client.http import NoEngine
from tests.conftest import Daemon
from tests.faults.limited import LimitedHttp

_BOX = [
    "unshare",
    "--pid",
    "--net",
    "--mount",
    "--fork",
    "--kill-child=SIGKILL",
    "--mount-proc",
    "tini",
    "-s",
    "--",
    "sh",
    "-ec",
]
# With the group as the root of a cgroup namespace, in which no process need be, its hierarchies are mounted anew.
_JOIN = 'name=$1; shift; for top; do echo $$ >"$top/$name/cgroup.procs"; done; exec unshare --cgroup sh -ec "$inside" sh "$@"'
_INSIDE = """for top; do echo $$ >"$top/cgroup.procs" || true; done
for top; do
    options=$(awk -v top="$top" '$2 == top && $3 == "cgroup" { print $4 }' /proc/mounts | tr , '\n' | grep -vE '^(rw|relatime|nosuid|nodev|noexec)$' | paste -sd,)
    umount "$top"
    if [ "$options" ]; then mount -t cgroup -o "$options" none "$top"; else mount -t cgroup2 none "$top"; fi
done
mount --bind "$boot" /proc/sys/kernel/random/boot_id
ip link set lo up
exec sleep infinity"""


def hierarchies() -> list[str]:
    """Where control groups are mounted, of both versions."""
    rows = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [row[1] for row in rows if row[2] in ("cgroup", "cgroup2")]


def make_groups(name: str) -> None:
    """A control group on every hierarchy, that a machine takes for the root of all."""
    for top in hierarchies():
        for controller in _read(f"{top}/cgroup.controllers").split():
            with contextlib.suppress(OSError):
                Path(f"{top}/cgroup.subtree_control").write_text(f"+{controller}")
        os.makedirs(f"{top}/{name}", exist_ok=True)
        for file in ("cpuset.cpus", "cpuset.mems"):
            if os.path.exists(f"{top}/{file}"):
                Path(f"{top}/{name}/{file}").write_text(_read(f"{top}/{file}"))


def remove_groups(name: str) -> None:
    """Removes them with all below; their processes have been killed."""
    for top in hierarchies():
        for path, _, _ in os.walk(f"{top}/{name}", topdown=False):
            _remove_group(path)


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def children(pid: int) -> list[int]:
    """The processes that a process has started and not yet waited for."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    return found


def descendants(pid: int) -> list[int]:
    """All processes below one."""
    found = children(pid)
    for child in found:  # grows while we walk it
        found += children(child)
    return found


def command_of(pid: int) -> str:
    """What a process was started with; empty for one that is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def name_of(pid: int) -> str:
    """A process's short name; empty for one that is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


class Machine(Daemon):
    """Processes of one engine that share nothing with others but the kernel; sampand can be killed and started anew in it."""

    def boot(self) -> None:
        """Makes the namespaces. Disks that the engine uses have to be mounted before."""
        self.group = f"sampan-machine-{os.getpid()}-{os.urandom(3).hex()}"
        make_groups(self.group)
        boot = self.root / "boot_id"  # of its own: to an engine, another machine's data root is from before a reboot
        boot.write_text(f"{uuid.uuid4()}\n")
        command = [*_BOX, _JOIN, "sh", self.group, *hierarchies()]
        self.box = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, env={**os.environ, "inside": _INSIDE, "boot": str(boot)}
        )
        deadline = time.monotonic() + 20
        while not any(name_of(pid) == "sleep" for pid in descendants(self.box.pid)):
            assert self.box.poll() is None, "no namespaces"
            assert time.monotonic() < deadline, "the namespaces were not made in time"
            time.sleep(0.005)
        self.init = next(pid for pid in descendants(self.box.pid) if name_of(pid) == "sleep")
        self.prefix = self.enter

    @property
    def enter(self) -> list[str]:
        """What starts a command inside."""
        return ["nsenter", "-t", str(self.init), "--pid", "--net", "--mount", "--cgroup", "--wd=/"]

    @property
    def http(self) -> LimitedHttp:
        """A client that does not wait for ever."""
        return LimitedHttp(self.socket)

    @property
    def top(self) -> Path:
        """Its root directory, as we reach it: with the disks that only it has."""
        return Path(f"/proc/{self.init}/root")

    def daemon_pid(self) -> int:
        """sampand's process. Raises LookupError when there is none."""
        assert self.process is not None
        found = children(self.process.pid)
        if not found:
            raise LookupError("no sampand")
        return found[0]

    def named(self, name: str) -> list[int]:
        """Processes of a name: "sampan-keeper"."""
        return [pid for pid in self.everything() if name_of(pid) == name]

    def kill(self) -> None:
        """SIGKILL for sampand alone."""
        assert self.process is not None
        with contextlib.suppress(LookupError, ProcessLookupError):
            os.kill(self.daemon_pid(), signal.SIGKILL)
        self.process.wait(20)

    def stop(self) -> None:
        """SIGTERM for sampand."""
        assert self.process is not None
        os.kill(self.daemon_pid(), signal.SIGTERM)
        self.process.wait(20)

    def everything(self) -> list[int]:
        """All processes of the machine."""
        return [pid for pid in [*self._outside(), *descendants(self.box.pid)] if name_of(pid)]

    def _outside(self) -> list[int]:
        return [] if self.process is None else [self.process.pid, *descendants(self.process.pid)]

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Nothing of the engine runs meanwhile: what it has said by then is all that it has said."""
        stopped: list[int] = []
        try:
            for _ in range(3):  # what was started while we were stopping the others
                for pid in self.everything():
                    if pid not in stopped and pid not in (self.box.pid, self.init):
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGSTOP)
                            stopped.append(pid)
            yield
        finally:
            for pid in reversed(stopped):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def pull_the_plug(self) -> None:
        """Every process ends at once, and the control groups are gone, as after a power cut."""
        self.box.kill()
        self.box.wait()
        if self.process is not None:
            self.process.kill()  # what has entered; it stops itself when what it started is stopped
            self.process.wait()
        remove_groups(self.group)

    def answers(self, seconds: float = 10) -> bool:
        """Whether the daemon answers a ping in time."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                self.http.call("GET", "/containers/json?limit=1")
                return True
            except NoEngine:
                time.sleep(0.02)
        return False


def _remove_group(path: str) -> None:
    for _ in range(100):
        try:
            os.rmdir(path)
            return
        except FileNotFoundError:
            return
        except OSError:  # its processes are on their way out
            time.sleep(0.01)


@contextlib.contextmanager
def directory(prefix: str = "sampan-test-") -> Iterator[Path]:
    """A directory for a machine's socket and logs."""
    path = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def machine(root: Path, *options: str) -> Iterator[Machine]:
    """A booted machine without an engine yet (see start), whose plug is pulled at the end."""
    made = Machine(root, options=list(options))
    try:
        made.boot()
        yield made
    finally:
        made.pull_the_plug()
