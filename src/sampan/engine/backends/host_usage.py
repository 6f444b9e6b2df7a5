"""What the host's kernel says that a container uses: the processes of its control group, be they its own or its machine's."""

from __future__ import annotations

import os

from sampan.engine import pools
from sampan.engine.container import Container
from sampan.linux import filetree, pidfd
from sampan.linux.cgroup import Cgroup
from sampan.runtime import usage
from sampan.runtime.usage import Reading
from sampan.runtime.usage_types import Usage


def sample(container: Container) -> Usage:
    """What it uses now, in the members of the API's `stats`."""
    return usage.sample(Cgroup(container.cgroup), _devices(container))


async def readings(containers: list[Container]) -> dict[str, Reading]:
    """What each uses now, by id."""
    return await pools.run("look", _read_all, containers) if containers else {}


def _read_all(containers: list[Container]) -> dict[str, Reading]:
    found = {}
    for container in containers:
        found[container.id] = usage.reading(Cgroup(container.cgroup), _devices(container))
    return found


def _devices(container: Container) -> bytes:
    """The text of its /proc/net/dev: nothing of one that has ended, and nothing of the host's network, which is not its own."""
    if container.host_config.network_mode == "host":
        return b""
    try:
        fd = container.open_process("net/dev")
    except OSError:
        return b""
    try:
        return pidfd.read_all(fd)
    except OSError:
        return b""
    finally:
        os.close(fd)


def allocated(path: str) -> int:
    """Bytes that the files below a directory take on the disk; holes take none, and a file of several names counts once."""
    return filetree.measure(path)[1]
