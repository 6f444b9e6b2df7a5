"""Manual pages (man(7)), made of the table of commands."""

from __future__ import annotations

from sampan.cli import globals, help
from sampan.cli.flags import BOOL, Command, Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_MADE = '.\\" Made by scripts/command_table of the table of commands (src/sampan/cli/table).'
_FLAG_CODE = "A command line that can't be read ends with code 125."
_CODES = {
    "container run": "The code of the process. 125 when the engine or the command line is at fault, 126 when the command can't be run, 127 when it is not found.",
    "container exec": "The code of the command. 125 when the command line is at fault, 126 when the command can't be run, 127 when it is not found.",
}  # fmt: skip


def pages(commands: Iterable[Command]) -> dict[str, str]:
    """The pages by the names of their files."""
    found = {f"sampan-{title(command)}.1": _page(command) for command in commands}
    return found | {"sampan.1": _program(commands)}


def title(command: Command) -> str:
    """The name of a command's page: its short name, if it has one, with hyphens."""
    return next((name for name in command.names if " " not in name), command.name).replace(" ", "-")


def _page(command: Command) -> str:
    names = [f"sampan {name}" for name in command.names]
    usages = [f".B {_text(name)}\n{_text(f'{_options(command)}{command.arguments}'.strip())}\n.br" for name in names]
    parts = [
        _head(f"sampan-{title(command)}"),
        f".SH NAME\nsampan-{_text(title(command))} \\- {_text(command.summary)}",
        ".SH SYNOPSIS\n" + "\n".join(usages),
        f".SH DESCRIPTION\n{_text(command.summary)}.",
    ]
    if command.flags:
        parts.append(".SH OPTIONS\n" + _flags(command.flags))
    parts.append(f".SH EXIT STATUS\n{_text(_CODES.get(command.name, f'0, or 1 after a failure. {_FLAG_CODE}'))}")
    parts.append(".SH SEE ALSO\n.BR sampan (1)")
    return "\n".join(parts) + "\n"


def _program(commands: Iterable[Command]) -> str:
    rows = [
        f".TP\n.BR sampan\\-{_text(title(command))} (1)\n{_text(command.summary)}"
        for command in sorted(commands, key=title)
    ]
    return "\n".join([
        _head("sampan"),
        ".SH NAME\nsampan \\- one engine for containers and virtual machines",
        ".SH SYNOPSIS\n.B sampan\n[OPTIONS] COMMAND",
        ".SH DESCRIPTION\nSampan runs images as containers and as virtual machines. Its commands and flags are those of Docker's command line where both have them.",
        ".SH OPTIONS\n" + _flags(globals.FLAGS),
        ".SH COMMANDS\n" + "\n".join(rows),
        ".SH ENVIRONMENT",
        ".TP\n.B SAMPAN_HOST\nThe engine's socket, as with \\-\\-host.",
        ".TP\n.B SAMPAN_CONTEXT\nThe context whose engine is meant, as with \\-\\-context.",
        ".TP\n.B SAMPAN_AUTOSTART\nWith 0 no engine is started when none listens.",
        ".TP\n.B DOCKER_CONFIG\nThe directory of config.json, as with \\-\\-config.",
    ]) + "\n"  # fmt: skip


def _head(name: str) -> str:
    return f'{_MADE}\n.TH {name.upper()} 1 "" Sampan "Sampan manual"'


def _options(command: Command) -> str:
    return "[OPTIONS] " if command.flags else ""


def _flags(flags: Iterable[Flag]) -> str:
    rows = []
    for flag in sorted(flags, key=lambda flag: flag.name):
        if flag.same:
            continue
        short = f"\\fB\\-{flag.short}\\fR, " if flag.short else ""
        value = "" if flag.kind == BOOL else f" \\fI{_text(flag.word)}\\fR"
        rows.append(f".TP\n{short}\\fB\\-\\-{_text(flag.name)}\\fR{value}\n{_text(help.flag_text(flag))}")
    return "\n".join(rows)


def _text(text: str) -> str:
    """A text without meaning for troff."""
    plain = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    return f"\\&{plain}" if plain.startswith(".") else plain
