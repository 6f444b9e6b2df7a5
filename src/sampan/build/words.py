r"""Words of a Dockerfile: quotes, the escape character and variables with their modifiers.

Source: "Environment replacement" and "Escape directive" in the Dockerfile reference. A word is taken apart as a
shell does: '...' keeps all, "..." expands variables, the escape character takes the meaning from what follows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from sampan import matching
from sampan.matching import Pattern

_NAME_START = re.compile(r"[A-Za-z_]")
_SPECIAL = "@*#?-$!0123456789"
# A few short lines that double a variable each would take all memory there is.
MOST = 1 << 20  # characters that the variables of one word may bring
_DEEPEST = 64


class WordError(ValueError):
    """The word can't be expanded: a bad modifier, a missing bracket, an unterminated quote, a `${x:?}` without x."""


@dataclass(slots=True)
class _Lexer:
    text: str
    variables: Mapping[str, str]
    escape: str
    raw: bool = False  # keep quotes and escapes, expand only (a heredoc's body)
    position: int = 0
    brought: int = 0
    depth: int = 0

    def peek(self) -> str:
        return self.text[self.position : self.position + 1]

    def take(self) -> str:
        char = self.text[self.position : self.position + 1]
        self.position += 1
        return char

    def until(self, stop: str) -> str:
        """Expanded text up to an unquoted `stop`, or to the end for ""."""
        found = []
        while (char := self.peek()) and char != stop:
            if char == "'" and not self.raw:
                found.append(self._single())
            elif char == '"' and not self.raw:
                found.append(self._double())
            elif char == "$":
                found.append(self._dollar())
            elif char == self.escape:
                found.append(self._escaped())
            else:
                found.append(self.take())
        return "".join(found)

    def _escaped(self) -> str:
        escape = self.take()
        following = self.take()
        if self.raw:
            return following if following == "$" else escape + following
        if not following:
            return escape
        return following

    def _single(self) -> str:
        self.take()
        end = self.text.find("'", self.position)
        if end < 0:
            raise WordError("unexpected end of statement while looking for matching single-quote")
        found, self.position = self.text[self.position : end], end + 1
        return found

    def _double(self) -> str:
        self.take()
        found: list[str] = []
        while char := self.peek():
            if char == '"':
                self.take()
                return "".join(found)
            if char == "$":
                found.append(self._dollar())
            elif char == self.escape:
                self.take()
                following = self.take()
                if not following:
                    raise WordError("unexpected end of statement while looking for matching double-quote")
                found.append(following if following in ('"', "$", self.escape) else self.escape + following)
            else:
                found.append(self.take())
        raise WordError("unexpected end of statement while looking for matching double-quote")

    def _dollar(self) -> str:
        self.take()
        if self.peek() == "{":
            self.take()
            self.depth += 1
            if self.depth > _DEEPEST:
                raise WordError(f"variables nested deeper than {_DEEPEST}")
            found = self._braces()
            self.depth -= 1
        else:
            name = self._name()
            found = self.variables.get(name, "") if name else "$"
        self.brought += len(found)
        if self.brought > MOST:
            raise WordError(f"its variables have more than {MOST} characters")
        return found

    def _name(self) -> str:
        char = self.peek()
        if char and char in _SPECIAL:
            return self.take()
        start = self.position
        if char and _NAME_START.fullmatch(char):
            while (char := self.peek()) and (char.isalnum() or char == "_") and char.isascii():
                self.take()
        return self.text[start : self.position]

    def _braces(self) -> str:
        name = self._name()
        if not name:
            if not self.peek():
                raise WordError("syntax error: missing '}'")
            raise WordError(
                "syntax error: bad substitution" if self.peek() != "}" else "syntax error: empty variable name"
            )
        value = self.variables.get(name)
        char = self.take()
        if char == "}":
            return value or ""
        if char == ":":
            return self._default(name, value or None, self.take(), ":")
        if char in "+-?":
            return self._default(name, value, char, "")
        if char in "#%" and char:
            greedy = self.peek() == char
            if greedy:
                self.take()
            pattern = self._argument("}")
            return _strip(value or "", pattern, front=char == "#", greedy=greedy)
        if char == "/":
            everywhere = self.peek() == "/"
            if everywhere:
                self.take()
            pattern = self._argument("/")
            replacement = self._argument("}")
            return _replace(value or "", pattern, replacement, everywhere)
        if not char:
            raise WordError("syntax error: missing '}'")
        raise WordError(f"unsupported modifier ({char}) in substitution")

    def _default(self, name: str, value: str | None, modifier: str, colon: str) -> str:
        word = self._argument("}")
        if modifier == "-":
            return word if value is None else value
        if modifier == "+":
            return "" if value is None else word
        if modifier == "?":
            if value is None:
                raise WordError(
                    f"{name}: {word or 'parameter is not set' if not colon else word or 'parameter is null or not set'}"
                )
            return value
        raise WordError(f"unsupported modifier ({colon}{modifier}) in substitution")

    def _argument(self, stop: str) -> str:
        found = self.until(stop)
        if self.take() != stop:
            raise WordError("syntax error: missing '}'" if stop == "}" else "syntax error: missing '/' in substitution")
        return found


def _expression(pattern: str, greedy: bool = True, backwards: bool = False) -> Pattern:
    """A shell pattern, only * ? and escaped characters; `backwards` for text that is turned round. Raises WordError."""
    parts, index = [], 0
    while index < len(pattern):
        char = pattern[index]
        if char == "\\" and index + 1 < len(pattern):
            index += 1
            parts.append(matching.literal(pattern[index]))
        elif char == "*":
            parts.append(".*" if greedy else ".*?")
        elif char == "?":
            parts.append(".")
        else:
            parts.append(matching.literal(char))
        index += 1
    try:
        return matching.expression("".join(reversed(parts) if backwards else parts))
    except matching.BadPattern as error:
        raise WordError(f"bad pattern: {error}") from None


def _strip(value: str, pattern: str, front: bool, greedy: bool) -> str:
    """Removes the shortest or longest match at the front or the end."""
    length = _expression(pattern, greedy, backwards=not front).length_at_start(value if front else value[::-1])
    if not length:
        return value
    return value[length:] if front else value[:-length]


def _replace(value: str, pattern: str, replacement: str, everywhere: bool) -> str:
    """Replaces the first match, or each of them."""
    spans = _expression(pattern).spans(value)[: None if everywhere else 1]
    if len(spans) * len(replacement) > MOST:
        raise WordError(f"replacing makes more than {MOST} characters")
    parts, done = [], 0
    for start, end in spans:
        parts += [value[done:start], replacement]
        done = end
    return "".join([*parts, value[done:]])


def expand(word: str, variables: Mapping[str, str], escape: str = "\\") -> str:
    """One word with quotes and escapes taken off and variables replaced. Raises WordError."""
    return _Lexer(word, variables, escape).until("")


def expand_body(body: str, variables: Mapping[str, str]) -> str:
    r"""A heredoc's body: variables replaced everywhere, `\$` is "$", quotes stay (P001). Raises WordError."""
    return _Lexer(body, variables, "\\", raw=True).until("")


def expand_list(text: str, variables: Mapping[str, str], escape: str = "\\") -> list[str]:
    """As expand(), and what unquoted variables bring is split at spaces (EXPOSE $PORTS). Raises WordError."""
    return [part for word in split(text, escape) for part in _fields(word, variables, escape)]


def _fields(word: str, variables: Mapping[str, str], escape: str) -> list[str]:
    found = expand(word, variables, escape)
    return found.split() if "$" in word and '"' not in word and "'" not in word else [found]


def split(text: str, escape: str = "\\") -> list[str]:
    """Words at unquoted, unescaped white space; quotes and escapes stay in them. Raises WordError at an open quote."""
    words, current, quote, index = [], "", "", 0
    started = False
    while index < len(text):
        char = text[index]
        if char == escape and quote != "'" and index + 1 < len(text):
            current += char + text[index + 1]
            started, index = True, index + 2
            continue
        if quote:
            quote = "" if char == quote else quote
            current += char
        elif char in "'\"":
            quote, started = char, True
            current += char
        elif char.isspace():
            if started:
                words.append(current)
            current, started = "", False
        else:
            current += char
            started = True
        index += 1
    if quote:
        raise WordError(
            f"unexpected end of statement while looking for matching {'single' if quote == chr(39) else 'double'}-quote"
        )
    if started:
        words.append(current)
    return words
