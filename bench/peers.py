"""The engines a benchmark runs, each with its own state: Sampan, and Docker where it is installed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

BIN = Path(sys.executable).parent


@contextlib.contextmanager
def namespaces() -> Iterator[tuple[int, int]]:
    """A host and a machine outside, as network namespaces on one wire: 10.99.0.1 and 10.99.0.2. Pids that hold them."""
    holders = [subprocess.Popen(["unshare", "-n", "sleep", "7200"]) for _ in range(2)]
    time.sleep(0.3)
    host, outside = (holder.pid for holder in holders)

    def ip(pid: int, command: str) -> None:
        subprocess.run(["nsenter", "-t", str(pid), "-n", "ip", *command.split()], check=True)

    ip(host, f"link add up0 type veth peer name up0 netns {outside}")
    for number, pid in ((1, host), (2, outside)):
        ip(pid, "link set lo up")
        ip(pid, f"addr add 10.99.0.{number}/24 dev up0")
        ip(pid, "link set up0 up")
    ip(host, "route add default via 10.99.0.2")
    try:
        yield host, outside
    finally:
        for holder in holders:
            holder.kill()
            holder.wait()


@contextlib.contextmanager
def sampan(root: str, namespace: int = 0) -> Iterator[dict[str, str]]:
    """A daemon of our own with a busybox image, in the network namespace of a process if one is given."""
    env = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "SAMPAN_HOST": f"unix://{root}/s.sock"}
    prefix = ["nsenter", "-t", str(namespace), "-n"] if namespace else []
    daemon = subprocess.Popen(
        [
            *prefix,
            str(BIN / "sampand"),
            "-H",
            env["SAMPAN_HOST"],
            "--data-root",
            f"{root}/data",
            "--exec-root",
            f"{root}/run",
        ]
    )
    try:
        while not os.path.exists(f"{root}/s.sock"):
            time.sleep(0.05)
        subprocess.run(["sampan", "bootstrap", "busybox"], env=env, check=True, capture_output=True)
        subprocess.run(["sampan", "save", "-o", f"{root}/busybox.tar", "busybox"], env=env, check=True)
        yield env
    finally:
        daemon.terminate()
        daemon.wait()


@contextlib.contextmanager
def dockerd(root: str, namespace: int = 0) -> Iterator[dict[str, str]]:
    """Docker's daemon: in a network namespace of its own without bridges or firewall or, in the namespace
    of a process, with both and without its userland proxy."""
    env = {**os.environ, "DOCKER_HOST": f"unix://{root}/docker.sock"}
    prefix = ["nsenter", "-t", str(namespace), "-n"] if namespace else ["unshare", "-n"]
    network = ["--userland-proxy=false"] if namespace else ["--iptables=false", "--ip6tables=false", "--bridge=none"]
    with open(f"{root}/dockerd.log", "wb") as log:
        daemon = subprocess.Popen(
            [*prefix, "dockerd", "-H", env["DOCKER_HOST"], "--data-root", f"{root}/docker", "--exec-root",
             f"{root}/docker-run", "--pidfile", f"{root}/docker.pid", *network],
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        for _ in range(300):
            if subprocess.run(["docker", "version"], env=env, capture_output=True).returncode == 0:
                break
            time.sleep(0.1)
        else:
            raise RuntimeError(Path(f"{root}/dockerd.log").read_text()[-2000:])
        subprocess.run(["docker", "load", "-i", f"{root}/busybox.tar"], env=env, check=True, capture_output=True)
        yield env
    finally:
        daemon.terminate()
        daemon.wait()
