"""Commands and flags of a command line, read by the rules of Docker's CLI (those of pflag).

argparse takes 9 ms to import, cannot stop at the first positional argument and knows no
``--flag=false``; this table-driven parser has the few rules of Docker's (docs/adr/0003).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


# The kinds of values: a switch, a text, a whole number, a list of texts, and one whose texts are split at commas.
BOOL, STR, INT, LIST, STRINGS = "bool", "string", "int", "list", "strings"


class UsageError(Exception):
    """The command line is wrong. The message names the flag; `code` is the exit code, where it is not the command's own."""

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


class FlagError(UsageError):
    """A flag that does not exist, or whose value can't be read: exit code 125, as Docker's."""

    def __init__(self, message: str) -> None:
        super().__init__(message, 125)


class Flag:
    """A flag: long name, one-letter form or "", kind of its value, help, default, and the word for its value.

    `same` makes it another name of a flag, which no help shows.
    """

    __slots__ = ("default", "help", "kind", "name", "same", "short", "word")

    def __init__(
        self,
        name: str,
        short: str = "",
        kind: str = BOOL,
        help: str = "",
        default: bool | int | str | None = None,
        word: str = "",
        same: str = "",
    ) -> None:
        self.name, self.short, self.kind, self.help, self.same = name, short, kind, help, same
        self.default = default
        self.word = word or kind


class Command:
    """A command: its names, its function as "module:function" of this package, its flags and arguments.

    `least` and `most` count the arguments, None is any number. Where not `interspersed`, flags end at the first argument.
    """

    __slots__ = ("aliases", "arguments", "flags", "handler", "interspersed", "least", "most", "name", "summary")

    def __init__(
        self,
        name: str,
        handler: str,
        summary: str,
        arguments: str = "",
        flags: Iterable[Flag] = (),
        aliases: tuple[str, ...] = (),
        least: int = 0,
        most: int | None = 0,
        interspersed: bool = True,
    ) -> None:
        self.name, self.handler, self.summary, self.arguments = name, handler, summary, arguments
        self.flags, self.aliases, self.interspersed = tuple(flags), aliases, interspersed
        self.least, self.most = least, most

    @property
    def names(self) -> tuple[str, ...]:
        """All names, the longest first."""
        return (self.name, *self.aliases)


class Values:
    """The values of a command's flags by their long names."""

    __slots__ = ("_values", "given")

    def __init__(self, flags: Iterable[Flag]) -> None:
        self._values: dict[str, bool | int | str | list[str] | None] = {
            flag.name: [] if flag.kind in (LIST, STRINGS) else flag.default for flag in flags if not flag.same
        }
        self.given: set[str] = set()  # the long names of those on the command line

    def on(self, name: str) -> bool:
        """Whether a switch is on."""
        return bool(self._values[name])

    def text(self, name: str) -> str:
        """A text, "" where none was given."""
        return str(self._values[name] or "")

    def number(self, name: str) -> int | None:
        """A whole number, None where none was given."""
        value = self._values[name]
        return value if isinstance(value, int) else None

    def items(self, name: str) -> list[str]:
        """The texts of a flag that may be repeated."""
        value = self._values[name]
        return value if isinstance(value, list) else []

    def store(self, flag: Flag, shown: str, text: str) -> None:
        """Takes in one value from the command line. Raises FlagError."""
        name, value = flag.same or flag.name, self._values[flag.same or flag.name]
        self.given.add(name)
        if flag.kind == BOOL:
            self._values[name] = _boolean(shown, text)
        elif flag.kind == INT:
            self._values[name] = _number(shown, text)
        elif isinstance(value, list):
            value += text.split(",") if flag.kind == STRINGS else [text]
        else:
            self._values[name] = text


def _boolean(shown: str, text: str) -> bool:
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise FlagError(f'invalid argument "{text}" for "{shown}" flag: not true or false')


def _number(shown: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise FlagError(f'invalid argument "{text}" for "{shown}" flag: not a number') from None


class _Parser:
    """One pass over a command line."""

    def __init__(self, flags: Iterable[Flag], args: list[str]) -> None:
        self.values = Values(flags)
        self.rest: list[str] = []
        self._by_name = {flag.name: flag for flag in flags}
        self._by_short = {flag.short: flag for flag in flags if flag.short}
        self._args, self._index = args, 0

    def run(self, interspersed: bool) -> None:
        while self._index < len(self._args):
            arg = self._args[self._index]
            self._index += 1
            if arg == "--":
                self.rest += self._args[self._index :]
                return
            if not arg.startswith("-") or arg == "-":
                self.rest.append(arg)
                if not interspersed:
                    self.rest += self._args[self._index :]
                    return
            elif arg.startswith("--"):
                self._long(arg)
            else:
                self._letters(arg)

    def _next(self, missing: str) -> str:
        if self._index >= len(self._args):
            raise FlagError(f"flag needs an argument: {missing}")
        self._index += 1
        return self._args[self._index - 1]

    def _long(self, arg: str) -> None:
        name, equals, text = arg[2:].partition("=")
        flag = self._by_name.get(name)
        if flag is None:
            raise FlagError(f"unknown flag: --{name}")
        if not equals:
            text = "true" if flag.kind == BOOL else self._next(f"--{name}")
        self.values.store(flag, _shown(flag), text)

    def _letters(self, arg: str) -> None:
        letters = arg[1:]
        while letters:
            letter, letters = letters[0], letters[1:]
            flag = self._by_short.get(letter)
            if flag is None:
                raise FlagError(f"unknown shorthand flag: '{letter}' in {arg}")
            if flag.kind == BOOL and not letters.startswith("="):
                self.values.store(flag, _shown(flag), "true")
                continue
            text = letters.removeprefix("=") if letters else self._next(f"'{letter}' in {arg}")
            self.values.store(flag, _shown(flag), text)
            return


def _shown(flag: Flag) -> str:
    return f"-{flag.short}, --{flag.name}" if flag.short else f"--{flag.name}"


def parse(flags: Iterable[Flag], args: list[str], interspersed: bool = True) -> tuple[Values, list[str]]:
    """Returns (values, positional arguments). Raises FlagError.

    Without `interspersed` everything after the first positional argument is left alone.
    """
    parser = _Parser(flags, args)
    parser.run(interspersed)
    return parser.values, parser.rest
