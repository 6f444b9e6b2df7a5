"""The tree of a Go template (text/template/parse), as far as Docker's users meet it."""

from __future__ import annotations

from sampan.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class TemplateError(Exception):
    """A template that can't be read, or does not fit what it is given; the message is Go's."""


@record
class Literal:
    """A constant: text, number, true, false or nil."""

    value: Any


@record
class Dot:
    """`.`"""

    text: str


@record
class Name:
    """A function without arguments yet, such as `len`."""

    name: str
    position: int


@record
class Variable:
    """`$` or `$name`."""

    name: str


@record
class Field:
    """`.A.B` of something: of the dot, of a variable or of a pipeline in parentheses."""

    of: Any
    names: list[str]
    text: str
    position: int


@record
class Call:
    """A command of a pipeline: an operand and the arguments that follow it."""

    words: list[Any]
    text: str
    position: int


@record
class Pipeline:
    """Commands, each with the result of the one before as its last argument; `$a, $b :=` in front of them."""

    commands: list[Call]
    variables: list[str]
    declares: bool


@record
class Text:
    """What is between actions."""

    text: str


@record
class Action:
    """`{{pipeline}}`"""

    pipeline: Pipeline


@record
class Branch:
    """`if`, `with` or `range` with its two lists."""

    kind: str
    pipeline: Pipeline
    then: list[Any]
    otherwise: list[Any]


@record
class Include:
    """`{{template "name" pipeline}}`"""

    name: str
    pipeline: Pipeline | None


@record
class Leave:
    """`{{break}}` or `{{continue}}`"""

    kind: str
