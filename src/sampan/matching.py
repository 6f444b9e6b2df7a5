"""Patterns from somebody else, matched in linear time by RE2: name filters, references, .dockerignore, wildcards of COPY.

Python's `re` backtracks, so that `(a+)+$` and forty letters take for ever, and holds the interpreter's lock meanwhile: the whole
daemon stands still. RE2 (google-re2) has the syntax of Go's regexp, which Docker's filters are documented with, and no backtracking.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_PATTERN = 4096  # characters; one of a filter, a reference or a path is never near it
_MEMORY = 8 << 20  # bytes that RE2 may use for one pattern


class BadPattern(ValueError):
    """It is no pattern, or too large a one."""


class Pattern:
    """A compiled pattern. Text that is no Unicode (bytes of a file name) is matched with U+FFFD in its place."""

    __slots__ = ("_compiled",)

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled

    def found_in(self, text: str) -> bool:
        """Whether it matches somewhere in `text`."""
        return self._compiled.search(_unicode(text)) is not None

    def matches(self, text: str) -> bool:
        """Whether it matches the whole of `text`."""
        return self._compiled.fullmatch(_unicode(text)) is not None

    def length_at_start(self, text: str) -> int | None:
        """How many characters at the start of `text` it matches, or None."""
        found = self._compiled.match(_unicode(text))
        return None if found is None else int(found.end())

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Where it matches in `text`, from left to right, without overlaps."""
        return [found.span() for found in self._compiled.finditer(_unicode(text))]


def _unicode(text: str) -> str:
    if text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text):
        return text
    return "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in text)


@lru_cache(maxsize=512)
def expression(text: str) -> Pattern:
    """A regular expression in RE2's (Go's) syntax. Raises BadPattern."""
    import re2  # 10 ms to import: most requests have no pattern

    if len(text) > MAX_PATTERN:
        raise BadPattern(f"a pattern of {len(text)} characters is too long: {MAX_PATTERN} at most")
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MEMORY
    options.dot_nl = True
    try:
        return Pattern(re2.compile(_unicode(text), options))
    except re2.error as error:
        raise BadPattern(f"{text!r} is no pattern: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    found = error.args[0] if error.args else error
    return found.decode("utf-8", "replace") if isinstance(found, bytes) else str(found)


def literal(text: str) -> str:
    """An expression that matches `text` and nothing else."""
    return "".join(char if char.isalnum() or char in "/_" else f"\\x{{{ord(char):x}}}" for char in _unicode(text))


def path_expression(pattern: str, across: bool = False) -> str:
    """Go's path.Match as an expression: `*` and `?` stop at "/", `[a-z]`, `[^a]`, backslash; with `across`, `**` is any directories.

    Raises BadPattern.
    """
    parts: list[str] = []
    chars = _Chars(pattern)
    for char in chars:
        if char == "*" and across and chars.next_is("*"):
            chars.take()
            if chars.next_is("/"):
                chars.take()
            parts.append("(?:.*/)?" if chars.left else ".*")
        elif char == "*":
            parts.append("[^/]*")
        elif char == "?":
            parts.append("[^/]")
        elif char == "[":
            parts.append(_class(chars))
        else:
            parts.append(literal(chars.escaped() if char == "\\" else char))
    return "".join(parts)


def _class(chars: _Chars) -> str:
    negated = chars.next_is("^") or chars.next_is("!")
    if negated:
        chars.take()
    ranges: list[str] = []
    while not (ranges and chars.next_is("]")):
        low = high = _member(chars)
        if chars.next_is("-"):
            chars.take()
            if chars.next_is("]"):  # a hyphen at the end stands for itself
                ranges += [_range(low, low), _range("-", "-")]
                continue
            high = _member(chars)
        if high < low:
            raise BadPattern(f"syntax error in pattern: {chars.text!r}")
        ranges.append(_range(low, high))
    chars.take()
    return f"[{'^/' if negated else ''}{''.join(ranges)}]"


def _range(low: str, high: str) -> str:
    return f"\\x{{{ord(low):x}}}-\\x{{{ord(high):x}}}"


def _member(chars: _Chars) -> str:
    char = chars.take()
    return chars.escaped() if char == "\\" else char


class _Chars:
    """A pattern's characters, one after the other. Raises BadPattern where one is missing."""

    def __init__(self, text: str) -> None:
        self.text, self._at = text, 0

    def __iter__(self) -> Iterator[str]:
        while self.left:
            yield self.take()

    @property
    def left(self) -> bool:
        return self._at < len(self.text)

    def next_is(self, char: str) -> bool:
        return self.text.startswith(char, self._at)

    def take(self) -> str:
        if not self.left:
            raise BadPattern(f"syntax error in pattern: {self.text!r}")
        self._at += 1
        return _unicode(self.text[self._at - 1])

    def escaped(self) -> str:
        return self.take()


def path(pattern: str, across: bool = False) -> Pattern:
    """A whole path that matches; see path_expression(). Raises BadPattern."""
    return expression(path_expression(pattern, across))
