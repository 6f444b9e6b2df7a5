"""The entry of the command `sampan`: finds the command in the table, reads its flags, calls its function."""

from __future__ import annotations

import os
import sys

from sampan.cli.flags import UsageError, parse
from sampan.cli.table import find

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sampan.cli.flags import Command, Values

    Handler = Callable[[Values, list[str]], int]


def handler(command: Command) -> Handler:
    """The function of a command."""
    module, _, function = command.handler.partition(":")
    found: Handler = getattr(__import__(f"sampan.cli.{module}", fromlist=[function]), function)
    return found


def asks_for_help(command: Command, args: list[str]) -> bool:
    """Whether --help is among the flags of a command line."""
    for arg in args:
        if arg == "--" or (not command.interspersed and not arg.startswith("-")):
            break
        if arg == "--help":
            return True
    return False


def dispatch(words: list[str]) -> int:
    """Runs a command line. Returns its exit code. Raises UsageError and what the client raises."""
    found = find(words)
    if found is None:
        from sampan.cli import help

        return help.without_command(words)
    command, name, args = found
    if "--help" in args and asks_for_help(command, args):
        from sampan.cli import help

        print(help.of_command(command, name))
        return 0
    values, names = parse(command.flags, args, command.interspersed)
    if len(names) < command.least or (command.most is not None and len(names) > command.most):
        from sampan.cli import help

        raise help.wrong_count(command, name)
    return handler(command)(values, names)


def failure(error: Exception, words: list[str]) -> int:
    """Prints why a command failed. Returns its exit code: 125 for `run`, `create` and `exec`, else 1."""
    from sampan.client.http import APIError, NoEngine

    if not isinstance(error, (UsageError, APIError, NoEngine)):
        raise error
    found = find(words)
    print(f"sampan: {error}", file=sys.stderr)
    if isinstance(error, UsageError):
        from sampan.cli import help

        usage = f"\n{help.usage(found[0], found[1])}\n" if found else ""
        name = f"{found[1]} " if found else ""
        print(f"{usage}\nRun 'sampan {name}--help' for more information", file=sys.stderr)
        if error.code is not None:
            return error.code
    return 125 if found and found[0].handler in _RUNNING else 1


_RUNNING = ("run:run", "run:create", "run:exec_")


def choose_engine() -> None:
    """Follows the context in use, if there is one and SAMPAN_HOST names no engine. Raises UsageError."""
    if "SAMPAN_HOST" in os.environ:
        return
    # Most have none, and all of them pay for the question: no more than one file is asked for.
    home = os.environ.get("DOCKER_CONFIG") or f"{os.environ.get('HOME', '')}/.docker"
    if os.environ.get("SAMPAN_CONTEXT") or os.access(f"{home}/contexts/sampan", os.R_OK):
        from sampan.cli import contexts

        contexts.follow(contexts.current())


def main() -> None:
    """Runs one command and exits with its code."""
    words = sys.argv[1:]
    try:
        if not words or words[0].startswith("-"):
            from sampan.cli import globals

            words = globals.take(words)
        if words and words[0] not in ("context", "completion", "--help"):
            choose_engine()
        code = dispatch(words) if words else 0
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        code = 141
    except Exception as error:
        code = failure(error, words)
    # Skips the interpreter's slow tear-down; everything of ours is flushed.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
