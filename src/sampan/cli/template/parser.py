"""Makes the tree of a Go template."""

from __future__ import annotations

from sampan.cli.template.lexer import Piece, Token, line, pieces
from sampan.cli.template.nodes import (
    Action,
    Branch,
    Call,
    Dot,
    Field,
    Include,
    Leave,
    Literal,
    Name,
    Pipeline,
    TemplateError,
    Text,
    Variable,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Any

_CONSTANTS = {"true": True, "false": False, "nil": None}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v", "\\": "\\", '"': '"', "'": "'"}


def parse(source: str, functions: Collection[str]) -> dict[str, list[Any]]:
    """The templates by name; the whole one is "". Raises TemplateError."""
    return _Parser(source, functions).run()


class _Parser:
    def __init__(self, source: str, functions: Collection[str]) -> None:
        self.source, self.functions = source, functions
        self._pieces, self._next = pieces(source), 0
        self._tokens: list[Token] = []
        self._at = 0
        self._templates: dict[str, list[Any]] = {}
        self._variables: list[str] = ["$"]
        self._loops = 0

    def run(self) -> dict[str, list[Any]]:
        body, ending = self._body()
        if ending:
            raise self._error(f"unexpected {{{{{ending}}}}}")
        return {"": body, **self._templates}

    def _error(self, message: str, position: int | None = None) -> TemplateError:
        if position is None:
            position = self._tokens[-1].position if self._tokens else len(self.source)
        return TemplateError(f"template: :{line(self.source, position)}: {message}")

    # Lists of nodes

    def _body(self) -> tuple[list[Any], str]:
        """(nodes, the word that ended them: "end", "else", or "" at the end of the template)."""
        nodes: list[Any] = []
        while self._next < len(self._pieces):
            piece: Piece = self._pieces[self._next]
            self._next += 1
            if piece.tokens is None:
                if piece.text:
                    nodes.append(Text(piece.text))
                continue
            self._tokens, self._at = piece.tokens, 0
            word = self._keyword()
            if word in ("end", "else"):
                if word == "end":
                    self._done("end")
                return nodes, word
            node = self._statement(word)
            if node is not None:
                nodes.append(node)
        return nodes, ""

    def _keyword(self) -> str:
        words = ("if", "with", "range", "end", "else", "define", "template", "block", "break", "continue")
        token = self._peek()
        if token is not None and token.kind == "word" and token.text in words:
            self._at += 1
            return token.text
        return ""

    def _statement(self, word: str) -> object:
        if word in ("if", "with", "range"):
            return self._branch(word)
        if word in ("define", "block"):
            return self._define(word)
        if word == "template":
            name = self._string("template clause")
            pipeline = self._pipeline("template") if self._peek() else None
            return Include(name, pipeline)
        if word in ("break", "continue"):
            if not self._loops:
                raise self._error(f"{{{{{word}}}}} outside {{{{range}}}}")
            self._done(word)
            return Leave(word)
        return Action(self._pipeline("command"))

    def _branch(self, kind: str) -> Branch:
        depth = len(self._variables)
        pipeline = self._pipeline(kind, ranged=kind == "range")
        self._loops += kind == "range"
        then, ending = self._body()
        self._loops -= kind == "range"
        otherwise: list[Any] = []
        if ending == "else":
            following = self._keyword()
            if following and following == kind and kind != "range":
                otherwise = [self._branch(kind)]
                ending = "end"
            else:
                self._done("else")
                otherwise, ending = self._body()
        if ending != "end":
            raise self._error("unexpected EOF" if not ending else "expected end; found {{else}}")
        del self._variables[depth:]
        return Branch(kind, pipeline, then, otherwise)

    def _define(self, word: str) -> Include | None:
        name = self._string(f"{word} clause")
        pipeline = self._pipeline("block") if word == "block" else None
        outer, self._variables = self._variables, ["$"]
        body, ending = self._body()
        self._variables = outer
        if ending != "end":
            raise self._error("unexpected EOF")
        self._templates[name] = body
        return Include(name, pipeline) if word == "block" else None

    # Tokens of an action

    def _peek(self) -> Token | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _is(self, *texts: str) -> bool:
        token = self._peek()
        return token is not None and token.kind == "mark" and token.text in texts

    def _done(self, context: str) -> None:
        if token := self._peek():
            raise self._error(f"unexpected <{token.text}> in {context}", token.position)

    def _string(self, context: str) -> str:
        token = self._peek()
        if token is None or token.kind != "string":
            raise self._error(f"unexpected {repr(token.text) if token else 'end of action'} in {context}")
        self._at += 1
        return self._unquoted(token)

    def _pipeline(self, context: str, ranged: bool = False, inner: bool = False) -> Pipeline:
        variables, declares = self._declaration(ranged)
        commands: list[Call] = []
        while True:
            commands.append(self._command(context))
            if not self._is("|"):
                break
            self._at += 1
        if inner:
            if not self._is(")"):
                raise self._error("unclosed left paren")
            self._at += 1
        else:
            self._done(context)
        if declares:
            self._variables += variables
        return Pipeline(commands, variables, declares)

    def _declaration(self, ranged: bool) -> tuple[list[str], bool]:
        """`$x :=`, `$x =` or `$i, $x :=`."""
        start, found = self._at, []
        while (token := self._peek()) is not None and token.kind == "variable":
            found.append(token.text)
            self._at += 1
            if self._is(":=", "="):
                declares = self._tokens[self._at].text == ":="
                self._at += 1
                if not declares and not set(found) <= set(self._variables):
                    raise self._error(f'undefined variable "{found[0]}"', token.position)
                return found, declares
            if not (ranged and self._is(",") and len(found) < 2):
                break
            self._at += 1
        self._at = start
        return [], False

    def _command(self, context: str) -> Call:
        words: list[Any] = []
        first = self._peek()
        start = first.position if first else len(self.source)
        while True:
            operand = self._operand()
            if operand is None:
                break
            words.append(operand)
            token = self._peek()
            if token is None or (token.kind == "mark" and token.text in ("|", ")")):
                break
            if not token.spaced:
                raise self._error(f"unexpected <{token.text}> in operand", token.position)
        if not words:
            token = self._peek()
            raise self._error(f"unexpected <{token.text}> in {context}" if token else f"missing value for {context}")
        if isinstance(words[0], Literal) and len(words) > 1:
            raise self._error(f"unexpected <{self._text(start)}> in operand", start)
        return Call(words, self._text(start), start)

    def _text(self, start: int) -> str:
        last = self._tokens[self._at - 1]
        return self.source[start : last.position + len(last.text)]

    def _operand(self) -> object:
        token = self._peek()
        if token is None or (token.kind == "mark" and token.text not in (".", "(")):
            return None
        self._at += 1
        node: Any
        names: list[str] = []
        position = token.position
        if token.kind == "field":
            node, names = Dot("."), [token.text[1:]]
        elif token.kind == "mark":
            node = Dot(".") if token.text == "." else self._pipeline("parenthesized pipeline", inner=True)
        else:
            node = self._atom(token)
        while (following := self._peek()) is not None and following.kind == "field" and not following.spaced:
            if len(names) == 1 or (not names and token.kind != "field"):
                position = following.position
            names.append(following.text[1:])
            self._at += 1
        if not names:
            return node
        if isinstance(node, Literal):
            raise self._error(f"unexpected . after term {token.text!r}", token.position)
        return Field(node, names, self._text(token.position), position)

    def _atom(self, token: Token) -> object:
        if token.kind == "variable":
            if token.text not in self._variables:
                raise self._error(f'undefined variable "{token.text}"', token.position)
            return Variable(token.text)
        if token.kind == "word":
            if token.text in _CONSTANTS:
                return Literal(_CONSTANTS[token.text])
            if token.text not in self.functions:
                raise self._error(f'function "{token.text}" not defined', token.position)
            return Name(token.text, token.position)
        if token.kind == "number":
            return Literal(self._number(token))
        text = self._unquoted(token)
        return Literal(ord(text) if token.kind == "char" else text)

    def _number(self, token: Token) -> int | float:
        for read in (lambda text: int(text, 0), lambda text: int(text, 8), float):
            try:
                found: int | float = read(token.text)
                return found
            except ValueError:
                continue
        raise self._error(f"bad number syntax: {token.text!r}", token.position)

    def _unquoted(self, token: Token) -> str:
        """The text of a quoted one, by Go's escapes."""
        if token.text[0] == "`":
            return token.text[1:-1]
        text, found, at = token.text[1:-1], [], 0
        while at < len(text):
            if text[at] != "\\":
                found.append(text[at])
                at += 1
                continue
            letter = text[at + 1]
            digits = {"x": 2, "u": 4, "U": 8}.get(letter, 3)
            if letter in _ESCAPES:
                found.append(_ESCAPES[letter])
                at += 2
                continue
            start = at + (2 if letter in "xuU" else 1)
            try:
                found.append(chr(int(text[start : start + digits], 16 if letter in "xuU" else 8)))
            except ValueError:
                raise self._error("invalid syntax", token.position) from None
            at = start + digits
        return "".join(found)
