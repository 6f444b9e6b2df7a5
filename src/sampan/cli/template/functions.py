"""The functions of templates: those of Go's text/template and those of Docker's CLI."""

from __future__ import annotations

import json as _json

from sampan.cli.template.printing import kind, printf, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class CallError(Exception):
    """What a function says of its arguments."""


def truth(value: object) -> bool:
    """Whether a value is not the zero of its type."""
    return bool(value)


def json(value: Any) -> str:
    """A value as JSON; text stays text."""
    original = getattr(value, "original", None)  # of a Row whose fields are not its JSON
    if original is None:
        original = dict(sorted(value.items())) if getattr(value, "kind", "") else value
    return _json.dumps(original, ensure_ascii=False, separators=(",", ":"))


def _text(value: object, place: int) -> str:
    if not isinstance(value, str):
        raise CallError(f"wrong type for value; expected string; got {kind(value)}" if place else "")
    return value


def _number(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise CallError(f"wrong type for value; expected int; got {kind(value)}")
    return value


def _index(value: object, *keys: object) -> object:
    for key in keys:
        if isinstance(value, dict):
            if not isinstance(key, str):
                raise CallError(f"value has type {kind(key)}; should be string")
            texts = all(isinstance(item, str) for item in value.values())
            value = value.get(key, "" if texts else None)
        elif isinstance(value, (list, str)):
            if isinstance(key, bool) or not isinstance(key, int):
                raise CallError(f"cannot index slice/array with type {kind(key)}")
            items: Any = value.encode() if isinstance(value, str) else value
            if not 0 <= key < len(items):
                raise CallError(f"index out of range: {key}")
            value = items[key]
        else:
            raise CallError("index of untyped nil" if value is None else f"can't index item of type {kind(value)}")
    return value


def _slice(value: object, *bounds: object) -> object:
    if not isinstance(value, (list, str)):
        raise CallError("slice of untyped nil" if value is None else f"can't slice item of type {kind(value)}")
    items: Any = value.encode() if isinstance(value, str) else value
    low, high = (*map(_number, bounds), *(0, len(items))[len(bounds) :])[:2]
    for bound in (low, high):
        if not 0 <= bound <= len(items):
            raise CallError(f"index out of range: {bound}")
    if low > high:
        raise CallError(f"invalid slice index: {low} > {high}")
    return items[low:high].decode(errors="replace") if isinstance(value, str) else items[low:high]


def _len(value: object) -> int:
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, (list, dict)):
        return len(value)
    raise CallError("len of nil pointer" if value is None else f"len of type {kind(value)}")


def _same(first: object, second: object) -> bool:
    if isinstance(first, (list, dict)) or isinstance(second, (list, dict)):
        raise CallError("non-comparable types for comparison")
    if first is not None and second is not None and kind(first) != kind(second):
        raise CallError("incompatible types for comparison")
    return bool(first == second)


def _eq(first: object, *others: object) -> bool:
    if not others:
        raise CallError("missing argument for comparison")
    return any(_same(first, other) for other in others)


def _less(first: Any, second: Any) -> bool:
    if kind(first) != kind(second) or isinstance(first, (bool, list, dict)) or first is None:
        raise CallError("incompatible types for comparison")
    return bool(first < second)


def _print(*values: object) -> str:
    """fmt.Sprint: blanks between two values of which neither is a text."""
    found = ""
    for index, value in enumerate(values):
        if index and not isinstance(value, str) and not isinstance(values[index - 1], str):
            found += " "
        found += shown(value)
    return found


def _title(text: str) -> str:
    """Go's strings.Title: a capital at the beginning of each word."""
    found, inside = "", False
    for character in text:
        found += character if inside else character.upper()
        inside = character.isalnum() or character == "_"
    return found


def _pad(text: object, before: object, after: object) -> str:
    value = _text(text, 1)
    return value and " " * _number(before) + value + " " * _number(after)


def _split(text: object, separator: object) -> list[str]:
    value, mark = _text(text, 1), _text(separator, 2)
    return value.split(mark) if mark else list(value)


def _join(items: object, separator: object) -> str:
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise CallError(f"wrong type for value; expected []string; got {kind(items)}")
    return _text(separator, 2).join(items)


def _escaped(text: str, pairs: dict[str, str]) -> str:
    return "".join(pairs.get(character, character) for character in text)


_HTML = {"<": "&lt;", ">": "&gt;", "&": "&amp;", '"': "&#34;", "'": "&#39;", "\0": "\ufffd"}
_JS = {"\\": "\\\\", "'": "\\'", '"': '\\"', "<": "\\u003C", ">": "\\u003E", "&": "\\u0026", "=": "\\u003D", "\n": "\\u000A",
       "\t": "\\u0009", "\r": "\\u000D"}  # fmt: skip


def _urlquery(*values: object) -> str:
    from urllib.parse import quote_plus

    return quote_plus(_print(*values))


FUNCTIONS: dict[str, tuple[Callable[..., Any], int, int | None]] = {  # with the least and the most arguments
    "call": (lambda function, *values: function(*values), 1, None),
    "eq": (_eq, 1, None),
    "ge": (lambda a, b: not _less(a, b), 2, 2),
    "gt": (lambda a, b: not _less(a, b) and not _same(a, b), 2, 2),
    "html": (lambda *values: _escaped(_print(*values), _HTML), 0, None),
    "index": (_index, 1, None),
    "join": (_join, 2, 2),
    "js": (lambda *values: _escaped(_print(*values), _JS), 0, None),
    "json": (json, 1, 1),
    "le": (lambda a, b: _less(a, b) or _same(a, b), 2, 2),
    "len": (_len, 1, 1),
    "lower": (lambda text: _text(text, 1).lower(), 1, 1),
    "lt": (_less, 2, 2),
    "ne": (lambda a, b: not _same(a, b), 2, 2),
    "not": (lambda value: not truth(value), 1, 1),
    "pad": (_pad, 3, 3),
    "print": (_print, 0, None),
    "printf": (lambda form, *values: printf(_text(form, 1), *values), 1, None),
    "println": (lambda *values: " ".join(map(shown, values)) + "\n", 0, None),
    "slice": (_slice, 1, 4),
    "split": (_split, 2, 2),
    "title": (lambda text: _title(_text(text, 1)), 1, 1),
    "truncate": (lambda text, size: _text(text, 1)[: _number(size)], 2, 2),
    "upper": (lambda text: _text(text, 1).upper(), 1, 1),
    "urlquery": (_urlquery, 0, None),
}
LAZY = ("and", "or")  # which look at no more arguments than they need
