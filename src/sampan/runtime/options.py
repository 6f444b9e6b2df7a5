"""The OCI command line's grammar: runc's commands and options, for argparse."""

from __future__ import annotations

import argparse

from sampan.runtime.state import default_root


def parser() -> argparse.ArgumentParser:
    """The parser of `sampan-runtime`. The chosen command is in `command`."""
    top = argparse.ArgumentParser(
        prog="sampan-runtime", description="Runs containers as the OCI runtime specification says."
    )
    top.add_argument("--root", default=default_root(), help="directory for the state of containers (%(default)s)")
    top.add_argument("--log", metavar="FILE", help="file for errors and warnings besides stderr")
    top.add_argument("--log-format", choices=["text", "json"], default="text")
    top.add_argument("--log-level", default="warn", help=argparse.SUPPRESS)
    top.add_argument("--debug", action="store_true", help="print a traceback with an error")
    top.add_argument("--systemd-cgroup", action="store_true", help="read cgroupsPath as slice:prefix:name")
    top.add_argument("--cgroup-manager", choices=["cgroupfs", "systemd", "disabled"], help=argparse.SUPPRESS)
    top.add_argument("--rootless", default="auto", help=argparse.SUPPRESS)
    top.add_argument("-v", "--version", action="store_true", help="print the version")
    commands = top.add_subparsers(dest="command", metavar="COMMAND")

    for name, text in (("create", "make a container; its program waits for `start`"),
                       ("run", "make a container, start it, wait for it and delete it")):  # fmt: skip
        command = commands.add_parser(name, help=text)
        command.add_argument("-b", "--bundle", default=".", help="directory of config.json (%(default)s)")
        _new_process(command)
        command.add_argument("--no-pivot", action="store_true", help="move the root instead of pivot_root")
        command.add_argument("--no-new-keyring", action="store_true", help="keep the caller's session keyring")
        if name == "run":
            command.add_argument("-d", "--detach", action="store_true", help="do not wait for the container")
            command.add_argument("--keep", action="store_true", help="do not delete it when it has ended")
            command.add_argument("--no-subreaper", action="store_true", help="leave orphans to the host's init")
        command.add_argument("id")

    for name, text in (("start", "let a created container run"), ("state", "print the state as JSON"),
                       ("pause", "freeze all processes"), ("resume", "let them go on")):  # fmt: skip
        commands.add_parser(name, help=text).add_argument("id")

    kill = commands.add_parser("kill", help="send a signal to the container's init")
    kill.add_argument("-a", "--all", action="store_true", help="to all its processes")
    kill.add_argument("id")
    kill.add_argument("signal", nargs="?", default="TERM")

    delete = commands.add_parser("delete", help="forget a stopped container")
    delete.add_argument("-f", "--force", action="store_true", help="kill it if it runs")
    delete.add_argument("id", nargs="+")

    _exec(commands.add_parser("exec", help="run a further process in a container"))

    processes = commands.add_parser("ps", help="list the processes of a container")
    processes.add_argument("-f", "--format", choices=["table", "json"], default="table")
    processes.add_argument("id")
    processes.add_argument("options", nargs=argparse.REMAINDER, help="options for ps(1) (-ef)")

    listing = commands.add_parser("list", help="list containers")
    listing.add_argument("-f", "--format", choices=["table", "json"], default="table")
    listing.add_argument("-q", "--quiet", action="store_true", help="ids only")

    _update(commands.add_parser("update", help="change limits"))
    commands.add_parser("features", help="print what this runtime supports as JSON")
    spec = commands.add_parser("spec", help="write a config.json to start from")
    spec.add_argument("-b", "--bundle", default=".")
    spec.add_argument("--rootless", action="store_true", dest="rootless_spec")
    return top


def _new_process(command: argparse.ArgumentParser) -> None:
    command.add_argument("--console-socket", metavar="PATH", help="unix socket that gets the terminal's master")
    command.add_argument("--pid-file", metavar="FILE", help="file for the pid of the process")
    command.add_argument("--preserve-fds", type=int, default=0, metavar="N", help="descriptors 3 to 2+N go along")


def _exec(command: argparse.ArgumentParser) -> None:
    _new_process(command)
    command.add_argument("-p", "--process", metavar="FILE", help="process.json instead of a command")
    command.add_argument("-d", "--detach", action="store_true", help="do not wait for it")
    command.add_argument("--cwd", help="working directory")
    command.add_argument("-e", "--env", action="append", default=[], metavar="NAME=VALUE")
    command.add_argument("-t", "--tty", action="store_true", help="give it a terminal")
    command.add_argument("-u", "--user", metavar="UID[:GID]")
    command.add_argument("-g", "--additional-gids", action="append", type=int, default=[], metavar="GID")
    command.add_argument("-c", "--cap", action="append", default=[], metavar="CAP", help="add a capability")
    command.add_argument("--no-new-privs", action="store_true")
    command.add_argument("--apparmor", metavar="PROFILE")
    command.add_argument("--process-label", help=argparse.SUPPRESS)
    command.add_argument("--ignore-paused", action="store_true", help=argparse.SUPPRESS)
    command.add_argument("--cgroup", help=argparse.SUPPRESS)
    command.add_argument("id")
    command.add_argument("args", nargs=argparse.REMAINDER)


UPDATES = {
    "memory": ("memory", "limit"),
    "memory-swap": ("memory", "swap"),
    "memory-reservation": ("memory", "reservation"),
    "cpu-quota": ("cpu", "quota"),
    "cpu-period": ("cpu", "period"),
    "cpu-share": ("cpu", "shares"),
    "cpuset-cpus": ("cpu", "cpus"),
    "cpuset-mems": ("cpu", "mems"),
    "pids-limit": ("pids", "limit"),
    "blkio-weight": ("blockIO", "weight"),
}


def _update(command: argparse.ArgumentParser) -> None:
    command.add_argument("-r", "--resources", metavar="FILE", help="linux.resources as JSON; - is stdin")
    for name in UPDATES:
        kind = str if name.startswith("cpuset") else int
        command.add_argument(f"--{name}", type=kind, metavar="VALUE")
    command.add_argument("id")
