"""JSON from clients, as Go reads it: of bounded depth, text that is Unicode, numbers that are numbers."""

from __future__ import annotations

import json
import re
from typing import Any

from sampan.engine.errors import BadRequest

_DEPTH = 64  # Docker's deepest has eight
_SURROGATE = re.compile(rb"\\u[dD][89abAB]|\\u[dD][c-fC-F]")
_NUL = re.compile(rb"\\u0000")


def _constant(text: str) -> object:
    raise ValueError(f"{text} is no JSON number")


def decode(data: bytes | str, what: str) -> Any:
    """The value. Raises BadRequest, which begins with `what`."""
    raw = data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass")
    try:
        value = json.loads(raw.decode("utf-8"), parse_constant=_constant)
    except UnicodeDecodeError:
        raise BadRequest(f"{what}: the text is no UTF-8") from None
    except RecursionError:
        raise BadRequest(f"{what}: nested too deeply") from None
    except json.JSONDecodeError as error:
        raise BadRequest(f"{what}: {_in_words(error)}") from None
    except ValueError as error:
        raise BadRequest(f"{what}: {error}") from None
    if raw.count(b"[") + raw.count(b"{") > _DEPTH:
        _check_depth(value, what)
    # Rare, so looked for in the bytes first. A half of a pair is U+FFFD, as in Go; NUL ends text for the kernel.
    if _SURROGATE.search(raw):
        value = _with_text(value)
    if _NUL.search(raw):
        _check_text(value, what, "")
    return value


_PLACES = {
    "Expecting value": "looking for beginning of value",
    "Expecting property name enclosed in double quotes": "looking for beginning of object key string",
    "Expecting ':' delimiter": "after object key",
    "Expecting ',' delimiter": "after a value",
    "Extra data": "after top-level value",
}


def _in_words(error: json.JSONDecodeError) -> str:
    """What is wrong with a text, as Go's clients know it."""
    place = _PLACES.get(error.msg)
    if error.pos >= len(error.doc.rstrip()):
        return "unexpected end of JSON input"
    return f"invalid character {error.doc[error.pos]!r} {place}" if place else str(error)


def _check_depth(value: object, what: str) -> None:
    level = [value]
    for _ in range(_DEPTH):
        level = [each for item in level for each in _parts(item)]
        if not level:
            return
    raise BadRequest(f"{what}: nested deeper than {_DEPTH}")


def _parts(value: object) -> list[object]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _with_text(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_with_text(key): _with_text(item) for key, item in value.items()}
    return [_with_text(item) for item in value] if isinstance(value, list) else value


def _check_text(value: object, what: str, path: str) -> None:
    if isinstance(value, str) and "\0" in value:
        raise BadRequest(f"{what}: {path or 'the text'} has a NUL byte in it")
    if isinstance(value, dict):
        for key, item in value.items():
            _check_text(key, what, f"a name in {path or 'the object'}")
            _check_text(item, what, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check_text(item, what, f"{path}[{index}]")
