"""A record of the model and the API's object for it: one table of fields, read and written by.

`Record.read` is a reader of `api.conform`; `Record.write` makes what `json` takes. Each key of the API is named once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter
from typing import Generic, TypeVar

import msgspec

from sampan.api.conform import Reader, refused
from sampan.engine.errors import BadRequest

S = TypeVar("S", bound=msgspec.Struct)


def plain(value: object) -> object:
    """JSON of strings, numbers, and tuples and mappings of such."""
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    return {key: plain(item) for key, item in value.items()} if isinstance(value, Mapping) else value


class Field:
    """One key: the attribute that it is (with a dot, one of a part), how it is read, and how it is written."""

    __slots__ = ("name", "optional", "part", "read", "whole", "write")

    def __init__(
        self, name: str, read: Reader, write: Callable[[object], object] = plain, optional: bool = False
    ) -> None:
        """With `optional` it is left out of answers where it has its default, as Go's omitempty does."""
        self.whole, self.read, self.write, self.optional = name, read, write, optional
        self.part, _, self.name = name.rpartition(".")


class Record(Generic[S]):
    """The fields of a type. Attributes with a dot are those of a part, which is a record of its own in the model."""

    def __init__(
        self,
        kind: type[S],
        fields: Mapping[str, Field],
        checked: Mapping[str, Reader] | None = None,
        parts: Mapping[str, type[msgspec.Struct]] | None = None,
    ) -> None:
        """`checked`: keys that are looked at and not kept, since they say nothing here or because they can't be had."""
        self._kind, self._parts, self._fields, self._checked = kind, parts or {}, fields, checked or {}
        dropped = {key: Field("", reader) for key, reader in self._checked.items()}
        self._known = {key.lower(): (key, field) for key, field in {**dropped, **fields}.items()}
        defaults = kind()
        self._written = [
            (key, attrgetter(field.whole), field, attrgetter(field.whole)(defaults))
            for key, field in fields.items()
            if field.whole
        ]

    def as_part(self, name: str) -> dict[str, Field]:
        """Its fields for a record in which it is the part of that name: what is in one object there."""
        own = {
            key: Field(f"{name}.{field.whole}", field.read, field.write, field.optional)
            for key, field in self._fields.items()
        }
        return own | {key: Field("", reader) for key, reader in self._checked.items()}

    @property
    def attributes(self) -> set[str]:
        """The names of what it reads and writes."""
        return {field.whole for _, _, field, _ in self._written}

    def read(self, value: object, path: str) -> S:
        """The record of an object. A key of null is not there; one that is unknown says nothing. Raises BadRequest."""
        if value is None:
            return self._kind()
        if type(value) is not dict:
            raise refused(path, "an object", value)
        found: dict[str, object] = {}
        parts: dict[str, dict[str, object]] = {}
        for key, item in value.items():
            if item is None:
                continue
            name, field = self._known.get(key.lower(), (key, None))
            if field is None or (name != key and name in value):  # spelled as it should be, it is there too
                continue
            result = field.read(item, f"{path}.{name}" if path else name)
            if field.part:
                parts.setdefault(field.part, {})[field.name] = result
            elif field.name:
                found[field.name] = result
        for part, attributes in parts.items():
            found[part] = self._parts[part](**attributes)
        return self._kind(**found)

    def write(self, record: S) -> dict[str, object]:
        """The object of a record, with every key but the optional ones that say nothing."""
        return {key: field.write(value) for key, get, field, default in self._written
                if (value := get(record)) != default or not field.optional}  # fmt: skip

    def write_each(self, records: Iterable[S]) -> list[dict[str, object]]:
        """A list of them."""
        return [self.write(record) for record in records]


def unavailable(reader: Reader, *harmless: object) -> Reader:
    """Of what there is not: only what asks for nothing, or is `harmless`, passes. Raises BadRequest that names the key."""

    def read(value: object, path: str) -> object:
        found = reader(value, path)
        if not _empty(found) and found not in harmless:
            raise BadRequest(f"{path} is not implemented")
        return found

    return read


def _empty(value: object) -> bool:
    """Whether a value says nothing, as in `[{}]` or `{"Path": "", "Rate": 0}`."""
    if isinstance(value, dict):
        return all(_empty(item) for item in value.values())
    return all(_empty(item) for item in value) if isinstance(value, list) else not value
