"""The operations of an OCI runtime on containers known by id: create, start, exec, kill, delete, ..."""

from __future__ import annotations

import os
import pwd
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from sampan.linux import durable, pidfd
from sampan.linux.cgroup import Cgroup
from sampan.runtime import bundle as bundles
from sampan.runtime import console, crossing, hooks, spawn
from sampan.runtime.errors import RuntimeFailure
from sampan.runtime.setup import Setup
from sampan.runtime.state import Record, StateDirectory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.linux.spec_types import Resources
    from sampan.oci.runtime_spec import Process, Spec, State
    from sampan.runtime.requests import Join, Launch

_STDIO = (0, 1, 2)
Warn = Callable[[str], None]


@dataclass(slots=True)
class Options:
    """What the command line gives for a new process."""

    warn: Warn
    console_socket: str | None = None
    pid_file: str | None = None
    preserve_fds: int = 0
    no_pivot: bool = False
    keep_keyring: bool = False
    systemd: bool = False


@dataclass(slots=True)
class Started:
    """A process that runs: its pidfd and, for a terminal nobody was given, its master."""

    pid: int
    pidfd: int
    master: int = -1


def create(directory: StateDirectory, bundle: str, spec: Spec, options: Options) -> Started:
    """Makes a container whose process waits for start(), from the `spec` loaded of the bundle.

    On failure nothing of it is left.
    """
    bundle = os.path.realpath(bundle)
    if "process" not in spec:
        raise RuntimeFailure("config.json has no process")
    directory.reserve()
    record = None
    try:
        path = bundles.cgroup_path(spec, directory.id, options.systemd)
        cgroup = bundles.usable_cgroup(path, spec)
        if cgroup is None:
            options.warn(f"no permission to make the cgroup {path}: its limits are ignored")
        elif _occupied(cgroup):
            raise RuntimeFailure(f"cgroup {cgroup} already has processes")
        record = Record(directory.id, bundle, cgroup, _now(), spec)
        record.owner = _user_name()
        record.annotations = spec.get("annotations") or {}
        request = bundles.request(spec, bundle, cgroup)
        record.seccomp, record.seccomp_flags = request["seccomp"], request["seccomp_flags"]
        return _create(directory, record, request, options)
    except BaseException:
        if record is not None:
            _undo(directory, record, options.warn)
        directory.remove()
        raise


def _create(directory: StateDirectory, record: Record, request: Launch, options: Options) -> Started:
    gate = directory.open_gate()
    request |= {
        "gate": gate.fileno(),
        "preserve_fds": options.preserve_fds,
        "hooks": bool(record.spec.get("hooks")),
        "state": directory.describe(record, "creating"),
        "no_pivot": options.no_pivot,
        "keep_keyring": options.keep_keyring,
    }
    terminal = bool(record.spec["process"].get("terminal"))
    child = spawn.start(request, None if terminal else _STDIO)
    gate.close()
    record.pid, record.start_time = child.pid, pidfd.start_time(child.pid) or 0
    for text in request.get("warnings") or []:
        options.warn(text)
    master = _follow(child, options, lambda: _runtime_hooks(directory, record))
    record.pid, record.start_time = child.pid, pidfd.start_time(child.pid) or 0
    directory.save(record)
    _write_pid_file(options.pid_file, record.pid)
    return Started(child.pid, child.pidfd, master)


def _follow(child: spawn.Child, options: Options, hooks_of_runtime: Callable[[], None]) -> int:
    """Waits until the child waits for start() or runs. Returns a terminal's master nobody was given, or -1."""

    def prepared() -> None:
        try:
            hooks_of_runtime()
        except BaseException:
            signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)
            os.waitpid(child.pid, 0)
            raise

    setup = Setup(child, prepared)
    try:
        while not setup.advance():
            if setup.terminal >= 0 and options.console_socket:
                console.hand_over(options.console_socket, setup.terminal)
                os.close(setup.terminal)
                setup.terminal = -1
        setup.check()
    finally:
        for text in setup.warnings:
            options.warn(text)
    return setup.terminal


def _runtime_hooks(directory: StateDirectory, record: Record) -> None:
    state = directory.describe(record, "created")
    hooks.run_all(record.spec, "prestart", state)
    hooks.run_all(record.spec, "createRuntime", state)


def _undo(directory: StateDirectory, record: Record, warn: Warn) -> None:
    """Ends what a failed create has made; the specification wants its poststop hooks run too."""
    if record.pid and pidfd.start_time(record.pid) == record.start_time:
        try:
            os.kill(record.pid, signal.SIGKILL)
            os.waitpid(record.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
    if record.cgroup:
        try:
            Cgroup(record.cgroup).remove()
        except OSError as error:
            warn(str(error))
    if record.pid:
        _late_hooks("poststop", record, directory.describe(record, "stopped"), warn)


def _late_hooks(stage: str, record: Record, state: State, warn: Warn) -> None:
    """Hooks whose failure only gives a warning: "poststart" and "poststop" (runtime.md, lifecycle)."""
    for hook in (record.spec.get("hooks") or {}).get(stage) or []:
        try:
            hooks.run(stage, hook, state)
        except RuntimeFailure as failure:
            warn(str(failure))


def start(directory: StateDirectory, warn: Warn) -> None:
    """Lets a created container run its program. Raises RuntimeFailure when that can't be executed."""
    record = directory.load()
    status = directory.status(record)
    if status != "created":
        raise RuntimeFailure(f"cannot start container {record.id}: it is {status}, not created")
    sock = directory.connect_gate()
    while True:
        report = crossing.receive(sock)
        if report.kind == "warning":
            warn(report.text)
        elif report.kind == "error":
            raise RuntimeFailure(report.text, report.failure)
        else:
            break
    sock.close()
    _late_hooks("poststart", record, directory.describe(record, "running"), warn)


def execute(directory: StateDirectory, process: Process, options: Options) -> Started:
    """Runs a further process in a running container."""
    record = directory.load()
    status = directory.status(record)
    if status not in ("running", "created"):
        raise RuntimeFailure(f"cannot exec in container {record.id}: it is {status}")
    bundles.check_process(process)
    request: Join = {
        "pid": record.pid,
        "start_time": record.start_time,
        "process": process,
        "cgroup": record.cgroup,
        "seccomp": record.seccomp,
        "seccomp_flags": record.seccomp_flags,
        "preserve_fds": options.preserve_fds,
    }
    child = spawn.join(request, None if process.get("terminal") else _STDIO)
    master = _follow(child, options, lambda: None)
    _write_pid_file(options.pid_file, child.pid)
    return Started(child.pid, child.pidfd, master)


def kill(directory: StateDirectory, number: int, everyone: bool) -> None:
    """Signals the container's init, or all its processes."""
    record = directory.load()
    status = directory.status(record)
    if everyone and record.cgroup:
        _signal_all(record.cgroup, number)
        return
    if status == "stopped":
        raise RuntimeFailure(f"cannot kill container {record.id}: container not running")
    process = pidfd.open_if_same(record.pid, record.start_time)
    if process is None:
        raise RuntimeFailure(f"cannot kill container {record.id}: container not running")
    signal.pidfd_send_signal(process, number)
    os.close(process)
    if number == signal.SIGKILL and not _own_pid_namespace(record) and record.cgroup:
        # Its init's end does not take the others along.
        _signal_all(record.cgroup, number)
    if number == signal.SIGKILL and status == "paused" and record.cgroup:
        Cgroup(record.cgroup).freeze(False)


def delete(directory: StateDirectory, force: bool, warn: Warn) -> None:
    """Forgets a stopped container and deletes its cgroup. `force` kills it first and accepts a missing one."""
    try:
        record = directory.load()
    except RuntimeFailure:
        if not force:
            raise
        directory.remove()
        return
    status = directory.status(record)
    if status != "stopped":
        if not force and status != "created":
            raise RuntimeFailure(f"cannot delete container {record.id} that is not stopped: {status}")
        try:
            kill(directory, signal.SIGKILL, everyone=False)
        except RuntimeFailure:
            pass  # it ended meanwhile
        _await_end(directory, record)
    if record.cgroup:
        _signal_all(record.cgroup, signal.SIGKILL)
        Cgroup(record.cgroup).remove()
    directory.remove()
    _late_hooks("poststop", record, directory.describe(record, "stopped"), warn)


def _await_end(directory: StateDirectory, record: Record) -> None:
    for _ in range(1000):
        if directory.status(record) == "stopped":
            return
        time.sleep(0.01)
    raise RuntimeFailure(f"container {record.id}: its process {record.pid} outlives SIGKILL")


def pids(directory: StateDirectory) -> list[int]:
    """All processes of the container."""
    record = directory.load()
    return sorted(Cgroup(record.cgroup).pids()) if record.cgroup else [record.pid]


def freeze(directory: StateDirectory, frozen: bool) -> None:
    """Pauses or resumes every process. Raises RuntimeFailure in the wrong state."""
    record = directory.load()
    status = directory.status(record)
    if status not in (("running", "created") if frozen else ("paused",)):
        raise RuntimeFailure(f"cannot {'pause' if frozen else 'resume'} container {record.id}: it is {status}")
    if record.cgroup is None:
        raise RuntimeFailure(f"container {record.id} has no cgroup of its own to freeze")
    Cgroup(record.cgroup).freeze(frozen)


def update(directory: StateDirectory, resources: Resources, warn: Warn) -> None:
    """Changes limits of a container while it runs."""
    record = directory.load()
    if directory.status(record) == "stopped":
        raise RuntimeFailure(f"cannot update container {record.id}: it is stopped")
    if record.cgroup is None:
        raise RuntimeFailure(f"container {record.id} has no cgroup of its own")
    bundles.check_resources(resources)
    group = Cgroup(record.cgroup)
    group.update(resources)
    for text in group.warnings:
        warn(text)


def _occupied(cgroup: str) -> bool:
    group = Cgroup(cgroup)
    return group.exists() and bool(group.pids())


def _own_pid_namespace(record: Record) -> bool:
    return any(n["type"] == "pid" and not n.get("path") for n in record.spec["linux"].get("namespaces") or [])


def _signal_all(cgroup: str, number: int) -> None:
    pidfd.signal_members(Cgroup(cgroup).pids, number)


def _write_pid_file(path: str | None, pid: int) -> None:
    if path:
        durable.replace(path, str(pid), 0o644)


def _user_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _now() -> str:
    seconds, nanoseconds = divmod(time.time_ns(), 10**9)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{nanoseconds:09d}Z"
