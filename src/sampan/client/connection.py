"""Which engine to talk to, and starting one when none listens."""

from __future__ import annotations

import os
import sys
import time

from sampan import paths
from sampan.client.http import Http, NoEngine


def socket_path(host: str | None = None) -> str:
    """The path in `host`, else in SAMPAN_HOST, else the default. (DOCKER_HOST names Docker's engine, not ours.)"""
    host = host or os.environ.get("SAMPAN_HOST") or f"unix://{paths.socket()}"
    if not host.startswith("unix://"):
        raise NoEngine(f"{host}: only unix:// sockets")
    return host.removeprefix("unix://")


def engine(path: str | None = None) -> Http:
    """A connection to the engine; starts `sampand` when none listens, for the machine as root, else for the user.

    With SAMPAN_AUTOSTART=0 it does not. Raises NoEngine.
    """
    path = path or socket_path()
    http = Http(path)
    try:
        http.open()
    except NoEngine:
        if os.environ.get("SAMPAN_AUTOSTART") == "0":
            raise
        _start_daemon(path)
        http.open()
    return http


def _start_daemon(path: str) -> None:
    import subprocess

    options = []
    root = os.environ.get("SAMPAN_ROOT")
    if root:
        options = ["--data-root", f"{root}/data", "--exec-root", f"{root}/run"]
    directory = os.path.dirname(path)
    os.makedirs(directory, 0o755 if os.geteuid() == 0 else 0o700, exist_ok=True)
    code = "from sampan.api.daemon import main; main()"
    with open(f"{directory}/sampand.log", "ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-c", code, "-H", f"unix://{path}", *options],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd="/",
        )
    for _ in range(600):
        try:
            Http(path).connect().close()
            return
        except NoEngine:
            if child.poll() is not None:
                break
            time.sleep(0.02)
    raise NoEngine(f"sampand did not start: see {directory}/sampand.log")
