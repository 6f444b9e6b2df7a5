"""Runs the tree of a Go template on a value."""

from __future__ import annotations

from sampan.cli.template.functions import FUNCTIONS, LAZY, CallError, truth
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
from sampan.cli.template.parser import parse
from sampan.cli.template.printing import kind, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

_DEPTH = 200  # of templates that include each other: a fifth of what the interpreter's stack has
_NONE = object()


class _Left(Exception):
    """break or continue, on its way to its range."""


class Template:
    """A template that has been read; `more` are functions over those of Docker's CLI, by name."""

    def __init__(self, source: str, more: Mapping[str, Callable[..., object]] | None = None) -> None:
        self.source = source
        self.functions = {**FUNCTIONS, **{name: (function, 0, None) for name, function in (more or {}).items()}}
        try:
            self.templates = parse(source, {*self.functions, *LAZY})
        except RecursionError:
            raise TemplateError("template: :1: nested too deeply") from None

    def render(self, value: object) -> str:
        """The text the template makes of a value. Raises TemplateError."""
        run = _Run(self, value)
        try:
            run.nodes(self.templates[""], value)
        except RecursionError:
            raise TemplateError("template: :1: nested too deeply") from None
        except _Left:
            raise TemplateError("template: :1: break or continue outside range") from None
        return "".join(run.out)


class _Run:
    def __init__(self, template: Template, value: object) -> None:
        self._template = template
        self.out: list[str] = []
        self._variables: list[tuple[str, Any]] = [("$", value)]
        self._depth = 0

    def _error(self, message: str, text: str, position: int) -> TemplateError:
        source = self._template.source
        line = source.count("\n", 0, position) + 1
        column = position - (source.rfind("\n", 0, position) + 1)
        return TemplateError(f'template: :{line}:{column}: executing "" at <{text}>: {message}')

    # Statements

    def nodes(self, nodes: list[object], dot: object) -> None:
        """Runs a list of nodes; the variables it declares end with it."""
        depth = len(self._variables)
        for node in nodes:
            self._node(node, dot)
        del self._variables[depth:]

    def _node(self, node: object, dot: object) -> None:
        if isinstance(node, Text):
            self.out.append(node.text)
        elif isinstance(node, Action):
            value = self._pipeline(node.pipeline, dot)
            if not node.pipeline.variables:
                self.out.append("<no value>" if value is None else shown(value))
        elif isinstance(node, Branch):
            depth = len(self._variables)
            self._range(node, dot) if node.kind == "range" else self._choose(node, dot)
            del self._variables[depth:]
        elif isinstance(node, Include):
            self._include(node, dot)
        elif isinstance(node, Leave):
            raise _Left(node.kind)

    def _choose(self, node: Branch, dot: object) -> None:
        value = self._pipeline(node.pipeline, dot)
        if truth(value):
            self.nodes(node.then, value if node.kind == "with" else dot)
        else:
            self.nodes(node.otherwise, dot)

    def _range(self, node: Branch, dot: object) -> None:
        found = self._pipeline(Pipeline(node.pipeline.commands, [], False), dot)
        pairs: list[tuple[Any, Any]]
        if isinstance(found, dict):
            pairs = sorted(found.items())
        elif isinstance(found, list):
            pairs = list(enumerate(found))
        elif isinstance(found, int) and not isinstance(found, bool):
            pairs = [(number, number) for number in range(found)]
        elif found is None:
            pairs = []
        else:
            call = node.pipeline.commands[-1]
            raise self._error(f"range can't iterate over {shown(found)}", call.text, call.position)
        names, depth = node.pipeline.variables, len(self._variables)
        for key, value in pairs:
            given = [value] if len(names) == 1 else [key, value]
            for name, item in zip(names, given, strict=False):
                self._set(name, item, node.pipeline.declares)
            try:
                self.nodes(node.then, value)
            except _Left as left:
                if str(left) == "break":
                    break
            finally:
                del self._variables[depth:]
        if not pairs:
            self.nodes(node.otherwise, dot)

    def _include(self, node: Include, dot: object) -> None:
        body = self._template.templates.get(node.name)
        if body is None:
            raise TemplateError(f'template: :1: template "{node.name}" not defined')
        value = self._pipeline(node.pipeline, dot) if node.pipeline else None
        if self._depth >= _DEPTH:
            raise TemplateError(f"template: exceeded maximum template depth ({_DEPTH})")
        outer, self._variables, self._depth = self._variables, [("$", value)], self._depth + 1
        self.nodes(body, value)
        self._variables, self._depth = outer, self._depth - 1

    # Values

    def _set(self, name: str, value: object, declares: bool) -> None:
        if declares:
            self._variables.append((name, value))
            return
        for index in range(len(self._variables) - 1, -1, -1):
            if self._variables[index][0] == name:
                self._variables[index] = (name, value)
                return

    def _pipeline(self, pipeline: Pipeline, dot: object) -> object:
        value: Any = _NONE
        for call in pipeline.commands:
            value = self._call(call, dot, value)
        for name in pipeline.variables:
            self._set(name, value, pipeline.declares)
        return value

    def _call(self, call: Call, dot: object, last: object) -> object:
        first, *rest = call.words
        final = [] if last is _NONE else [last]
        if isinstance(first, Name):
            if first.name in LAZY:
                return self._and_or(first.name, rest, dot, final)
            return self._function(first, call, [*(self._value(word, dot) for word in rest), *final])
        value = self._value(first, dot, called=True)
        if callable(value):
            given = [*(self._value(word, dot) for word in rest), *final]
            try:
                return value(*given)
            except TypeError:
                message = f"wrong number of args for {call.text.split()[0].rpartition('.')[2]}: got {len(given)}"
                raise self._error(message, call.text, call.position) from None
        if rest or final:
            text = first.text if isinstance(first, Field) else call.text
            raise self._error(f"{text} is not a method but has arguments", text, call.position) if isinstance(first, Field) else self._error(
                f"can't give argument to non-function {call.text.split()[0]}", call.text, call.position)  # fmt: skip
        return value

    def _function(self, name: Name, call: Call, given: list[object]) -> object:
        function, least, most = self._template.functions[name.name]
        if len(given) < least or (most is not None and len(given) > most):
            wanted = f"want {least}" if least == most else f"want at least {least}"
            raise self._error(
                f"wrong number of args for {name.name}: {wanted} got {len(given)}", name.name, name.position
            )
        try:
            return function(*given)
        except CallError as error:
            raise self._error(f"error calling {name.name}: {error}", call.text, call.position) from None

    def _and_or(self, name: str, words: list[object], dot: object, final: list[object]) -> object:
        value: Any = None
        for word in words:
            value = self._value(word, dot)
            if truth(value) == (name == "or"):
                return value
        return final[0] if final else value

    def _value(self, node: Any, dot: Any, called: bool = False) -> object:
        if isinstance(node, Literal):
            return node.value
        if isinstance(node, Dot):
            return dot
        if isinstance(node, Variable):
            return next(value for name, value in reversed(self._variables) if name == node.name)
        if isinstance(node, Pipeline):
            return self._pipeline(node, dot)
        if isinstance(node, Name):
            return self._function(node, Call([node], node.name, node.position), [])
        value = self._value(node.of, dot)
        for name in node.names:
            value = self._field(value, name, node)
        return value() if callable(value) and not called else value

    def _field(self, value: object, name: str, node: Field) -> object:
        if isinstance(value, dict):
            if name in value:
                return value[name]
            method = getattr(value, "methods", {}).get(name)
            if method is not None:
                return method
            if getattr(value, "kind", ""):
                raise self._error(
                    f"can't evaluate field {name} in type {getattr(value, 'kind', '')}", node.text, node.position
                )
            raise self._error(f'map has no entry for key "{name}"', node.text, node.position)
        if value is None:
            raise self._error(f"nil data; no entry for key {name!r}".replace("'", '"'), node.text, node.position)
        raise self._error(f"can't evaluate field {name} in type {kind(value) if isinstance(value, list) else 'interface {}'}", node.text, node.position)  # fmt: skip
