"""Filters of the build cache: those of Docker's `builder prune`, and the selectors that BuildKit's clients send."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from sampan.build.cache import BuildCache, Record
from sampan.engine.errors import BadRequest
from sampan.engine.filters import rules
from sampan.engine.filters.reading import Filters, invalid, shown
from sampan.engine.filters.rules import Rule, Test

_TEXTS: dict[str, Callable[[Record], Iterable[str]]] = {
    "id": lambda record: (record.key, record.key[:25]),
    "parent": lambda record: (),
    "type": lambda record: ("regular",),
    "description": lambda record: (record.description,),
}
_FLAGS: dict[str, Rule[Record]] = {
    "inuse": rules.boolean(lambda record: False),
    "shared": rules.boolean(lambda record: False),
    "private": rules.boolean(lambda record: True),
    "mutable": rules.boolean(lambda record: True),
    "immutable": rules.boolean(lambda record: False),
}


def _unused(key: str, values: list[str]) -> Test[Record]:
    """Not used since a time, or for a duration."""
    if len(values) != 1:
        raise invalid(key, " ".join(values))
    edge: Rule[Record] = rules.until(lambda record: int(record.used * 1e9))
    return edge(key, values)


def pruned(wanted: Filters) -> Test[Record]:
    """The test of a prune's filters. Raises BadRequest."""
    table: dict[str, Rule[Record]] = {key: rules.exactly(read) for key, read in _TEXTS.items()}
    table["description"] = rules.expressions(_TEXTS["description"])
    # `docker system prune --filter label=` sends its filters to every prune; a record of the cache has no labels.
    table |= rules.labels(lambda record: None)
    return rules.compile({**table, **_FLAGS, "until": _unused, "unused-for": _unused}, wanted)


def loose(passes: Test[Record], cache: BuildCache, everything: bool) -> Test[Record]:
    """Of what passes, what no image has as well; with `everything`, that too."""
    if everything:
        return passes
    shared = cache.shared()
    return lambda record: passes(record) and not shared(record)


def selected(selectors: list[str], unused_for: float) -> Test[Record]:
    """The test of BuildKit's `filter`: one of the selectors ("id==x", "type==regular,inuse") holds. Raises BadRequest."""
    tests = [_selector(text) for text in selectors if text.strip()]
    edge = time.time() - unused_for
    return lambda record: (not unused_for or record.used < edge) and (not tests or any(test(record) for test in tests))


def _selector(text: str) -> Test[Record]:
    found: list[Test[Record]] = []
    for part in text.split(","):
        field, operator, value = _parts(part.strip())
        key = field.lower()
        if key in _TEXTS:
            rule = (rules.expressions if operator == "~=" else rules.exactly)(_TEXTS[key])
        elif key in _FLAGS and operator != "~=":
            rule = _FLAGS[key]
        else:
            raise invalid(field)
        test = rule(key, [value.strip("\"'") if operator else "true"])
        found.append(_not(test) if operator.startswith("!") else test)
    return lambda record: all(test(record) for test in found)


def _parts(text: str) -> tuple[str, str, str]:
    for operator in ("==", "!=", "~="):
        field, found, value = text.partition(operator)
        if found:
            return field, operator, value
    if not text.isidentifier():
        raise BadRequest(f"invalid filter {shown(text)!r}: neither a field nor a comparison of one")
    return text, "", ""


def _not(test: Test[Record]) -> Test[Record]:
    return lambda record: not test(record)
