"""Further processes in a running container: exec sessions and health probes."""

from __future__ import annotations

import asyncio
import functools
import os
import secrets
import signal
from dataclasses import dataclass, field
from typing import cast

from sampan.engine import ends, shims, spec, vanishing
from sampan.engine.container import Container
from sampan.engine.engine import Engine
from sampan.engine.errors import BadRequest, Conflict, EngineError, NotFound
from sampan.engine.model import ExecRequest, HostConfig
from sampan.keeper import protocol
from sampan.keeper.client import LONGEST, KeeperGone, NotDone
from sampan.keeper.protocol import End
from sampan.linux import pidfd
from sampan.linux.pidfd import exit_code
from sampan.oci.runtime_spec import Process
from sampan.runtime.errors import RuntimeFailure
from sampan.runtime.requests import Join

_EVERYTHING = HostConfig(privileged=True)
_NOT_STARTED = 137  # the exit code of one that the keeper did not get to start
_GUEST_BEGINS = 20.0  # seconds that a guest may take to begin an exec


@dataclass(slots=True)
class Exec:
    """An exec session. `code` is None until it has ended."""

    id: str
    container: Container
    config: ExecRequest
    pid: int = 0
    code: int | None = None
    running: bool = False
    pidfd: int = -1
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


def create(engine: Engine, container: Container, config: ExecRequest) -> Exec:
    """Prepares an exec. Raises Conflict when the container does not run, BadRequest without a command."""
    if not config.cmd:
        raise BadRequest("No exec command specified")
    if not container.running:
        raise Conflict(f"container {container.id} is not running")
    if container.state.paused:
        raise Conflict(f"Container {container.id} is paused, unpause the container before exec")
    session = Exec(secrets.token_hex(32), container, config)
    engine.execs[session.id] = session
    size = sum(map(len, [*config.cmd, *config.env]))
    for identifier in engine.unstarted.add(session.id, container.id, size):
        engine.execs.pop(identifier, None)
    engine.events.announce(container, f"exec_create: {' '.join(config.cmd)}", execID=session.id)
    return session


def find(engine: Engine, identifier: str) -> Exec:
    """An exec by id. Raises NotFound."""
    session = engine.execs.get(identifier)
    if session is None:
        raise NotFound(f"No such exec instance: {identifier}")
    assert isinstance(session, Exec)
    return session


def _process(session: Exec) -> Process:
    container, config = session.container, session.config
    privileged = config.privileged
    sets, explicit = spec.capability_sets(_EVERYTHING if privileged else container.host_config)
    environment = spec.environment(container)
    names = {item.partition("=")[0] for item in config.env}
    environment = [item for item in environment if item.partition("=")[0] not in names]
    if config.tty and "TERM" not in names:
        environment.append("TERM=xterm")
    process: Process = {
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


def check_startable(session: Exec) -> None:
    """Raises Conflict when the exec has run before or its container is gone."""
    if session.running or session.code is not None:
        raise Conflict(f"exec {session.id} has already run")
    if not session.container.running:
        raise Conflict(f"container {session.container.id} is not running")


async def start(engine: Engine, session: Exec) -> Streams:
    """Starts the process. Raises RuntimeFailure when its program can't run, Conflict when started before.

    A caller that goes away meanwhile leaves a process without streams, whose end is noticed.
    """
    check_startable(session)
    session.running = True
    engine.unstarted.take(session.id)
    try:
        with vanishing.named(session.container):
            return await engine.carry(_start(engine, session))
    except asyncio.CancelledError:
        session.deserted = True
        raise


async def _start(engine: Engine, session: Exec) -> Streams:
    container, config = session.container, session.config
    tty = config.tty
    options = spec.security_options(container.host_config)
    privileged = config.privileged or container.host_config.privileged
    sets, _ = spec.capability_sets(container.host_config)
    seccomp = spec.seccomp_program(options, privileged, sets)
    if container.own_kernel:
        request = engine.machines.exec_request(container, _process(session), seccomp)
    else:
        request = {
            "pid": container.state.pid,
            "start_time": container.start_time,
            "cgroup": container.cgroup,
            "process": _process(session),
            "seccomp": seccomp,
        }
    theirs: list[int] = []
    streams = Streams(-1, -1, -1)
    if not tty:
        theirs, streams = _pipes(config)
    try:
        longest = _GUEST_BEGINS if container.own_kernel else LONGEST
        descriptors = dict(zip(protocol.STDIO, theirs, strict=True)) if theirs else {}
        answer = await engine.keeper.call(protocol.Exec(session.id, cast(Join, request), descriptors), longest)
    except BaseException as error:
        code = error.exit_code if isinstance(error, RuntimeFailure) else _NOT_STARTED
        session.running, session.code = False, code
        session.done.set()
        _close(streams)
        if isinstance(error, NotDone) and container.own_kernel:
            raise shims.silent(container.name, _GUEST_BEGINS) from None
        raise
    finally:
        for fd in theirs:
            os.close(fd)
    session.pid, session.pidfd = answer.task.pid, answer.descriptors["process"]
    if tty:
        terminal = answer.descriptors["terminal"]
        streams = Streams(terminal, terminal, -1)
    if session.code is not None:  # its end was told before this
        os.close(session.pidfd)
        session.pidfd = -1
    else:
        ends.watch(session.pidfd, functools.partial(_ended, engine, session))
    if session.deserted:
        _close(streams)
    engine.events.announce(container, f"exec_start: {' '.join(config.cmd)}", execID=session.id)
    return streams


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


def exited(engine: Engine, end: End) -> None:
    """Called when an exec's process has ended."""
    session = engine.execs.get(end.id)
    if session is not None:
        _ended(engine, session, end.status)


def _ended(engine: Engine, session: Exec, status: int) -> None:
    """The keeper has told, or it has not and the process is gone: once."""
    if session.code is not None:
        return
    session.code, session.running = exit_code(status), False
    if session.pidfd >= 0:
        os.close(session.pidfd)
        session.pidfd = -1
    session.done.set()
    engine.events.announce(session.container, "exec_die", execID=session.id, exitCode=str(session.code))
    finished = [item for item in engine.execs.values() if item.code is not None]
    for old in finished[:-512]:
        del engine.execs[old.id]


def kill(session: Exec, number: int = signal.SIGKILL) -> None:
    """Signals the exec's process and all it has started; nothing else of the container.

    Descendants are found by parent and, when their parent has gone, by session (P041).
    """
    if not session.running or session.pidfd < 0:
        raise Conflict(f"exec {session.id} is not running")
    if session.container.own_kernel:
        signal.pidfd_send_signal(session.pidfd, number)  # a relay: passes it on, or has all killed by its end
        return
    for _ in range(20 if number == signal.SIGKILL else 1):
        members = pidfd.signal_members(lambda: pidfd.family(session.pid, session.container.pids()), number)
        if not [pid for pid in members if pidfd.state(pid) not in (None, "Z", "X")]:
            return


async def resize(engine: Engine, identifier: str, rows: int, columns: int) -> None:
    """Sets the terminal size of a container or exec, by id."""
    try:
        await engine.keeper.call(protocol.Resize(identifier, rows, columns))
    except RuntimeFailure as error:
        raise Conflict(str(error)) from error


async def run_probe(engine: Engine, container: Container, args: list[str], timeout: float) -> tuple[int, bytes]:
    """Runs a health probe. Returns (exit code, output); a probe over time is killed and gives -1."""
    config = ExecRequest(cmd=tuple(args), attach_stdout=True, attach_stderr=True)
    try:
        session = create(engine, container, config)
        streams = await start(engine, session)
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
            kill(session)
        code = -1
        output[:] = f"Health check exceeded timeout ({timeout:g}s)".encode()
    finally:
        for fd in outputs:
            loop.remove_reader(fd)
        _close(streams)
    return code, bytes(output)
