"""Which engine this is: an id made once, that everything it makes on the host carries.

Several engines may share a network namespace and a cgroup tree. Each sweeps only what carries its own id. So a copy of
a data root must not have the id of its original: beside the id stands which directory it was made for, in which boot.
After another boot nothing of the original's is there, and a file system may have another number.
"""

from __future__ import annotations

import logging
import os
import uuid
from dataclasses import dataclass

from sampan.linux import durable
from sampan.linux.files import regular
from sampan.network.ownership import Owner

_log = logging.getLogger(__name__)

_FILE = "engine-id"


@dataclass(frozen=True, slots=True)
class Identity:
    """`id` is what `info` shows; `owner` is it as names of interfaces and rules have it.

    `copied`: the data root is a copy; what its records say is running runs for another engine.
    """

    id: str
    owner: Owner
    copied: bool = False

    @property
    def group(self) -> str:
        """The control group that those of its containers are in."""
        return f"/sampan-{self.owner.short}"


def load(data_root: str) -> Identity:
    """The id of the engine of this data root, made if it has none. Where nothing can be written it is the same until the next boot."""
    path = f"{data_root}/{_FILE}"
    found, made_for = _read(path)
    place, boot = _place(data_root), _boot()
    copied = found is not None and made_for[1:] == [boot] and made_for[0] != place
    if copied:
        _log.warning(f"{data_root} is a copy of another engine's data: this one gets an id of its own")
    identity = uuid.uuid4() if found is None or copied else found
    if identity != found or made_for != [place, boot]:
        try:
            durable.write(path, f"{identity}\n{place} {boot}\n", 0o600)
        except OSError as error:
            if identity != found:
                identity = uuid.uuid5(uuid.NAMESPACE_URL, f"{boot} {place}")
                _log.warning(f"{path}: {error.strerror}: the engine's id is for this boot only")
    return Identity(str(identity), Owner(identity.hex[:8], os.path.realpath(data_root)), copied)


def _read(path: str) -> tuple[uuid.UUID | None, list[str]]:
    """The id, and the directory and boot it was used in last."""
    try:
        with open(path, encoding="ascii", opener=regular) as file:
            first, *more = file.read(256).split() or [""]
        return uuid.UUID(first), more or [""]
    except FileNotFoundError:
        return None, [""]
    except (OSError, ValueError) as error:
        _log.warning(f"{path} is damaged ({error}): the engine gets a new id")
        return None, [""]


def _place(data_root: str) -> str:
    info = os.stat(data_root)
    return f"{info.st_dev}:{info.st_ino}"


def _boot() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()
