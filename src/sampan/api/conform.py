"""Bodies of requests as Go decodes them: types are checked and named, keys match whatever their case, null is "not given".

A reader is given a value and where it stands, and returns what the engine sees. What has no reader passes as it is: nobody reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from sampan.engine.errors import BadRequest

_LONGEST = 1 << 63  # whole numbers are of 64 bits


class Reader(Protocol):
    """Reads one value."""

    def __call__(self, value: object, path: str) -> Any: ...


def refused(path: str, wanted: str, value: object) -> BadRequest:
    """The error of a value of another kind than `wanted`."""
    kinds = {str: "a string", bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return BadRequest(f"invalid JSON: {path or 'the body'} must be {wanted}, not {kinds.get(type(value), 'null')}")


def text(value: object, path: str) -> str:
    """A string."""
    if value is None:
        return ""
    if type(value) is not str:
        raise refused(path, "a string", value)
    return value


def flag(value: object, path: str) -> bool:
    """A boolean."""
    if value is None:
        return False
    if type(value) is not bool:
        raise refused(path, "a boolean", value)
    return value


def whole(value: object, path: str) -> int:
    """A whole number of 64 bits."""
    if value is None:
        return 0
    if type(value) is not int:
        raise refused(path, "a whole number", value)
    if not -_LONGEST <= value < _LONGEST:
        raise BadRequest(f"invalid JSON: {path} is out of the range of 64 bits")
    return value


def anything(value: object, path: str) -> Any:
    """Whatever it is."""
    return value


def each(reader: Reader) -> Reader:
    """A list."""

    def read(value: object, path: str) -> list[Any]:
        if value is None:
            return []
        if type(value) is not list:
            raise refused(path, "a list", value)
        return [reader(item, f"{path}[{index}]") for index, item in enumerate(value)]

    return read


def mapping(reader: Reader, null: bool = False) -> Reader:
    """An object of any keys; with `null`, a key may have none."""

    def read(value: object, path: str) -> dict[str, Any]:
        if value is None:
            return {}
        if type(value) is not dict:
            raise refused(path, "an object", value)
        return {
            key: item if null and item is None else reader(item, f"{path}.{key}".lstrip("."))
            for key, item in value.items()
        }

    return read


def words(value: object, path: str) -> Any:
    """A list of strings, or one string."""
    return value if type(value) is str else strings(value, path)


def exactly(count: int, reader: Reader) -> Reader:
    """A list of so many."""
    whole_list = each(reader)

    def read(value: object, path: str) -> list[Any] | None:
        found: list[Any] = whole_list(value, path)
        if found and len(found) != count:
            raise BadRequest(f"invalid JSON: {path} must have {count} members, not {len(found)}")
        return found or None

    return read


def struct(fields: Mapping[str, Reader], always: Mapping[str, object] | None = None) -> Reader:
    """An object of known keys, whatever their case. A key of null is not there; those in `always` have a value then."""
    known = {name.lower(): (name, reader) for name, reader in fields.items()}

    def read(value: object, path: str) -> dict[str, Any]:
        if value is None:
            return dict(always or {})
        if type(value) is not dict:
            raise refused(path, "an object", value)
        found: dict[str, Any] = dict(always or {})
        for key, item in value.items():
            if item is None:
                continue
            name, reader = known.get(key.lower(), (key, anything))
            if name != key and name in value:
                continue  # spelled as it should be, it is there too
            found[name] = reader(item, f"{path}.{name}".lstrip("."))
        return found

    return read


strings = each(text)
texts = mapping(text)
names = mapping(struct({}))


def conform(body: object, reader: Reader, path: str = "") -> Any:
    """The body as the engine sees it. Raises BadRequest that names the member which is wrong."""
    return reader(body, path)
