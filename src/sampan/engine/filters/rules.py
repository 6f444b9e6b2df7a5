"""What a filter can be: how its values are checked, and what of an object they are compared with.

A rule is given a filter's values and makes a test of them; a table has a rule for each filter that there is. Whatever is not in
the table is refused: a filter that is passed over makes a prune delete what it was to keep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from sampan import matching
from sampan.engine.errors import BadRequest
from sampan.engine.filters.reading import Filters, invalid
from sampan.engine.moments import moment

T = TypeVar("T")
Test = Callable[[T], bool]
Rule = Callable[[str, list[str]], Test[T]]


def compile(table: Mapping[str, Rule[T]], wanted: Filters) -> Test[T]:
    """One test of all filters; each must hold. Raises BadRequest that names the filter which is unknown or has a bad value."""
    for key in wanted:
        if key not in table:
            raise invalid(key)
    tests = [table[key](key, values) for key, values in wanted.items() if values]
    return lambda item: all(test(item) for test in tests)


def exactly(read: Callable[[T], Iterable[str]]) -> Rule[T]:
    """One of the object's texts is one of the values."""

    def rule(key: str, values: list[str]) -> Test[T]:
        wanted = set(values)
        return lambda item: not wanted.isdisjoint(read(item))

    return rule


def one_of(allowed: Iterable[str], read: Callable[[T], str]) -> Rule[T]:
    """The object's word is one of the values, which must be among `allowed`."""
    known = frozenset(allowed)

    def rule(key: str, values: list[str]) -> Test[T]:
        for value in values:
            if value not in known:
                raise invalid(key, value)
        return lambda item: read(item) in values

    return rule


def starts(read: Callable[[T], Iterable[str]]) -> Rule[T]:
    """One of the object's texts begins with one of the values."""

    def rule(key: str, values: list[str]) -> Test[T]:
        prefixes = tuple(values)
        return lambda item: any(text.startswith(prefixes) for text in read(item))

    return rule


def expressions(read: Callable[[T], Iterable[str]]) -> Rule[T]:
    """One of the object's texts is one of the values, or one of them, as a regular expression, is found in it."""

    def rule(key: str, values: list[str]) -> Test[T]:
        wanted = set(values)
        try:
            patterns = [matching.expression(value) for value in values]
        except matching.BadPattern as error:
            raise invalid(key, str(error)) from None

        def test(item: T) -> bool:
            texts = list(read(item))
            return not wanted.isdisjoint(texts) or any(p.found_in(text) for p in patterns for text in texts)

        return test

    return rule


def boolean_of(key: str, values: list[str]) -> bool:
    """The value of a filter that is true or false. Raises BadRequest for another, or for both."""
    for value in values:
        if value not in ("true", "1", "false", "0"):
            raise invalid(key, value)
    found = {value in ("true", "1") for value in values}
    if len(found) != 1:
        raise invalid(key, " ".join(values))
    return found.pop()


def boolean(read: Callable[[T], bool]) -> Rule[T]:
    """The object is so, or is not."""

    def rule(key: str, values: list[str]) -> Test[T]:
        wanted = boolean_of(key, values)
        return lambda item: read(item) == wanted

    return rule


def number(read: Callable[[T], int | None]) -> Rule[T]:
    """The object's number is one of the values."""

    def rule(key: str, values: list[str]) -> Test[T]:
        wanted = {whole(key, value) for value in values}
        return lambda item: read(item) in wanted

    return rule


def whole(key: str, value: str) -> int:
    """A filter's value as a whole number. Raises BadRequest."""
    digits = value[1:] if value[:1] in ("-", "+") else value
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 12):
        raise invalid(key, value)
    return int(value)


def until(read: Callable[[T], int]) -> Rule[T]:
    """The object was made (`read`, nanoseconds since the epoch) before the one value, a time or a duration."""

    def rule(key: str, values: list[str]) -> Test[T]:
        if len(values) != 1 or not values[0]:
            raise invalid(key, " ".join(values))
        try:
            edge = moment(values[0], 0)
        except BadRequest as error:
            raise BadRequest(f"{invalid(key, values[0])}: {error}") from None
        return lambda item: read(item) < edge

    return rule


def label_matches(labels: Mapping[str, str], wanted: str) -> bool:
    """A label filter: "k", "k=v", "k!=v", "k!="."""
    key, unequal, value = wanted.partition("!=")
    if unequal and "=" not in key:
        return labels.get(key) != value if value else key not in labels
    key, equals, value = wanted.partition("=")
    return key in labels and (not equals or labels[key] == value)


def labels(read: Callable[[T], Mapping[str, str] | None]) -> dict[str, Rule[T]]:
    """`label`: it has every one of them. `label!`: it has none of them."""

    def all_of(key: str, values: list[str]) -> Test[T]:
        return lambda item: all(label_matches(read(item) or {}, value) for value in values)

    def none_of(key: str, values: list[str]) -> Test[T]:
        return lambda item: not any(label_matches(read(item) or {}, value) for value in values)

    return {"label": all_of, "label!": none_of}


def nothing(key: str, values: list[str]) -> Test[T]:
    """A kind of thing that this engine has none of: nothing passes."""
    return lambda item: False


def ignored(key: str, values: list[str]) -> Test[T]:
    """For one that the caller reads itself, since it says how and not which."""
    return lambda item: True
