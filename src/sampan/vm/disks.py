"""A machine's two disks: the image's file system, to read only and shared, and the container's own above it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable

from sampan.linux import durable, sparse
from sampan.vm import tools
from sampan.vm.errors import VmError
from sampan.vm.hypervisor import DISK_SIZE

_SMALLEST = 32 << 20


class Disks:
    """The images' disks, made once each, and empty ones to copy, below one directory. Methods block."""

    def __init__(self, cache: str) -> None:
        self._roots, self._empty = f"{cache}/roots", f"{cache}/empty"
        for path in (self._roots, self._empty):
            os.makedirs(path, 0o700, exist_ok=True)

    def root(self, image_id: str, tree: Callable[[], int]) -> int:
        """A descriptor of the erofs of an image, made of the file system that `tree()` opens if it is not there.

        Raises VmError.
        """
        path = f"{self._roots}/{image_id.removeprefix('sha256:')}"
        while True:
            try:
                return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                fd = tree()
            try:
                self._make_root(path, fd)
            finally:
                os.close(fd)

    def _make_root(self, path: str, tree: int) -> None:
        with tempfile.TemporaryDirectory(dir=self._roots) as work:
            os.close(os.open(f"{work}/disk", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
            make = ["mkfs.erofs", "--quiet", "-E", "force-inode-extended", "/disk", "/tree"]
            tools.run(make, writable={"/disk": f"{work}/disk"}, tree=tree, limit=3600)
            os.truncate(f"{work}/disk", DISK_SIZE)
            os.chmod(f"{work}/disk", 0o400)
            durable.publish(f"{work}/disk", path)

    def keep(self, image_ids: set[str]) -> None:
        """Deletes the disks of all images but these; machines that run keep theirs open."""
        wanted = {image_id.removeprefix("sha256:") for image_id in image_ids}
        for name in os.listdir(self._roots):
            if name not in wanted and len(name) == 64:
                os.unlink(f"{self._roots}/{name}")

    def writable(self, path: str, size: int = 0, source: str = "") -> int:
        """A descriptor of the disk at `path`, made if it is not there: a copy of `source`, or with an empty ext4 of
        `size` bytes. Its holes take no space. Raises VmError for a size that can't be.
        """
        if not os.path.exists(path):
            size = size or DISK_SIZE
            if not _SMALLEST <= size <= DISK_SIZE:
                limits = f"{_SMALLEST >> 20} MiB to {DISK_SIZE >> 30} GiB"
                raise VmError(f"a machine's own disk has {limits}, not {size} bytes")
            # Not synced: the machine has written nothing yet, and what it syncs itself takes the name along.
            with durable.writing(path, sync=False) as file:
                sparse.copy(source or self._filesystem(size), file.fileno())
                os.truncate(file.fileno(), DISK_SIZE)
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def _filesystem(self, size: int) -> str:
        """An empty file system to copy."""
        path = f"{self._empty}/{size}"
        if not os.path.exists(path):
            with tempfile.TemporaryDirectory(dir=self._empty) as work:
                with open(f"{work}/disk", "wb") as file:
                    os.fchmod(file.fileno(), 0o600)
                    file.truncate(size)
                options = "lazy_itable_init=1,lazy_journal_init=1,nodiscard,packed_meta_blocks=1,root_owner=0:0"
                make = ["mke2fs", "-q", "-t", "ext4", "-F", "-m", "0", "-J", "size=4" if size < 1 << 30 else "size=16", "-G", "4096",
                        "-O", "^resize_inode", "-E", options, "/disk"]  # fmt: skip
                tools.run(make, writable={"/disk": f"{work}/disk"})
                durable.publish(f"{work}/disk", path)
        return path
