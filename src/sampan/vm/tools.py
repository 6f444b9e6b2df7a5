"""The programs that make and read disks, each run in a jail with the files of that run."""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack

from sampan.images import compression
from sampan.runtime import jail
from sampan.runtime.jail import JailError
from sampan.vm.errors import VmError

_PACKAGES = {
    "qemu-img": "qemu-utils",
    "mke2fs": "e2fsprogs",
    "mkfs.erofs": "erofs-utils",
    "grub-mkimage": "grub-common",
}
_SECONDS = 600  # for what takes seconds
_SLOWEST = 4 << 20  # bytes per second of a disk that is busy
_TREE_MEMORY = 8 << 30  # of addresses: a node for each file of an image


def seconds(size: int) -> int:
    """How long something may take that goes once over `size` bytes."""
    return _SECONDS + size // _SLOWEST


def need(program: str) -> None:
    """Raises VmError when a program is not there, with what installs it."""
    if shutil.which(program) is None and shutil.which(program, path="/usr/sbin:/sbin") is None:
        raise VmError(f"{program} is missing: apt-get install {_PACKAGES.get(program, program)}")


def _most(fd: int, largest: int) -> int:
    return max(os.fstat(fd).st_size + compression.room(fd), largest)


def run(
    command: list[str],
    readable: dict[str, str | int] | None = None,
    writable: dict[str, str | int] | None = None,
    tree: int = -1,
    limit: int = _SECONDS,
    largest: int = 0,
) -> str:
    """What a program prints. `readable` and `writable`: files, paths of the engine's own or descriptors, by what the program
    finds them as; `tree`: a mount, at /tree. Raises VmError.

    A file may grow by what there is room for, or become `largest` bytes: one with holes may be larger than the disk.
    """
    need(command[0])
    with ExitStack() as opened:

        def given(name: str, source: str | int, flags: int) -> jail.Given:
            fd = source
            if isinstance(fd, str):
                fd = os.open(fd, flags | os.O_NOFOLLOW | os.O_CLOEXEC)
                opened.callback(os.close, fd)
            return jail.Given(fd, name, flags == os.O_RDWR)

        files = [given(name, source, os.O_RDONLY) for name, source in (readable or {}).items()]
        files += [given(name, source, os.O_RDWR) for name, source in (writable or {}).items()]
        room = max((_most(each.fd, largest) for each in files if each.writable), default=0)
        if tree >= 0:
            files.append(jail.Given(tree, "/tree"))
        try:
            return jail.run(command, files, jail.Limits(limit, room, _TREE_MEMORY if tree >= 0 else 2 << 30))
        except JailError as error:
            raise VmError(str(error)) from None
