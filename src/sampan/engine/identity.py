"""Which engine this is: an id made once, that everything it makes on the host carries.

Several engines may share a network namespace and a cgroup tree. Each sweeps only what carries its own id.
"""

from __future__ import annotations

import os
import sys
import uuid
from dataclasses import dataclass

from sampan.linux import durable
from sampan.network.ownership import Owner

_FILE = "engine-id"


@dataclass(frozen=True, slots=True)
class Identity:
    """`id` is what `info` shows; `owner` is it as names of interfaces and rules have it."""

    id: str
    owner: Owner

    @property
    def group(self) -> str:
        """The control group that those of its containers are in."""
        return f"/sampan-{self.owner.short}"


def load(data_root: str) -> Identity:
    """The id of the engine of this data root, made if it has none. On a disk that takes none it is the same until the next boot."""
    path = f"{data_root}/{_FILE}"
    found = _read(path)
    if found is None:
        found = uuid.uuid4()
        try:
            durable.write(path, f"{found}\n", 0o600)
        except OSError as error:
            info = os.stat(data_root)
            found = uuid.uuid5(uuid.NAMESPACE_URL, f"{_boot()} {info.st_dev} {info.st_ino}")
            print(f"sampand: {path}: {error.strerror}: the engine's id is for this boot only", file=sys.stderr)
    return Identity(str(found), Owner(found.hex[:8], os.path.realpath(data_root)))


def _read(path: str) -> uuid.UUID | None:
    try:
        with open(path, encoding="ascii") as file:
            return uuid.UUID(file.read(64).strip())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        print(f"sampand: {path} is damaged ({error}): the engine gets a new id", file=sys.stderr)
        return None


def _boot() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()
