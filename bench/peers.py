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
def sampan(root: str) -> Iterator[dict[str, str]]:
    """A daemon of our own with a busybox image."""
    env = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "SAMPAN_HOST": f"unix://{root}/s.sock"}
    daemon = subprocess.Popen(
        [str(BIN / "sampand"), "-H", env["SAMPAN_HOST"], "--data-root", f"{root}/data", "--exec-root", f"{root}/run"]
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
def dockerd(root: str) -> Iterator[dict[str, str]]:
    """Docker's daemon in a network namespace of its own, without touching the host's firewall."""
    env = {**os.environ, "DOCKER_HOST": f"unix://{root}/docker.sock"}
    with open(f"{root}/dockerd.log", "wb") as log:
        daemon = subprocess.Popen(
            ["unshare", "-n", "dockerd", "-H", env["DOCKER_HOST"], "--data-root", f"{root}/docker", "--exec-root",
             f"{root}/docker-run", "--pidfile", f"{root}/docker.pid", "--iptables=false", "--ip6tables=false", "--bridge=none"],
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
