"""Cuts a Go template into text and actions, and an action into tokens."""

from __future__ import annotations

import re

from sampan.cli.template.nodes import TemplateError
from sampan.record import record

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n]+)
      | (?P<string>"(?:\\.|[^"\\\n])*"|`[^`]*`)
      | (?P<char>'(?:\\[^\n]+?|[^'\\\n])')
      | (?P<number>[+-]?(?:0[xX][0-9a-fA-F_]+|0[bB][01_]+|0[oO][0-7_]+|(?:\d[\d_]*)?\.?\d[\d_]*(?:[eE][+-]?\d+)?))
      | (?P<variable>\$\w*)
      | (?P<field>\.[^\W\d]\w*)
      | (?P<word>[^\W\d]\w*)
      | (?P<mark>:=|[=|(),.])""",
    re.VERBOSE,
)
_SPACE = " \t\r\n"


@record
class Token:
    """A token, where it begins, and whether blanks are in front of it."""

    kind: str
    text: str
    position: int
    spaced: bool


@record
class Piece:
    """Text (no tokens), or an action."""

    text: str
    tokens: list[Token] | None


def pieces(source: str) -> list[Piece]:
    """A template's text and actions in order. Raises TemplateError."""
    found: list[Piece] = []
    at, trim = 0, False
    while True:
        begin = source.find("{{", at)
        text = source[at:] if begin < 0 else source[at:begin]
        text = text.lstrip(_SPACE) if trim else text
        if begin < 0:
            found.append(Piece(text, None))
            return found
        inner = begin + 2
        if source[inner : inner + 1] == "-" and source[inner + 1 : inner + 2] in tuple(_SPACE):
            text, inner = text.rstrip(_SPACE), inner + 2
        found.append(Piece(text, None))
        if source.startswith("/*", inner):
            at, trim = _comment(source, inner)
            continue
        tokens, at, trim = _action(source, inner)
        found.append(Piece("", tokens))


def _comment(source: str, at: int) -> tuple[int, bool]:
    end = source.find("*/", at)
    if end < 0:
        raise TemplateError(f"template: :{line(source, at)}: unclosed comment")
    end += 2
    for closing, trim in (("}}", False), (" -}}", True)):
        if source.startswith(closing, end):
            return end + len(closing), trim
    raise TemplateError(f"template: :{line(source, at)}: comment ends before closing delimiter")


def _action(source: str, at: int) -> tuple[list[Token], int, bool]:
    """(tokens, where the text goes on, whether blanks are cut off there)."""
    tokens: list[Token] = []
    spaced = False
    while True:
        if source.startswith("}}", at):
            return tokens, at + 2, False
        if source[at : at + 1] in tuple(_SPACE) and source.startswith("-}}", at + 1):
            return tokens, at + 4, True
        match = _TOKEN.match(source, at)
        if match is None or match.end() == at:
            raise TemplateError(f"template: :{line(source, at)}: {_mistake(source[at:])}")
        if match.lastgroup == "space":
            spaced = True
        else:
            tokens.append(Token(str(match.lastgroup), match[0], at, spaced))
            spaced = False
        at = match.end()


def _mistake(rest: str) -> str:
    if not rest:
        return "unclosed action"
    if rest[0] in '"`':
        return "unterminated quoted string" if rest[0] == '"' else "unterminated raw quoted string"
    if rest[0] == "'":
        return "unterminated character constant"
    return (
        f"unexpected {rest[0]!r} in operand"
        if rest[0] in "}{"
        else f"unrecognized character in action: U+{ord(rest[0]):04X} {rest[0]!r}"
    )


def line(source: str, position: int) -> int:
    """The line, from 1, of a place in a template."""
    return source.count("\n", 0, position) + 1
