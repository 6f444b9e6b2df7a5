"""Further processes in a running container: exec sessions and health probes."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from collections import deque
from dataclasses import dataclass, field
from typing import cast

from sampan.engine import spec, vanishing
from sampan.engine.backends.backend import Backends
from sampan.engine.container import Container
from sampan.engine.errors import BadRequest, Conflict, EngineError, NotFound
from sampan.engine.events import Events
from sampan.engine.keeper_link import KeeperLink
from sampan.engine.model import ExecRequest, HostConfig
from sampan.engine.process import Process
from sampan.engine.tasks import Tasks
from sampan.engine.unstarted import Unstarted
from sampan.keeper import protocol
from sampan.keeper.client import KeeperGone, NotDone
from sampan.linux.pidfd import exit_code
from sampan.oci.runtime_spec import Process as SpecProcess
from sampan.runtime.errors import RuntimeFailure
from sampan.runtime.requests import Join

_EVERYTHING = HostConfig(privileged=True)
_NOT_STARTED = 137  # the exit code of one that the keeper did not get to start
_MOST_ENDED = 512  # sessions that have ended and can be inspected still


@dataclass(slots=True)
class Exec:
    """An exec session. `code` is None until it has ended."""

    id: str
    container: Container
    config: ExecRequest
    process: Process | None = None
    code: int | None = None
    running: bool = False
    deserted: bool = False  # whoever started it is gone
    done: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def extra(self) -> tuple[str, ...]:
        """What it has beyond its container."""
        return extra(self.config)


def extra(config: ExecRequest) -> tuple[str, ...]:
    """What an exec asks for beyond what its container has, for the gate."""
    return ("exec --privileged",) if config.privileged else ()


@dataclass(slots=True)
class Streams:
    """Our ends of an exec's standard streams; -1 where there is none. With a tty all are the master."""

    stdin: int
    stdout: int
    stderr: int


class Execs:
    """The exec sessions of all containers, by id."""

    def __init__(self, keeper: KeeperLink, backends: Backends, events: Events, tasks: Tasks) -> None:
        self._keeper, self._backends, self._events, self._tasks = keeper, backends, events, tasks
        self._all: dict[str, Exec] = {}
        self._unstarted = Unstarted()
        self._ended: deque[str] = deque()  # the ids of those in _all that have, oldest first

    def running_in(self, container: Container) -> list[str]:
        """The ids of those that run in a container."""
        return [session.id for session in self._all.values() if session.container is container and session.running]

    def __contains__(self, session: Exec) -> bool:
        return self._all.get(session.id) is session

    def add(self, session: Exec) -> None:
        """Makes a session known."""
        self._all[session.id] = session

    def container_ended(self, container: Container) -> None:
        """What was created in a container that has ended, and never started, is no more."""
        for identifier in self._unstarted.ended(container.id):
            self._all.pop(identifier, None)

    def create(self, container: Container, config: ExecRequest) -> Exec:
        """Prepares an exec. Raises Conflict when the container does not run, BadRequest without a command."""
        if not config.cmd:
            raise BadRequest("No exec command specified")
        if not container.running:
            raise Conflict(f"container {container.id} is not running")
        if container.state.paused:
            raise Conflict(f"Container {container.id} is paused, unpause the container before exec")
        session = Exec(secrets.token_hex(32), container, config)
        self.add(session)
        size = sum(map(len, [*config.cmd, *config.env]))
        for identifier in self._unstarted.add(session.id, container.id, size):
            self._all.pop(identifier, None)
        self._events.announce(container, f"exec_create: {' '.join(config.cmd)}", execID=session.id)
        return session

    def find(self, identifier: str) -> Exec:
        """An exec by id. Raises NotFound."""
        session = self._all.get(identifier)
        if session is None:
            raise NotFound(f"No such exec instance: {identifier}")
        return session

    async def start(self, session: Exec) -> Streams:
        """Starts the process. Raises RuntimeFailure when its program can't run, Conflict when started before.

        A caller that goes away meanwhile leaves a process without streams, whose end is noticed.
        """
        check_startable(session)
        session.running = True
        self._unstarted.take(session.id)
        try:
            with vanishing.named(session.container):
                return await self._tasks.carry(self._start(session))
        except asyncio.CancelledError:
            session.deserted = True
            raise

    async def _start(self, session: Exec) -> Streams:
        container, config = session.container, session.config
        tty = config.tty
        options = spec.security_options(container.host_config)
        privileged = config.privileged or container.host_config.privileged
        sets, _ = spec.capability_sets(container.host_config)
        seccomp = spec.seccomp_program(options, privileged, sets)
        wanted = self._backends.of(container).exec_request(container, _process(session), seccomp)
        theirs: list[int] = []
        streams = Streams(-1, -1, -1)
        if not tty:
            theirs, streams = _pipes(config)
        try:
            descriptors = dict(zip(protocol.STDIO, theirs, strict=True)) if theirs else {}
            request = protocol.Exec(session.id, cast(Join, wanted.request), descriptors)
            process = await self._keeper.make(request, wanted.longest, lone=True)
        except BaseException as error:
            code = error.exit_code if isinstance(error, RuntimeFailure) else _NOT_STARTED
            session.running = False
            self._concluded(session, code)
            _close(streams)
            if isinstance(error, NotDone) and wanted.late is not None:
                raise wanted.late from None
            raise
        finally:
            for fd in theirs:
                os.close(fd)
        session.process = process
        rest = process.take()
        if tty:
            streams = Streams(rest["terminal"], rest["terminal"], -1)
        self._tasks.beside(self._watch(session, process))
        if session.deserted:
            _close(streams)
        self._events.announce(container, f"exec_start: {' '.join(config.cmd)}", execID=session.id)
        return streams

    async def _watch(self, session: Exec, process: Process) -> None:
        """Notes its end when that comes."""
        exit = await process.wait()
        session.running = False
        self._concluded(session, exit_code(exit.status))
        process.close()
        self._events.announce(session.container, "exec_die", execID=session.id, exitCode=str(session.code))
        process.acknowledge()

    def _concluded(self, session: Exec, code: int) -> None:
        """Notes its exit code; of those that have ended only the last are kept."""
        session.code = code
        session.done.set()
        self._ended.append(session.id)
        if len(self._ended) > _MOST_ENDED:
            self._all.pop(self._ended.popleft(), None)

    def kill(self, session: Exec, number: int = signal.SIGKILL) -> None:
        """Signals the exec's process and all it has started; nothing else of the container. Raises Conflict when it does not run."""
        if not session.running or session.process is None:
            raise Conflict(f"exec {session.id} is not running")
        self._backends.of(session.container).signal_exec(session.container, session.process, number)

    async def resize(self, identifier: str, rows: int, columns: int) -> None:
        """Sets the terminal size of a container or exec, by id."""
        try:
            await self._keeper.call(protocol.Resize(identifier, rows, columns))
        except RuntimeFailure as error:
            raise Conflict(str(error)) from error

    async def run_probe(self, container: Container, args: list[str], timeout: float) -> tuple[int, bytes]:
        """Runs a health probe. Returns (exit code, output); a probe over time is killed and gives -1."""
        config = ExecRequest(cmd=tuple(args), attach_stdout=True, attach_stderr=True)
        try:
            session = self.create(container, config)
            streams = await self.start(session)
        except (RuntimeFailure, EngineError, KeeperGone) as error:
            return 1, str(error).encode()
        output = bytearray()
        loop = asyncio.get_running_loop()

        def read(fd: int) -> None:
            data = os.read(fd, 4096)
            if data:
                output.extend(data[: max(0, 8192 - len(output))])
            else:
                loop.remove_reader(fd)

        outputs = (streams.stdout, streams.stderr)
        for fd in outputs:
            os.set_blocking(fd, False)
            loop.add_reader(fd, read, fd)
        try:
            await asyncio.wait_for(session.done.wait(), timeout)
            code = session.code if session.code is not None else -1
        except TimeoutError:
            if session.running:
                self.kill(session)
            code = -1
            output[:] = f"Health check exceeded timeout ({timeout:g}s)".encode()
        finally:
            for fd in outputs:
                loop.remove_reader(fd)
            _close(streams)
        return code, bytes(output)


def check_startable(session: Exec) -> None:
    """Raises Conflict when the exec has run before or its container is gone."""
    if session.running or session.code is not None:
        raise Conflict(f"exec {session.id} has already run")
    if not session.container.running:
        raise Conflict(f"container {session.container.id} is not running")


def _process(session: Exec) -> SpecProcess:
    container, config = session.container, session.config
    privileged = config.privileged
    sets, explicit = spec.capability_sets(_EVERYTHING if privileged else container.host_config)
    environment = spec.environment(container)
    names = {item.partition("=")[0] for item in config.env}
    environment = [item for item in environment if item.partition("=")[0] not in names]
    if config.tty and "TERM" not in names:
        environment.append("TERM=xterm")
    process: SpecProcess = {
        "terminal": config.tty,
        "args": list(config.cmd),
        "env": environment + list(config.env),
        "cwd": config.working_dir or container.config.working_dir or "/",
        "user": {
            "username": config.user or container.config.user,
            "additionalGroups": list(container.host_config.additional_groups),
        },
        "capabilities": {"bounding": sets, "effective": sets, "permitted": sets, "nonRootAmbient": explicit},
        "noNewPrivileges": spec.security_options(container.host_config).get("no-new-privileges") == "true",
    }
    process["rlimits"] = spec.rlimits(container.host_config)
    rows, columns = config.console_size or (0, 0)
    if rows and columns:
        process["consoleSize"] = {"height": rows, "width": columns}
    return process


def _pipes(config: ExecRequest) -> tuple[list[int], Streams]:
    if config.attach_stdin:
        stdin, ours = os.pipe()
    else:
        stdin, ours = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC), -1
    pair: list[int] = []
    theirs = [stdin]
    for wanted in (config.attach_stdout, config.attach_stderr):
        if wanted:
            reader, writer = os.pipe()
        else:
            reader, writer = -1, os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
        pair.append(reader)
        theirs.append(writer)
    return theirs, Streams(ours, pair[0], pair[1])


def _close(streams: Streams) -> None:
    for fd in {streams.stdin, streams.stdout, streams.stderr} - {-1}:
        os.close(fd)
