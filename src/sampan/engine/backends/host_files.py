"""Files of containers whose root is on the host, by descriptor; all of it is for threads."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import IO

from sampan.engine import vanishing
from sampan.engine.container import Container
from sampan.engine.containers import Containers
from sampan.engine.errors import Forbidden
from sampan.engine.image_roots import ImageRoots
from sampan.engine.roots import Roots
from sampan.images import pack, root_fs
from sampan.images.errors import ImageError
from sampan.images.root_fs import Stat
from sampan.images.store import ImageStore
from sampan.linux import mount


class HostFiles:
    """The files of containers that share the host's kernel."""

    def __init__(self, containers: Containers, images: ImageStore, image_roots: ImageRoots, roots: Roots) -> None:
        self._containers, self._images, self._image_roots, self._roots = containers, images, image_roots, roots

    def root(self, container: Container) -> int:
        """A descriptor of the container's root to read: the live one, or a view nobody else sees."""
        if container.running:
            with contextlib.suppress(ProcessLookupError):  # it has just ended, and that is not told yet
                return container.open_process("root", os.O_RDONLY | os.O_DIRECTORY)
        return self._view(container)

    def _view(self, container: Container) -> int:
        """A descriptor of what is written over what the image has; of a broken container of no known image, what it wrote alone."""
        upper = f"{self._containers.directory(container)}/upper"
        try:
            lower = self._images.lower_directories(self._images.index.get(container.image))
        except ImageError:
            if not container.broken:
                raise
            return os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return mount.overlay([upper, *lower], None, None)

    def stat(self, container: Container, path: str) -> Stat:
        """As RootFiles.stat."""
        with closing(self.root(container)) as rootfd:
            return root_fs.stat_of(rootfd, path)

    def get(self, container: Container, path: str, out: IO[bytes], top: str) -> None:
        """As RootFiles.get."""
        with closing(self.root(container)) as rootfd:
            root_fs.get(rootfd, path, out, top)

    def put(
        self, container: Container, path: str, stream: IO[bytes], keep_type: bool, user: str, read_only: bool
    ) -> None:
        """As RootFiles.put."""
        with self._roots.writable(container) as rootfd:
            put(rootfd, path, stream, keep_type, user, read_only)

    def export(self, container: Container, out: IO[bytes]) -> None:
        """As RootFiles.export."""
        with vanishing.named(container), closing(self._view(container)) as rootfd:
            pack.pack_tree(rootfd, "/", out)

    def changes(self, container: Container) -> list[tuple[str, int]]:
        """As RootFiles.changes."""
        with closing(self._image_roots.open(self._images.index.get(container.image))) as lowerfd:
            return list(pack.changes(f"{self._containers.directory(container)}/upper", lowerfd))

    def layer(self, container: Container, out: IO[bytes]) -> None:
        """As RootFiles.layer."""
        with vanishing.named(container):
            pack.pack_layer(f"{self._containers.directory(container)}/upper", out)


@contextlib.contextmanager
def closing(fd: int) -> Iterator[int]:
    """A descriptor that is closed at the end."""
    try:
        yield fd
    finally:
        os.close(fd)


def put(rootfd: int, path: str, stream: IO[bytes], keep_type: bool, user: str, read_only: bool) -> None:
    """Extracts a tar below a root. Raises as RootFiles.put."""
    os.close(root_fs.open_directory(rootfd, path))
    if read_only:
        raise Forbidden("container rootfs is marked read-only")
    root_fs.put(rootfd, path, stream, keep_type, user)
