"""A container's record, as the database keeps it, and what lives only while we run."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from sampan.engine.broadcast import Broadcast
from sampan.engine.errors import Conflict, NotFound
from sampan.engine.model import Asked, Config, EndpointSettings, Health, HostConfig, Mount, PublishedPort, State
from sampan.engine.process import Process
from sampan.linux import pidfd
from sampan.linux.cgroup import Cgroup, hierarchies
from sampan.linux.namespaces import members_of
from sampan.oci.runtime_spec import Mount as SpecMount
from sampan.runtime.requests import Overlay

ZERO_TIME = "0001-01-01T00:00:00Z"
_NOTHING_ASKED = Asked()
BEGUN = -1  # the start time of a process that may exist already and that nobody has told us of yet


def timestamp(nanoseconds: int) -> str:
    """RFC 3339 with nanoseconds but for zeros at their end, as Docker has times in JSON (Go's time.RFC3339Nano)."""
    return f"{log_timestamp(nanoseconds)[:-1].rstrip('0').rstrip('.')}Z"


def log_timestamp(nanoseconds: int) -> str:
    """RFC 3339 with all nine digits, as Docker begins lines of a log with, so that they are aligned."""
    seconds, rest = divmod(nanoseconds, 10**9)
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest:09}Z"


def moment_text(nanoseconds: int) -> str:
    """As timestamp; 0, for never, is the year 1."""
    return timestamp(nanoseconds) if nanoseconds else ZERO_TIME


@dataclass(frozen=True, slots=True)
class StepFiles:
    """What a build step has instead of an image's root, and mounts that no container can ask for."""

    overlay: Overlay
    mounts: list[SpecMount]


@dataclass(slots=True)
class Container:
    """One container: what it is, what has become of it, and what lives only while we run."""

    id: str
    name: str
    created: int  # nanoseconds since the epoch
    image: str  # full image id
    image_name: str  # as the user wrote it
    config: Config
    host_config: HostConfig
    state: State = field(default_factory=State)
    mounts: list[Mount] = field(default_factory=list)
    networks: dict[str, EndpointSettings] = field(default_factory=dict)  # by network name
    ports: list[PublishedPort] = field(default_factory=list)  # while it runs
    restart_count: int = 0
    stopped_by_user: bool = False
    start_time: int = 0  # clock ticks: with the pid it names the process for ever; BEGUN while a start is under way
    health: Health | None = None
    owner: str = "root"  # the user who made it
    claim: str = ""  # the tenant that user said it was for
    decision: list[str] = field(default_factory=list)  # why it has the isolation it has
    asked: Asked = _NOTHING_ASKED
    group: str = "/sampan"  # the control group that its own is in; this one in records of engines without an id

    # Only while this process runs.
    broken: str = ""  # why its record is none that can be used (engine.broken)
    rowid: int = 0  # of the record of a broken one
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)  # see exclusive()
    restarts: int = 0  # restarts under way: what ends meanwhile is not the end of it
    process: Process | None = None  # its init, or its machine's, while it runs
    exits: Broadcast[int] = field(default_factory=Broadcast)  # of the exit code of each run
    removals: Broadcast[int] = field(default_factory=Broadcast)  # of the last exit code
    taps: list[int] = field(default_factory=list)  # of its machine, so that nobody waits for the last to be closed
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    removed: bool = False
    to_clear: Cgroup | None = None  # its cgroup, between its end and the removal of that
    written: dict[str, str] = field(default_factory=dict)  # what its hosts and resolv.conf hold
    place: str = ""  # its directory when that is not among the containers' own: a build step's
    step: StepFiles | None = None  # of a build step
    followers: int = 0  # readers of its log; the files stay until they are done

    @contextlib.asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """Holds the lock in which states are checked and changed; what waits for an end does so outside. Raises NotFound."""
        async with self.lock:
            if self.removed:
                raise NotFound(f"No such container: {self.id}")
            self.check_whole()
            yield

    def check_whole(self) -> None:
        """Raises Conflict when its record can't be used: what would change it is not done."""
        if self.broken:
            raise Conflict(
                f"container {self.name} is broken: {self.broken}. Its files are kept: copy what you need "
                f"(sampan export, cp, logs), then remove it with sampan rm -f {self.id[:12]}"
            )

    @property
    def starting(self) -> bool:
        """Whether a start is under way."""
        return self.start_time == BEGUN

    @property
    def running(self) -> bool:
        """Whether its process exists (paused included)."""
        return self.state.running

    @property
    def isolation(self) -> str:
        """Whose kernel it has: "container" (the host's), "vm", or "machine"."""
        return self.host_config.isolation or "container"

    @property
    def tty(self) -> bool:
        """Whether it has a terminal."""
        return self.config.tty

    @property
    def cgroup(self) -> str:
        """The path of its control group below the roots, or below the parent that was asked for."""
        parent = self.host_config.cgroup_parent
        return f"{'/' + parent.strip('/') if parent else self.group}/{self.id}"

    def pids(self) -> list[int]:
        """All its processes: those of its control group or, where there are none, of its pid namespace."""
        if hierarchies().usable:
            return Cgroup(self.cgroup).pids()
        if not self.running:
            return []
        try:
            namespace = self.open_process("ns/pid")
        except OSError:
            return []
        try:
            return members_of(namespace, "pid")
        finally:
            os.close(namespace)

    def open_process(self, name: str, flags: int = os.O_RDONLY) -> int:
        """A descriptor of a file below /proc/PID of its process. Raises ProcessLookupError when that has ended, told of or not."""
        return pidfd.open_file(self.state.pid, self.start_time, name, flags)


def shares_network(host: HostConfig) -> bool:
    """Whether the container has no network of its own to be wired: none, host, or another container's."""
    return is_shared(host.network_mode)


def is_shared(mode: str) -> bool:
    """As shares_network, of a network mode."""
    return mode in ("none", "host") or mode.startswith("container:")
