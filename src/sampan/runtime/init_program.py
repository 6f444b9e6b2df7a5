"""The host's static init program for `--init`."""

from __future__ import annotations

import os

INSIDE = "/sbin/docker-init"  # where a container has it
_CANDIDATES = (
    "/usr/bin/tini-static",
    "/usr/libexec/docker/docker-init",
    "/usr/bin/docker-init",
    "/usr/sbin/docker-init",
    "/usr/libexec/podman/catatonit",
    "/usr/bin/catatonit",
)


def find() -> str | None:
    """Its path, or None when there is none: `apt-get install tini`."""
    return next((path for path in _CANDIDATES if os.path.exists(path)), None)
