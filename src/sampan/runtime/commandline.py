"""`sampan-runtime`: the OCI runtime command line, for podman, containerd, CRI-O and people."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from sampan.linux import caps, interpreter, namespaces, prctl, seccomp, signals
from sampan.runtime import bundle, console, mounts, operations, options, state
from sampan.runtime.errors import RuntimeFailure
from sampan.runtime.operations import Options, Started
from sampan.runtime.state import StateDirectory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.linux.spec_types import Resources
    from sampan.oci.runtime_spec import Capabilities, Process, Spec

_ENTERING = {"create", "run", "exec", "start"}


class _Log:
    """Errors and warnings: to stderr, and to `--log` in the form that the caller reads."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._path, self._json = arguments.log, arguments.log_format == "json"

    def warn(self, text: str) -> None:
        self.write("warning", text)

    def write(self, level: str, text: str) -> None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        print(f"sampan-runtime: {text}" if level == "error" else f"sampan-runtime: {level}: {text}", file=sys.stderr)
        if self._path:
            record = {"level": level, "msg": text, "time": stamp}
            line = json.dumps(record) if self._json else f'time="{stamp}" level={level} msg={json.dumps(text)}'
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(line + "\n")


def main(argv: list[str] | None = None) -> None:
    """The entry of `sampan-runtime`. Exits with the command's code; 1 for an error."""
    arguments = options.parser().parse_args(argv)
    if arguments.version:
        from importlib.metadata import version

        print(f"sampan-runtime version {version('sampan')}\nspec: {bundle.OCI_VERSION}")
        return
    if arguments.command is None:
        options.parser().error("a command is needed; see --help")
    if arguments.command in _ENTERING:
        interpreter.ensure_read_only("sampan.runtime.commandline")
    log = _Log(arguments)
    try:
        code = _COMMANDS[arguments.command](arguments, log)
    except (RuntimeFailure, OSError, ValueError, KeyError, TimeoutError) as error:
        if arguments.debug:
            raise
        log.write("error", str(error) or repr(error))
        sys.exit(1)
    sys.exit(code or 0)


def _directory(arguments: argparse.Namespace) -> StateDirectory:
    return StateDirectory(os.path.abspath(arguments.root), arguments.id)


def _options(arguments: argparse.Namespace, log: _Log) -> Options:
    systemd = arguments.systemd_cgroup or arguments.cgroup_manager == "systemd"
    listen = os.environ.get("LISTEN_FDS", "")
    preserve = arguments.preserve_fds + (int(listen) if listen.isdecimal() else 0)
    return Options(
        log.warn,
        arguments.console_socket,
        arguments.pid_file,
        preserve,
        getattr(arguments, "no_pivot", False),
        getattr(arguments, "no_new_keyring", False),
        systemd,
    )


def _create(arguments: argparse.Namespace, log: _Log) -> int:
    spec = bundle.load(arguments.bundle)
    if _wants_terminal(spec) and not arguments.console_socket:
        raise RuntimeFailure("process.terminal needs --console-socket")
    operations.create(_directory(arguments), arguments.bundle, spec, _options(arguments, log))
    return 0


def _run(arguments: argparse.Namespace, log: _Log) -> int:
    directory, spec = _directory(arguments), bundle.load(arguments.bundle)
    if arguments.detach and _wants_terminal(spec) and not arguments.console_socket:
        raise RuntimeFailure("a detached terminal needs --console-socket")
    if not arguments.no_subreaper and not arguments.detach:
        prctl.set_child_subreaper()
    started = operations.create(directory, arguments.bundle, spec, _options(arguments, log))
    try:
        if not arguments.detach:
            _pass_signals(started)  # before the container does anything: who hears of it may signal us at once
        operations.start(directory, log.warn)
    except BaseException:
        operations.delete(directory, True, log.warn)
        raise
    if arguments.detach:
        return 0
    code = _wait(started)
    if not arguments.keep:
        operations.delete(directory, True, log.warn)
    return code


def _wants_terminal(spec: Spec) -> bool:
    return bool((spec.get("process") or {}).get("terminal"))


def _pass_signals(started: Started) -> None:
    """Signals to us are the container's from now on."""

    def forward(number: int, _: object) -> None:
        try:
            signal.pidfd_send_signal(started.pidfd, number)
        except ProcessLookupError:
            pass

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, forward)


def _wait(started: Started) -> int:
    """Passes the terminal on, and returns the shell's exit code of the process."""
    if started.master >= 0:
        proxy = console.Proxy(started.master)
        signal.signal(signal.SIGWINCH, lambda *_: proxy.resize())
        try:
            proxy.run(started.pidfd)
        finally:
            proxy.close()
    status = os.waitstatus_to_exitcode(os.waitpid(started.pid, 0)[1])
    return 128 - status if status < 0 else status


def _start(arguments: argparse.Namespace, log: _Log) -> None:
    operations.start(_directory(arguments), log.warn)


def _state(arguments: argparse.Namespace, log: _Log) -> None:
    directory = _directory(arguments)
    record = directory.load()
    described = directory.describe(record) | {
        "rootfs": os.path.realpath(os.path.join(record.bundle, record.spec["root"]["path"])),
        "created": record.created,
        "owner": record.owner,
    }
    print(json.dumps(described, indent=2))


def _kill(arguments: argparse.Namespace, log: _Log) -> None:
    operations.kill(_directory(arguments), signals.number(arguments.signal), arguments.all)


def _delete(arguments: argparse.Namespace, log: _Log) -> None:
    for container_id in arguments.id:
        operations.delete(StateDirectory(os.path.abspath(arguments.root), container_id), arguments.force, log.warn)


def _exec(arguments: argparse.Namespace, log: _Log) -> int:
    directory = _directory(arguments)
    process = _exec_process(arguments, directory)
    if process.get("terminal") and arguments.detach and not arguments.console_socket:
        raise RuntimeFailure("a detached terminal needs --console-socket")
    started = operations.execute(directory, process, _options(arguments, log))
    return 0 if arguments.detach else _wait(started)


def _exec_process(arguments: argparse.Namespace, directory: StateDirectory) -> Process:
    """The process from --process, or the container's own changed by the options."""
    if arguments.process:
        with open(arguments.process, "rb") as file:
            given: Process = json.load(file)
        return given
    process: Process = {**directory.load().spec["process"]}
    process["args"] = arguments.args[1:] if arguments.args[:1] == ["--"] else arguments.args
    process["terminal"] = arguments.tty
    process["env"] = [*(process.get("env") or []), *arguments.env]
    if arguments.cwd:
        process["cwd"] = arguments.cwd
    if arguments.user:
        uid, _, gid = arguments.user.partition(":")
        process["user"] = {"uid": int(uid), "gid": int(gid or 0)}
    if arguments.additional_gids:
        process["user"] = {**(process.get("user") or {}), "additionalGids": arguments.additional_gids}
    if arguments.no_new_privs:
        process["noNewPrivileges"] = True
    if arguments.apparmor:
        process["apparmorProfile"] = arguments.apparmor
    if arguments.cap:
        sets: Capabilities = {**process.get("capabilities", {})}
        process["capabilities"] = {
            **sets,
            "bounding": [*sets.get("bounding", []), *arguments.cap],
            "effective": [*sets.get("effective", []), *arguments.cap],
            "permitted": [*sets.get("permitted", []), *arguments.cap],
        }
    return process


def _ps(arguments: argparse.Namespace, log: _Log) -> None:
    pids = operations.pids(_directory(arguments))
    if arguments.format == "json":
        print(json.dumps(pids))
        return
    done = subprocess.run(["ps", *(arguments.options or ["-ef"])], stdout=subprocess.PIPE, text=True, check=False)
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        raise RuntimeFailure("ps failed")
    if "PID" not in lines[0].split():
        raise RuntimeFailure("the ps options must show a PID column")
    column = lines[0].split().index("PID")
    print(lines[0])
    for line in lines[1:]:
        if int(line.split()[column]) in pids:
            print(line)


def _list(arguments: argparse.Namespace, log: _Log) -> None:
    rows = []
    for directory in state.containers(os.path.abspath(arguments.root)):
        record = directory.load()
        rows.append(directory.describe(record) | {"created": record.created, "owner": record.owner})
    if arguments.quiet:
        print("".join(f"{row['id']}\n" for row in rows), end="")
    elif arguments.format == "json":
        print(json.dumps(rows))
    else:
        table = [["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]]
        table += [[str(row[key.lower()]) for key in table[0]] for row in rows]
        widths = [max(len(row[index]) for row in table) + 3 for index in range(6)]
        for row in table:
            print("".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _update(arguments: argparse.Namespace, log: _Log) -> None:
    given: dict[str, dict[str, object]] = {}
    if arguments.resources:
        text = sys.stdin.read() if arguments.resources == "-" else open(arguments.resources, encoding="utf-8").read()
        given = json.loads(text)
    resources: Resources = given  # type: ignore[assignment]
    bundle.check_resources(resources)
    for name, (section, key) in options.UPDATES.items():
        value = getattr(arguments, name.replace("-", "_"))
        if value is not None:
            given.setdefault(section, {})[key] = value
    operations.update(_directory(arguments), resources, log.warn)


def _features(arguments: argparse.Namespace, log: _Log) -> None:
    described = {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": bundle.OCI_VERSION,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": mounts.known_options(),
        "linux": {
            "namespaces": sorted(namespaces.KINDS),
            "capabilities": [f"CAP_{name}" for name in caps.NAMES],
            "cgroup": {"v1": True, "v2": True, "systemd": False, "systemdUser": False, "rdma": True},
            "seccomp": {
                "enabled": True,
                "actions": seccomp.known_actions(),
                "operators": seccomp.known_operators(),
                "archs": seccomp.known_archs(),
                "knownFlags": seccomp.known_flags(),
                "supportedFlags": seccomp.known_flags(),
            },
            "apparmor": {"enabled": True},
            "selinux": {"enabled": False},
            "intelRdt": {"enabled": False},
            "mountExtensions": {"idmap": {"enabled": True}},
        },
        "annotations": {},
        "potentiallyUnsafeConfigAnnotations": [],
    }
    print(json.dumps(described, indent=2))


def _spec(arguments: argparse.Namespace, log: _Log) -> None:
    path = f"{arguments.bundle}/config.json"
    try:
        with open(path, "x", encoding="utf-8") as file:
            json.dump(bundle.template(arguments.rootless_spec), file, indent=2)
    except FileExistsError:
        raise RuntimeFailure(f"{path} exists: remove it first") from None


_COMMANDS: dict[str, Callable[[argparse.Namespace, _Log], int | None]] = {
    "create": _create,
    "run": _run,
    "start": _start,
    "state": _state,
    "kill": _kill,
    "delete": _delete,
    "exec": _exec,
    "ps": _ps,
    "list": _list,
    "pause": lambda arguments, log: operations.freeze(_directory(arguments), True),
    "resume": lambda arguments, log: operations.freeze(_directory(arguments), False),
    "update": _update,
    "features": _features,
    "spec": _spec,
}

if __name__ == "__main__":
    main()
