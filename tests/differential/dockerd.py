"""A real dockerd in mount, pid and network namespaces of its own, on a root of its own where there is one.

`SAMPAN_DOCKERD_ROOT` names the root of a Debian with docker.io in it; without it, it is the machine's own.
Nothing of it stays: its control groups are removed, its mounts and interfaces end with its namespaces.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

GROUP = "differential"

# Run as PID 1 of the namespaces: $1 the root, $2 the directory that both see under its own name, $3 the socket.
INSIDE = """
set -eu
root=$1 shared=$2
mount --make-rprivate /
ip link set lo up
if [ "$root" = / ]; then root=$shared/root; mkdir -p $root; mount --rbind / $root; else mount --bind $root $root; fi
mount -t proc proc $root/proc
mount -t sysfs sysfs $root/sys
mount --rbind /sys/fs/cgroup $root/sys/fs/cgroup
mount -t tmpfs -o mode=755 dev $root/dev
for node in "null 3" "zero 5" "full 7" "random 8" "urandom 9"; do mknod -m 666 $root/dev/${node% *} c 1 ${node#* }; done
mknod -m 666 $root/dev/tty c 5 0
mkdir $root/dev/pts $root/dev/shm $root/dev/mqueue
mount -t devpts -o newinstance,ptmxmode=666 devpts $root/dev/pts
ln -s pts/ptmx $root/dev/ptmx
ln -s /proc/self/fd $root/dev/fd
mount -t tmpfs run $root/run
mount -t tmpfs tmp $root/tmp
mkdir -p $root$shared
mount --bind $shared $root$shared
exec chroot $root /usr/sbin/dockerd -H unix://$3 --data-root $shared/data --exec-root /run/docker --pidfile /run/docker.pid \\
    --cgroup-parent /GROUP --log-level warn --exec-opt native.cgroupdriver=cgroupfs
"""


def root() -> str | None:
    """Where dockerd is: a root directory, or None where there is none."""
    given = os.environ.get("SAMPAN_DOCKERD_ROOT")
    for place in [given] if given else ["/"]:
        if os.access(f"{place}/usr/sbin/dockerd", os.X_OK):
            return place
    return None


@contextmanager
def running(shared: Path) -> Iterator[str]:
    """The path of its socket, while it runs."""
    place = root()
    assert place is not None
    group = f"{GROUP}-{os.getpid()}"
    state = Path(tempfile.mkdtemp(prefix="dockerd-", dir=shared))
    socket = f"{shared}/docker.sock"
    script = INSIDE.replace("GROUP", group)
    with open(shared / "dockerd.log", "ab") as log:
        process = subprocess.Popen(
            ["unshare", "--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--kill-child", "sh", "-c", script, "sh", place, str(shared), socket],
            stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    try:
        _wait(process, socket, shared / "dockerd.log")
        yield socket
    finally:
        _end(process)
        _clear(group)
        shutil.rmtree(state, ignore_errors=True)


def _wait(process: subprocess.Popen[bytes], socket: str, log: Path) -> None:
    import socket as sockets

    for _ in range(600):
        assert process.poll() is None, log.read_text()[-3000:]
        with sockets.socket(sockets.AF_UNIX) as there:
            try:
                there.connect(socket)
                return
            except OSError:
                time.sleep(0.1)
    raise AssertionError(log.read_text()[-3000:])


def _end(process: subprocess.Popen[bytes]) -> None:
    """`unshare` passes no signal on: its child, PID 1 of the namespace, is asked to end, and takes all others along."""
    try:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for child in children:
            os.kill(int(child), signal.SIGTERM)
        process.wait(30)
    except (OSError, subprocess.TimeoutExpired):
        process.kill()  # --kill-child
        process.wait()


def _clear(group: str) -> None:
    for _ in range(50):
        left = list(Path("/sys/fs/cgroup").glob(f"*/{group}*")) + list(Path("/sys/fs/cgroup").glob(f"{group}*"))
        if not left:
            return
        for top in left:
            for path, _, _ in os.walk(top, topdown=False):
                try:
                    os.rmdir(path)
                except OSError:
                    pass
        time.sleep(0.1)
