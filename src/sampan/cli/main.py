"""The entry of the command `sampan`."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_RUN = {"run": "run", "create": "create", "exec": "exec_", "start": "start", "attach": "attach"}
_MODULES = {
    "containers": "stop restart kill pause unpause wait rm rename update ps port logs top stats diff cp commit export",
    "images": "images save load import rmi tag history bootstrap",
    "system": "inspect events info version system daemon",
    "volumes": "volume",
    "networks": "network",
    "doctor": "doctor",
    "registries": "pull push login logout search",
    "build": "build builder",
    "machines": "vm",
    "policy": "policy",
    "compare": "compare",
    "ui": "ui",
}
_IMAGE_WORDS = {"ls": "images", "rm": "rmi", "prune": "image prune"}
_CONTAINER_WORDS = {"ls": "ps", "prune": "container prune"}
_PRUNING = {"image prune": "images", "container prune": "containers"}


def _help() -> str:
    commands = sorted([*_RUN, *" ".join(_MODULES.values()).split()])
    lines = ["Usage:  sampan COMMAND [OPTIONS]", "", "One engine for containers and virtual machines.", "", "Commands:"]
    for index in range(0, len(commands), 8):
        lines.append("  " + "  ".join(f"{name:<9}" for name in commands[index : index + 8]).rstrip())
    lines += ["", "Run 'sampan COMMAND --help' for the options of a command."]
    return "\n".join(lines)


def _dispatch(command: str, args: list[str]) -> int:
    if command in ("image", "container") and args:
        words = _IMAGE_WORDS if command == "image" else _CONTAINER_WORDS
        command, args = words.get(args[0], args[0]), args[1:]
    if "--help" in args[:1]:
        print(_command_help(command))
        return 0
    if command in _RUN:
        from sampan.cli import run

        return int(getattr(run, _RUN[command])(args))
    function = _function(command)
    if function is not None:
        return int(function(args))
    print(f"sampan: '{command}' is not a sampan command.\nSee 'sampan --help'", file=sys.stderr)
    return 1


def _function(command: str) -> Callable[[list[str]], int] | None:
    """The function of a command; only its module is imported."""
    from importlib import import_module

    if command in _PRUNING:
        pruning: Callable[[list[str]], int] = getattr(import_module("sampan.cli.pruning"), _PRUNING[command])
        return pruning
    module = next((name for name, commands in _MODULES.items() if command in commands.split()), None)
    if module is None:
        return None
    function: Callable[[list[str]], int] = getattr(
        import_module(f"sampan.cli.{module}"), "import_" if command == "import" else command
    )
    return function


def _command_help(command: str) -> str:
    from sampan.cli import flags, options, run

    if command in ("run", "create"):
        return flags.usage(
            command, "[OPTIONS] IMAGE [COMMAND] [ARG...]", "Create a container from an image.", options.FLAGS
        )
    if command == "exec":
        return flags.usage(
            "exec", "[OPTIONS] CONTAINER COMMAND [ARG...]", "Execute a command in a running container.", run.EXEC_FLAGS
        )
    function = _function(command)
    return f"Usage:  sampan {(function.__doc__ or command).strip()}" if function else _help()


def main() -> None:
    """Runs one command and exits with its code; 125 for a wrong command line of `run`, else 1."""
    args = sys.argv[1:]
    if not args or args[0] in ("--help", "-h", "help"):
        print(_help())
        sys.exit(0)
    if args[0] in ("--version", "-v"):
        args[0] = "version"
    try:
        code = _dispatch(args[0], args[1:])
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        code = 141
    except Exception as error:
        from sampan.cli.flags import UsageError
        from sampan.client.http import APIError, NoEngine

        if not isinstance(error, (UsageError, APIError, NoEngine)):
            raise
        print(f"sampan: {error}", file=sys.stderr)
        if isinstance(error, UsageError):
            print(f"\nRun 'sampan {args[0]} --help' for more information", file=sys.stderr)
        code = 125 if args[0] in ("run", "create", "exec") else 1
    # Skips the interpreter's slow tear-down; everything of ours is flushed.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
