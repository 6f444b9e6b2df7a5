"""Named and anonymous volumes as directories below the data root."""

from __future__ import annotations

import json
import os
import re
import secrets
import time
from dataclasses import dataclass, field

from sampan.linux import filetree

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}")


class VolumeError(Exception):
    """The volume can't be made or found as asked."""


class VolumeNotFound(VolumeError):
    """No volume of that name."""


class VolumeConflict(VolumeError):
    """The volume exists with other options."""


@dataclass(slots=True)
class Volume:
    """A volume: its data is at `path`, owned by whatever the first user put there."""

    name: str
    path: str
    created: float
    labels: dict[str, str] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)
    anonymous: bool = False


class LocalVolumes:
    """All volumes below one directory (0700: setuid files in them are out of users' reach, S010)."""

    def __init__(self, root: str) -> None:
        self._root = root
        os.makedirs(root, 0o700, exist_ok=True)

    def create(self, name: str, labels: dict[str, str], options: dict[str, str], anonymous: bool = False) -> Volume:
        """Makes a volume, or returns the one of that name. Raises VolumeError, VolumeConflict."""
        if not name:
            name, anonymous = secrets.token_hex(32), True
        if not _NAME.fullmatch(name):
            raise VolumeError(
                f"{name!r} includes invalid characters for a local volume name, only "
                '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path'
            )
        if options:
            raise VolumeError(f"the local driver takes no options here: {', '.join(sorted(options))}")
        try:
            return self.get(name)
        except VolumeNotFound:
            pass
        directory = f"{self._root}/{name}"
        os.makedirs(f"{directory}/_data", 0o755, exist_ok=True)
        volume = Volume(name, f"{directory}/_data", time.time(), labels, options, anonymous)
        body = {"created": volume.created, "labels": labels, "options": options, "anonymous": anonymous}
        with open(f"{directory}/volume.tmp", "w", encoding="utf-8") as file:
            json.dump(body, file)
        os.rename(f"{directory}/volume.tmp", f"{directory}/volume.json")
        return volume

    def get(self, name: str) -> Volume:
        """A volume by name. Raises VolumeNotFound."""
        directory = f"{self._root}/{name}"
        if not _NAME.fullmatch(name) or not os.path.isdir(f"{directory}/_data"):
            raise VolumeNotFound(f"get {name}: no such volume")
        try:
            with open(f"{directory}/volume.json", encoding="utf-8") as file:
                body = json.load(file)
        except (OSError, ValueError):
            body = {"created": os.stat(directory).st_mtime, "labels": {}, "options": {}, "anonymous": False}
        return Volume(name, f"{directory}/_data", body["created"], body["labels"], body["options"], body["anonymous"])

    def all(self) -> list[Volume]:
        """All volumes by name."""
        return [
            self.get(name) for name in sorted(os.listdir(self._root)) if os.path.isdir(f"{self._root}/{name}/_data")
        ]

    def remove(self, name: str) -> None:
        """Deletes a volume and its data. Raises VolumeNotFound."""
        volume = self.get(name)
        filetree.remove(os.path.dirname(volume.path))
