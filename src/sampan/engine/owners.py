"""Whose images, volumes and networks are: records beside those of the things themselves, so that the stores need not know of tenants.

What has no record is the engine's: everything that is older than this, and what the engine's own user brings for all.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sampan.engine.policy.caller import Owner
from sampan.engine.policy.operation import Kind, Subject

if TYPE_CHECKING:
    from sampan.engine.records import Records

_KIND = "owner"


class Owners:
    """The owners of things, by kind and name. One image may have several: whoever brought it has it."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._known: dict[str, tuple[Owner, ...]] = {}
        for row in records.rows(_KIND):
            self._known[row.key] = _read(row.body)

    def of(self, kind: Kind, name: str) -> tuple[Owner, ...]:
        """Whose it is; nobody's is the engine's."""
        return self._known.get(_key(kind, name), ())

    def subject(self, kind: Kind, name: str) -> Subject:
        """It, as what the gate is asked about."""
        return Subject(kind, name, self.of(kind, name))

    def set(self, kind: Kind, name: str, owners: tuple[Owner, ...]) -> None:
        """Notes whose it is from now on. Raises DiskError."""
        key = _key(kind, name)
        if owners == self._known.get(key, ()):
            return
        if owners:
            self._records.put(_KIND, key, _record(owners))
            self._known[key] = owners
        else:
            self.forget(kind, name)

    def add(self, kind: Kind, name: str, owner: Owner) -> None:
        """Notes that it is somebody's, too. Raises DiskError."""
        had = self.of(kind, name)
        if owner not in had:
            self.set(kind, name, (*had, owner))

    def restore(self, kind: Kind, name: str, owners: tuple[Owner, ...]) -> None:
        """It is as it was. What the disk does not take now it takes later."""
        key = _key(kind, name)
        if not owners:
            self.forget(kind, name)
        elif owners != self._known.get(key):
            self._known[key] = owners
            self._records.owe(_KIND, key, _record(owners))

    def forget(self, kind: Kind, name: str) -> None:
        """It is gone. What the disk does not take now it takes later."""
        if self._known.pop(_key(kind, name), None) is not None:
            self._records.owe(_KIND, _key(kind, name), None)


def _key(kind: Kind, name: str) -> str:
    return f"{kind.name.lower()} {name}"


def _record(owners: tuple[Owner, ...]) -> dict[str, list[list[str]]]:
    return {"owners": [list(owner) for owner in owners]}


def _read(body: bytes) -> tuple[Owner, ...]:
    """The owners in a record. One that can't be read names somebody whom nobody is: it is not for all."""
    try:
        rows = json.loads(body)["owners"]
        return tuple(Owner(str(user), str(claim)) for user, claim in rows) or (Owner("?"),)
    except (ValueError, TypeError, KeyError, RecursionError):
        return (Owner("?"),)
