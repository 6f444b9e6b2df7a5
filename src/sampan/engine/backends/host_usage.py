"""What the host's kernel says that a container uses: the processes of its control group, be they its own or its machine's."""

from __future__ import annotations

from sampan.engine import pools
from sampan.engine.container import Container
from sampan.linux import filetree
from sampan.linux.cgroup import Cgroup
from sampan.runtime import usage
from sampan.runtime.usage import Reading
from sampan.runtime.usage_types import Usage


def sample(container: Container) -> Usage:
    """What it uses now, in the members of the API's `stats`."""
    return usage.sample(Cgroup(container.cgroup), container.state.pid)


async def readings(containers: list[Container]) -> dict[str, Reading]:
    """What each uses now, by id."""
    return await pools.run("look", _read_all, containers) if containers else {}


def _read_all(containers: list[Container]) -> dict[str, Reading]:
    found = {}
    for container in containers:
        host = container.host_config.network_mode == "host"
        found[container.id] = usage.reading(Cgroup(container.cgroup), 0 if host else container.state.pid)
    return found


def allocated(path: str) -> int:
    """Bytes that the files below a directory take on the disk; holes take none, and a file of several names counts once."""
    return filetree.measure(path)[1]
