"""New volumes begin with what the image has at their place (Docker's "copy-up")."""

from __future__ import annotations

import os
import stat
import threading

from sampan.engine.container import Container
from sampan.engine.model import MountType
from sampan.images.extract import Extractor
from sampan.images.pack import pack_tree
from sampan.linux import openat2
from sampan.volumes.local import LocalVolumes


def copy_up(container: Container, rootfd: int, volumes: LocalVolumes) -> None:
    """Fills empty volumes with what the image has at their place, owner and mode of the top included.

    Of several containers that come with the same new volume one fills it, and the others wait until it has.
    """
    for row in container.mounts:
        if row.kind is not MountType.VOLUME or row.no_copy or row.subpath:
            continue
        try:
            fd = openat2.open_in_root(rootfd, row.destination, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            continue
        try:
            if os.listdir(fd):
                with volumes.filling(row.name) as target:
                    if target is not None:
                        _copy_tree(fd, target)
            else:
                _copy_owner(fd, row.source)
        finally:
            os.close(fd)


def _copy_owner(source: int, target: str) -> None:
    """Owner and mode of an empty directory, for an empty volume."""
    fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if not os.listdir(fd):
            info = os.fstat(source)
            os.fchown(fd, info.st_uid, info.st_gid)
            os.fchmod(fd, stat.S_IMODE(info.st_mode))
    finally:
        os.close(fd)


def _copy_tree(source: int, target: str) -> None:
    info = os.fstat(source)
    reader, writer = os.pipe()

    def pack() -> None:
        with os.fdopen(writer, "wb") as out:
            pack_tree(source, "/", out)

    packer = threading.Thread(target=pack)
    packer.start()
    fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with os.fdopen(reader, "rb") as stream:
            Extractor(fd).extract(stream)
        os.fchown(fd, info.st_uid, info.st_gid)
        os.fchmod(fd, stat.S_IMODE(info.st_mode))
    finally:
        os.close(fd)
        packer.join()
