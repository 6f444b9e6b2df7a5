"""Hooks of the runtime specification: programs run at fixed points of a container's life."""

from __future__ import annotations

import os
import signal

from sampan import quickjson
from sampan.linux import polling
from sampan.runtime.errors import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.oci.runtime_spec import Hook, Spec, State


def run_all(spec: Spec, stage: str, state: State) -> None:
    """Runs the hooks of a stage ("createRuntime", ...) in their order. Raises RuntimeFailure at the first that fails."""
    for hook in (spec.get("hooks") or {}).get(stage) or []:
        run(stage, hook, state)


def run(stage: str, hook: Hook, state: State) -> None:
    """Runs one hook in this process's namespaces, with the container's state on its stdin.

    Its environment is exactly `env`, as config.md of the specification asks. Raises RuntimeFailure
    when it can't be run, ends with another code than 0, or outlives `timeout` (seconds).
    """
    path, args = hook["path"], hook.get("args") or [hook["path"]]
    name = f"{stage} hook {path}"
    environment = dict(item.partition("=")[::2] for item in hook.get("env") or [])
    read_end, write_end = os.pipe()
    error_read, error_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        _become_hook(path, args, environment, read_end, error_write)
    os.close(read_end)
    os.close(error_write)
    _feed(write_end, quickjson.dumps(state).encode())
    status, output = _await(pid, error_read, hook.get("timeout"), name)
    code = os.waitstatus_to_exitcode(status)
    if code:
        how = f"killed by signal {-code}" if code < 0 else f"exit status {code}"
        raise RuntimeFailure(f"{name}: {how}{': ' + output.strip() if output.strip() else ''}")


def _become_hook(path: str, args: list[str], environment: dict[str, str], stdin: int, stderr: int) -> None:
    try:
        os.setpgid(0, 0)
        os.dup2(stdin, 0)
        os.dup2(stderr, 2)
        null = os.open("/dev/null", os.O_WRONLY)
        os.dup2(null, 1)
        os.closerange(3, 1 << 16)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        for number in (signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        os.execve(path, args, environment)
    except OSError as error:
        os.write(2, (error.strerror or "").encode())
    finally:
        os._exit(127)


def _feed(fd: int, data: bytes) -> None:
    # A state is far below a pipe's capacity, so this never blocks on a hook that doesn't read.
    handler = signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        os.write(fd, data[:65536])
    except BrokenPipeError:
        pass
    finally:
        signal.signal(signal.SIGPIPE, handler)
        os.close(fd)


def _await(pid: int, errors: int, timeout: int | None, name: str) -> tuple[int, str]:
    """The hook's wait status and the start of its stderr."""
    pidfd = os.pidfd_open(pid)
    try:
        if not polling.readable(pidfd, timeout):
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise RuntimeFailure(f"{name}: did not end within its timeout of {timeout} s")
        status = os.waitpid(pid, 0)[1]
        os.set_blocking(errors, False)
        try:
            output = os.read(errors, 4096).decode(errors="replace")
        except BlockingIOError:
            output = ""
        return status, output
    finally:
        os.close(errors)
        os.close(pidfd)
