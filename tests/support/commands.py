"""What many command lines have in them."""

from __future__ import annotations

from tests.conftest import Daemon

NONE = ("--network", "none")  # no bridge: it would be one of this machine's


def background(daemon: Daemon, *command: str, name: str = "box", options: tuple[str, ...] = ()) -> str:
    """Starts a container that goes on; returns its id."""
    return daemon.ok("run", "-d", *NONE, "--name", name, *options, "busybox", *(command or ("sleep", "600"))).strip()
