"""A backend: how one kind of isolation does what every container is asked for."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import IO, NamedTuple, Protocol

from sampan.engine import stats
from sampan.engine.container import Container
from sampan.engine.errors import EngineError
from sampan.engine.network.links import Links
from sampan.engine.process import Process
from sampan.images.root_fs import Stat
from sampan.keeper.client import LONGEST
from sampan.keeper.protocol import Descriptors
from sampan.linux.spec_types import Resources
from sampan.oci.runtime_spec import Process as SpecProcess
from sampan.runtime.requests import Join, Launch
from sampan.runtime.usage import Reading
from sampan.runtime.usage_types import Usage
from sampan.vm.machine_types import ExecRequest


@dataclass(slots=True)
class StartRequest:
    """What the keeper is asked to start a container with. `longest`: seconds that it may take."""

    request: Launch
    descriptors: Descriptors
    longest: float = LONGEST


@dataclass(slots=True)
class JoinRequest:
    """What the keeper is asked to start a further process with. `late`: the error when that takes longer than `longest` seconds."""

    request: Join | ExecRequest
    longest: float = LONGEST
    late: EngineError | None = None


class ExitDetails(NamedTuple):
    """What is known of an end beside its exit code: whether memory ran out, and why its machine ended or ""."""

    out_of_memory: bool
    error: str = ""


class RootFiles(Protocol):
    """The files in a container's root, for threads. Each raises OSError, ImageError, RuntimeFailure, EngineError."""

    def stat(self, container: Container, path: str) -> Stat:
        """Its "size", "mode" (st_mode), "mtime" (nanoseconds) and "link"."""

    def get(self, container: Container, path: str, out: IO[bytes], top: str) -> None:
        """Writes it as a tar whose members start with `top`."""

    def put(
        self, container: Container, path: str, stream: IO[bytes], keep_type: bool, user: str, read_only: bool
    ) -> None:
        """Extracts a tar into a directory; with `user` everything is theirs. Raises Forbidden for one that is `read_only`."""

    def export(self, container: Container, out: IO[bytes]) -> None:
        """Writes all of it, without what is mounted, as a tar."""

    def changes(self, container: Container) -> list[tuple[str, int]]:
        """Path and kind (0 modified, 1 added, 2 deleted) of what is not as in its image."""

    def layer(self, container: Container, out: IO[bytes]) -> None:
        """Writes the same as a layer of an image."""


class Backend(Links, Protocol):
    """One kind of isolation: the host's kernel, a microVM with the container in it, a VM with a system of its own."""

    files: RootFiles

    # before it runs

    async def make_directory(self, container: Container, path: str) -> None:
        """Its root has a directory, at the latest when somebody looks. Raises OSError, ImageError."""

    def created(self, container: Container) -> None:
        """It has been made, and will probably be started soon."""

    # a run

    async def prepare(self, container: Container, given: list[int]) -> StartRequest:
        """Makes what a run needs, its network among it. Descriptors in `given` are the caller's to close, whatever happens.

        Raises RuntimeFailure, EngineError, NetworkError, VmError, OSError.
        """

    def started(self, container: Container) -> None:
        """A run has begun."""

    def exit_details(self, container: Container) -> ExitDetails:
        """Called once when a run has ended; what it left for us is removed."""

    def release(self, container: Container) -> None:
        """Takes back what prepare() made, of a run that has ended or did not begin."""

    # what runs

    async def freeze(self, container: Container, frozen: bool) -> None:
        """Stops everything in it where it is, or lets it go on. Raises OSError, EngineError."""

    async def settle_pause(self, container: Container, paused: bool) -> bool:
        """After a start of the daemon: what is frozen and is not recorded as paused goes on. Returns whether it is paused now.
        Raises OSError, EngineError."""

    def may_have_ended(self, container: Container) -> bool:
        """Whether an operation that failed may have done so because the run is ending, of which we have not been told."""

    async def kill_inside(self, container: Container) -> bool:
        """Kills its init in a way that leaves its disk in order; whether that can be. Raises EngineError, OSError."""

    def check_update(self, container: Container, changes: Collection[str]) -> None:
        """Whether these fields of its limits, and "restart_policy", can be changed. Raises BadRequest."""

    async def update(self, container: Container, resources: Resources) -> list[str]:
        """Brings new limits to the kernels that enforce them, all or none; returns warnings.
        Raises EngineError, OSError, LimitRefused."""

    # what it uses

    async def usage(self, container: Container) -> Usage:
        """What it uses now, in the members of the API's `stats`. Raises EngineError when a guest does not answer."""

    async def readings(self, containers: list[Container]) -> dict[str, Reading]:
        """What each of these uses now, by id; those that do not say so in time are left out."""

    async def processes(self, container: Container, arguments: str) -> stats.Processes:
        """Titles and processes, by the `arguments` of ps(1). Raises BadRequest, EngineError."""

    def guest_memory(self, container: Container) -> int:
        """Bytes of memory that its guest was given; 0 without one."""

    def shared_footprint(self, container: Container) -> dict[str, int]:
        """Bytes on the disk that are there once for all containers like it, by what they are. Blocks."""

    # execs

    def exec_request(self, container: Container, process: SpecProcess, seccomp: str | None) -> JoinRequest:
        """What starts a further process. Raises EngineError where there can be none."""

    def signal_exec(self, container: Container, process: Process, number: int) -> None:
        """Signals a further process and all that it has started, and nothing else."""


class Backends:
    """The backends there are, by isolation."""

    def __init__(self, namespaces: Backend, microvm: Backend, system_vm: Backend) -> None:
        self._namespaces = namespaces
        self._others = {"vm": microvm, "machine": system_vm}

    def of(self, container: Container) -> Backend:
        """The backend of a container."""
        return self._others.get(container.isolation, self._namespaces)

    def split(self, containers: Iterable[Container]) -> Iterator[tuple[Backend, list[Container]]]:
        """Containers by their backends."""
        every = list(containers)
        for backend in (self._namespaces, *self._others.values()):
            yield backend, [container for container in every if self.of(container) is backend]
