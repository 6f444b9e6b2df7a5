"""Command-line flags as Docker's CLI reads them.

argparse takes 9 ms to import, cannot stop at the first positional argument and knows no
``--flag=false``; this table-driven parser has the few rules of Docker's (docs/adr/0003).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


BOOL, STR, INT, LIST = "bool", "string", "int", "list"


class UsageError(Exception):
    """The command line is wrong. The message names the flag."""


class Flag:
    """One flag: long name, one-letter form or "", kind, help and default."""

    __slots__ = ("default", "help", "kind", "name", "short")

    def __init__(self, name: str, short: str = "", kind: str = BOOL, help: str = "", default: Any = None) -> None:
        self.name, self.short, self.kind, self.help = name, short, kind, help
        self.default = default if default is not None else {BOOL: False, STR: "", INT: None, LIST: None}[kind]


def _boolean(name: str, text: str) -> bool:
    if text.lower() in ("1", "t", "true"):
        return True
    if text.lower() in ("0", "f", "false"):
        return False
    raise UsageError(f'invalid argument "{text}" for "--{name}" flag: not true or false')


def parse(flags: list[Flag], args: list[str], interspersed: bool = True) -> tuple[dict[str, Any], list[str]]:
    """Returns (values by long name, positional arguments). Raises UsageError.

    Without `interspersed` everything after the first positional argument is left alone.
    """
    by_name = {flag.name: flag for flag in flags}
    by_short = {flag.short: flag for flag in flags if flag.short}
    values: dict[str, Any] = {flag.name: ([] if flag.kind == LIST else flag.default) for flag in flags}
    rest: list[str] = []
    index = 0

    def store(flag: Flag, shown: str, text: str) -> None:
        if flag.kind == BOOL:
            values[flag.name] = _boolean(flag.name, text)
        elif flag.kind == INT:
            try:
                values[flag.name] = int(text)
            except ValueError:
                raise UsageError(f'invalid argument "{text}" for "{shown}" flag: not a number') from None
        elif flag.kind == LIST:
            values[flag.name].append(text)
        else:
            values[flag.name] = text

    while index < len(args):
        arg = args[index]
        index += 1
        if arg == "--":
            rest += args[index:]
            break
        if not arg.startswith("-") or arg == "-":
            rest.append(arg)
            if not interspersed:
                rest += args[index:]
                break
            continue
        if arg.startswith("--"):
            name, equals, text = arg[2:].partition("=")
            flag = by_name.get(name)
            if flag is None:
                raise UsageError(f"unknown flag: --{name}")
            if not equals and flag.kind == BOOL:
                text = "true"
            elif not equals:
                if index >= len(args):
                    raise UsageError(f"flag needs an argument: --{name}")
                text = args[index]
                index += 1
            store(flag, f"--{name}", text)
            continue
        letters = arg[1:]
        while letters:
            letter, letters = letters[0], letters[1:]
            flag = by_short.get(letter)
            if flag is None:
                raise UsageError(f"unknown shorthand flag: '{letter}' in {arg}")
            if flag.kind == BOOL and not letters.startswith("="):
                store(flag, f"-{letter}", "true")
                continue
            if letters:
                text = letters.removeprefix("=")
            elif index < len(args):
                text = args[index]
                index += 1
            else:
                raise UsageError(f"flag needs an argument: '{letter}' in {arg}")
            store(flag, f"-{letter}", text)
            break
    return values, rest


def usage(command: str, arguments: str, summary: str, flags: list[Flag]) -> str:
    """The text of --help."""
    lines = [f"Usage:  sampan {command} {arguments}".rstrip(), "", summary, ""]
    if flags:
        lines.append("Options:")
        for flag in sorted(flags, key=lambda item: item.name):
            short = f"-{flag.short}, " if flag.short else "    "
            kind = "" if flag.kind == BOOL else f" {flag.kind}"
            lines.append(f"  {short}--{flag.name}{kind:<8}   {flag.help}".rstrip())
    return "\n".join(lines)
