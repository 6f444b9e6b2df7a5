"""Mounts: as the API asks for one, and as a container has it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import msgspec


class MountType(StrEnum):
    """What is mounted: a path of the host's, a volume, or memory."""

    BIND = "bind"
    VOLUME = "volume"
    TMPFS = "tmpfs"


class BindOptions(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Of a bind mount."""

    propagation: str = ""
    non_recursive: bool = False
    create_source: bool = False  # a directory is made where there is nothing
    read_only_force_recursive: bool = False  # what is read-only always is so with all that is mounted below it


class VolumeOptions(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Of a volume, some of which only count when it is made by this."""

    no_copy: bool = False  # it is not filled with what the image has at its destination
    labels: Mapping[str, str] = {}
    driver: str = ""
    driver_options: Mapping[str, str] = {}
    subpath: str = ""


class TmpfsOptions(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Of a tmpfs. 0 is "not given"."""

    size: int = 0  # bytes
    mode: int = 0  # permission bits


class MountRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A mount as the API's `Mounts` ask for it. `source`: a path of the host's, or a volume's name."""

    kind: str = ""
    source: str = ""
    target: str = ""
    read_only: bool = False
    consistency: str = ""  # of Docker for Mac: shown, and nothing more
    bind: BindOptions | None = None
    volume: VolumeOptions | None = None
    tmpfs: TmpfsOptions | None = None


class Mount(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A mount of a container, sorted out: what is at `destination`."""

    kind: MountType
    destination: str  # absolute and clean
    source: str = ""  # a path of the host's; a volume's own
    read_only: bool = False
    mode: str = ""  # as the user wrote it; of a tmpfs, options of mount(8)
    propagation: str = ""  # of a bind mount: private, shared or slave, with an r before it when recursive
    name: str = ""  # of the volume
    driver: str = ""  # of the volume
    subpath: str = ""  # inside the volume
    no_copy: bool = False
    non_recursive: bool = False
