"""The texts of `--help`, made of the table, and what is said to a command line that has no command."""

from __future__ import annotations

import shutil
import sys
import textwrap
from importlib import import_module

from sampan.cli import globals
from sampan.cli.flags import BOOL, INT, Command, Flag, UsageError
from sampan.cli.table import MODULES, find

GROUPS = {
    "builder": "Manage builds",
    "checkpoint": "Manage checkpoints",
    "container": "Manage containers",
    "context": "Manage contexts",
    "image": "Manage images",
    "manifest": "Manage image manifests and manifest lists",
    "network": "Manage networks",
    "policy": "Check the operator's rules and explain what they decide",
    "system": "Manage the engine",
    "vm": "Manage virtual machines",
    "volume": "Manage volumes",
}
COMMON = ("run", "exec", "ps", "build", "pull", "push", "images", "login", "logout", "search", "version", "info")
_HELP = Flag("help", "", BOOL, "Print usage")


def group(module: str) -> tuple[Command, ...]:
    """The commands of one module of the table."""
    found: tuple[Command, ...] = import_module(f"sampan.cli.table.{module}").COMMANDS
    return found


def table() -> tuple[Command, ...]:
    """All commands, in the order of their names."""
    found = [command for module in sorted(set(MODULES.values())) for command in group(module)]
    return tuple(sorted(found, key=lambda command: command.name))


def usage(command: Command, name: str) -> str:
    """The line that says how a command is called."""
    return f"Usage:  sampan {name} {'[OPTIONS] ' if command.flags else ''}{command.arguments}".rstrip()


def of_command(command: Command, name: str) -> str:
    """The text of `sampan NAME --help`."""
    parts = [usage(command, name), command.summary]
    if command.aliases:
        parts.append("Aliases:\n  " + ", ".join(f"sampan {name}" for name in command.names))
    if command.flags:
        parts.append("Options:\n" + "\n".join(flag_lines(command.flags, _width())))
    return "\n\n".join(parts)


def of_group(group: str) -> str:
    """The text of `sampan GROUP --help`."""
    rows = []
    for command in table():
        name = next((name for name in command.names if name.startswith(f"{group} ")), None)
        if name is not None:
            rows.append((name.removeprefix(f"{group} "), command.summary))
    return "\n\n".join(
        [
            f"Usage:  sampan {group} COMMAND",
            GROUPS[group],
            "Commands:\n" + "\n".join(_columns(sorted(rows))),
            f"Run 'sampan {group} COMMAND --help' for more information on a command.",
        ]
    )


def of_program() -> str:
    """The text of `sampan --help`."""
    summaries = {name: command.summary for command in table() for name in command.names if " " not in name}
    common = [(name, summaries[name]) for name in COMMON]
    others = sorted((name, text) for name, text in summaries.items() if name not in COMMON)
    return "\n\n".join(
        [
            "Usage:  sampan [OPTIONS] COMMAND",
            "One engine for containers and virtual machines.",
            "Common Commands:\n" + "\n".join(_columns(common)),
            "Management Commands:\n" + "\n".join(_columns(sorted(GROUPS.items()))),
            "Commands:\n" + "\n".join(_columns(others)),
            "Global Options:\n" + "\n".join(flag_lines(globals.FLAGS, _width())),
            "Run 'sampan COMMAND --help' for more information on a command.",
        ]
    )


def help(args: list[str]) -> str:
    """The text of `sampan help COMMAND`. Raises UsageError."""
    if not args:
        return of_program()
    found = find(args)
    if found is not None and not found[2]:
        return of_command(found[0], found[1])
    if args[0] in GROUPS and len(args) == 1:
        return of_group(args[0])
    raise UsageError(f"unknown help topic: {' '.join(args)}{_suggestion(' '.join(args))}")


def without_command(words: list[str]) -> int:
    """Says what is missing or wrong in words that name no command. Returns the exit code."""
    if words[0] in ("help", "--help"):
        print(help([word for word in words[1:] if word != "--help"]))
        return 0
    if words[0] in GROUPS and (len(words) == 1 or words[1] == "--help"):
        print(of_group(words[0]))
        return 0
    name = " ".join(words[:2]) if words[0] in GROUPS else words[0]
    if name.startswith("-"):
        raise UsageError(f"unknown flag: {name}")
    where = f"{words[0]} " if words[0] in GROUPS else ""
    print(
        f"sampan: '{name}' is not a sampan command.{_suggestion(name)}\n\nRun 'sampan {where}--help' for more information",
        file=sys.stderr,
    )
    return 1


def wrong_count(command: Command, name: str) -> UsageError:
    """What is said of too few or too many arguments."""
    least, most = command.least, command.most
    if most == 0:
        return UsageError(f"'sampan {name}' accepts no arguments", 1)
    count, bound = (least, "") if least == most else (least, "at least ") if most is None else (most, "at most ")
    if most is not None and least != most and least > 0:
        bound, count = f"{least} to ", most
    return UsageError(f"'sampan {name}' requires {bound}{count} argument{'s' if count != 1 else ''}", 1)


def flag_lines(flags: tuple[Flag, ...], width: int) -> list[str]:
    """A flag a line or more: its forms, its help and its default, aligned, no line longer than `width` where words allow it."""
    shown = flags if any(flag.name == "help" for flag in flags) else (*flags, _HELP)
    rows = [(_forms(flag), flag_text(flag)) for flag in shown if not flag.same]
    rows.sort(key=lambda row: row[0].lstrip(" ").rpartition("--")[2])
    left = max(len(forms) for forms, _ in rows) + 3
    lines = []
    for forms, text in rows:
        first, *more = textwrap.wrap(text, max(width - left, 30)) or [""]
        lines += [f"{forms:<{left}}{first}".rstrip(), *(f"{'':<{left}}{line}" for line in more)]
    return lines


def _forms(flag: Flag) -> str:
    short = f"-{flag.short}, " if flag.short else "    "
    return f"  {short}--{flag.name}{'' if flag.kind == BOOL else f' {flag.word}'}"


def flag_text(flag: Flag) -> str:
    """A flag's help with its default."""
    if flag.default in (None, False, ""):
        return flag.help
    shown = str(flag.default).lower() if flag.kind in (BOOL, INT) else f'"{flag.default}"'
    return f"{flag.help} (default {shown})"


def _columns(rows: list[tuple[str, str]]) -> list[str]:
    left = max(len(name) for name, _ in rows) + 2
    return [f"  {name:<{left}}{text}" for name, text in rows]


def _width() -> int:
    return shutil.get_terminal_size((100, 24)).columns


def _suggestion(name: str) -> str:
    """ "Did you mean ...?" of the names that are like one."""
    import difflib

    known = sorted(word for word in {*MODULES, *GROUPS} if (" " in word) == (" " in name))
    near = difflib.get_close_matches(name, known, 3, 0.7)
    near += [other for other in known if name and other.startswith(name) and other not in near][: 3 - len(near)]
    return f"\n\nDid you mean {' or '.join(repr(item) for item in near)}?" if near else ""
