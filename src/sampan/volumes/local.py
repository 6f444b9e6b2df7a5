"""Named and anonymous volumes as directories below the data root.

A volume is made beside and renamed into place, on disk before anybody is told of it; it is renamed out of the way before
it is deleted. What a volume says of itself may be damaged or missing: its data is kept and served all the same, and only a
person removes it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated

import msgspec

from sampan.linux import durable, filetree
from sampan.linux.files import regular

NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}")
SCHEMA = 1
_NEW, _REMOVED = ".new-", ".removed-"  # no volume has such a name
_FILLING = "filling"  # a file beside the data while the image's files are copied there
_Moment = Annotated[float, msgspec.Meta(ge=0, lt=253370764800)]  # seconds since the epoch, before the year 9999


class VolumeError(Exception):
    """The volume can't be made or found as asked."""


class VolumeNotFound(VolumeError):
    """No volume of that name."""


class VolumeConflict(VolumeError):
    """The volume exists with other options, or is none that can be used."""


@dataclass(slots=True)
class Volume:
    """A volume: its data is at `path`, owned by whatever the first user put there."""

    name: str
    path: str
    created: float
    labels: dict[str, str] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)
    anonymous: bool = False
    broken: str = ""  # why what it says of itself can't be read


class _Schema(msgspec.Struct, frozen=True, kw_only=True):
    schema: int = 0


class _Description(_Schema, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """volume.json."""

    created: _Moment
    labels: dict[str, str]
    options: dict[str, str]
    anonymous: bool


class LocalVolumes:
    """All volumes below one directory (0700: setuid files in them are out of users' reach, S010)."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        try:
            os.makedirs(root, 0o700, exist_ok=True)
            left = [name for name in os.listdir(root) if name.startswith((_NEW, _REMOVED))]
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
            left = []
        self._left = left

    def clear(self) -> None:
        """Deletes what a crash has left of volumes that were being made or removed when this engine started. Blocks."""
        for name in self._left:
            filetree.remove(f"{self._root}/{name}", ignore_errors=True)
        self._left = []

    def create(self, name: str, labels: dict[str, str], options: dict[str, str], anonymous: bool = False) -> Volume:
        """Makes a volume, or returns the one of that name; it is on disk then. Blocks. Raises VolumeError, OSError."""
        if not name:
            name, anonymous = secrets.token_hex(32), True
        if not NAME.fullmatch(name):
            raise VolumeError(
                f'create {name}: "{name}" includes invalid characters for a local volume name, only '
                '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path'
            )
        if options:
            raise VolumeError(f"the local driver takes no options here: {', '.join(sorted(options))}")
        with self._lock:
            try:
                return self.usable(name)
            except VolumeNotFound:
                return self._make(Volume(name, f"{self._root}/{name}/_data", time.time(), labels, options, anonymous))

    def _make(self, volume: Volume) -> Volume:
        work = f"{self._root}/{_NEW}{secrets.token_hex(8)}"
        description = _Description(
            schema=SCHEMA,
            created=volume.created,
            labels=volume.labels,
            options=volume.options,
            anonymous=volume.anonymous,
        )
        try:
            os.mkdir(work, 0o755)
            os.mkdir(f"{work}/_data", 0o755)
            durable.write(f"{work}/volume.json", msgspec.json.encode(description), 0o644)
            durable.rename(work, f"{self._root}/{volume.name}")
        except BaseException:
            filetree.remove(work, ignore_errors=True)
            raise
        return volume

    def get(self, name: str) -> Volume:
        """A volume by name, broken ones included. Raises VolumeNotFound."""
        directory = f"{self._root}/{name}"
        if not NAME.fullmatch(name) or not os.path.isdir(directory):
            raise VolumeNotFound(f"get {name}: no such volume")
        try:
            with open(f"{directory}/volume.json", "rb", opener=regular) as file:
                said = _read(file.read(16 << 20))
            broken = ""
        except (OSError, ValueError, RecursionError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            broken = f"its volume.json can't be read: {reason}"
            said = _Description(created=os.lstat(directory).st_mtime, labels={}, options={}, anonymous=False)
        if not os.path.isdir(f"{directory}/_data"):
            broken = "its data directory is missing"
        return Volume(name, f"{directory}/_data", said.created, said.labels, said.options, said.anonymous, broken)

    def exists(self, name: str) -> bool:
        """Whether there is a volume of that name, whatever state it is in."""
        return bool(NAME.fullmatch(name)) and os.path.isdir(f"{self._root}/{name}")

    def usable(self, name: str) -> Volume:
        """A volume whose data is there. Raises VolumeNotFound, VolumeConflict."""
        volume = self.get(name)
        if not os.path.isdir(volume.path):
            raise VolumeConflict(f"volume {name} is broken: {volume.broken}; remove it with volume rm {name}")
        return volume

    def all(self) -> list[Volume]:
        """All volumes by name."""
        found = []
        for name in sorted(os.listdir(self._root)):
            with contextlib.suppress(VolumeNotFound):
                found.append(self.get(name))
        return found

    def remove(self, name: str) -> None:
        """Deletes a volume and its data, as a person asked; when it returns, no power cut brings it back. Blocks.

        Raises VolumeNotFound, OSError.
        """
        aside = f"{self._root}/{_REMOVED}{secrets.token_hex(8)}"
        with self._lock:
            self.get(name)
            try:
                durable.rename(f"{self._root}/{name}", aside)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                aside = f"{self._root}/{name}"  # no space for another entry
            self._locks.pop(name, None)
        filetree.remove(aside)

    @contextlib.contextmanager
    def filling(self, name: str) -> Iterator[str | None]:
        """The directory of a volume's data, for one who fills it; None when something is in it. Others wait meanwhile.

        A crash in the middle is known by a file beside it: then it is filled again. Blocks. Raises VolumeError, OSError.
        """
        with self._lock:
            lock = self._locks.setdefault(name, threading.Lock())
        with lock:
            path = self.usable(name).path
            mark = f"{os.path.dirname(path)}/{_FILLING}"
            if os.listdir(path) and not os.path.exists(mark):
                yield None
                return
            durable.write(mark, b"")
            yield path
            durable.sync_tree(path)
            os.unlink(mark)


def _read(data: bytes) -> _Description:
    """What volume.json says. Raises ValueError."""
    schema = msgspec.json.decode(data, type=_Schema).schema
    if schema > SCHEMA:
        raise ValueError(f"a newer Sampan wrote it (schema {schema}, this one knows {SCHEMA})")
    return msgspec.json.decode(data, type=_Description)
