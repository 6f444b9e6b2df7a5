"""A container's file system from outside: its root by descriptor, cp, export, diff, commit."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from typing import IO

from sampan.engine import image_config, mounts, vanishing
from sampan.engine.backends.backend import Backends
from sampan.engine.backends.host_files import closing, put
from sampan.engine.container import Container
from sampan.engine.errors import BadRequest, NotFound
from sampan.engine.model import Config, MountType
from sampan.engine.policy.gate import Gate
from sampan.images import archive, compression, root_fs
from sampan.images.errors import ImageError, StoreFull
from sampan.images.image import Image
from sampan.images.index import Check
from sampan.images.store import ImageStore
from sampan.runtime import init_program
from sampan.runtime.errors import RuntimeFailure
from sampan.volumes.local import LocalVolumes

# What the engine itself puts into every root as mountpoints is no change by the user.
_OURS = ("/dev", "/proc", "/sys", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf", init_program.INSIDE)


class Files:
    """The files of containers, for threads. `scratch`: a directory for files that nobody else sees."""

    def __init__(self, backends: Backends, images: ImageStore, volumes: LocalVolumes, gate: Gate, scratch: str) -> None:
        self._backends, self._images, self._volumes, self._gate, self._scratch = (
            backends,
            images,
            volumes,
            gate,
            scratch,
        )

    @contextlib.contextmanager
    def _mounted(self, container: Container, path: str) -> Iterator[tuple[int, str, bool]]:
        """(root descriptor, path inside it, read-only) when the path leads into a mount of a container that does not run: that is
        opened instead. A running container's root shows its mounts already: the descriptor is -1, as for any path beside mounts.
        """
        normal = os.path.normpath("/" + path.lstrip("/"))
        rows = [row for row in container.mounts if row.kind is not MountType.TMPFS]
        inside = [row for row in rows if normal == row.destination or normal.startswith(row.destination + "/")]
        best = max(inside, key=lambda row: len(row.destination), default=None)
        read_only = best.read_only if best else container.host_config.read_only_root
        if container.running or best is None:
            yield -1, path, read_only
            return
        with closing(mounts.open_source(best, self._volumes, self._gate.allowed(container))) as held:
            if stat.S_ISDIR(os.fstat(held).st_mode):
                fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=held)
                name = normal[len(best.destination) :] or "/"
            else:
                fd, name = _above(held)
        with closing(fd):
            yield fd, name, read_only

    def path_stat(self, container: Container, path: str) -> root_fs.Stat:
        """What is at `path`. Raises NotFound."""
        try:
            with self._mounted(container, path) as (rootfd, inner, _):
                if rootfd < 0:
                    return self._backends.of(container).files.stat(container, inner)
                return root_fs.stat_of(rootfd, inner)
        except OSError:
            raise NotFound(f"Could not find the file {path} in container {container.name}") from None

    def get_archive(self, container: Container, path: str, out: IO[bytes]) -> None:
        """Writes what is at `path` as a tar whose members start with its last component."""
        top = os.path.basename(path.rstrip("/")) or "."
        try:
            with self._mounted(container, path) as (rootfd, inner, _):
                if rootfd < 0:
                    self._backends.of(container).files.get(container, inner, out, top)
                else:
                    root_fs.get(rootfd, inner, out, top)
        except OSError as error:
            raise NotFound(f"Could not find the file {path} in container {container.name}") from error

    def put_archive(
        self, container: Container, path: str, stream: IO[bytes], keep_type: bool, own: bool = False
    ) -> None:
        """Extracts a tar into the directory `path`; with `own` everything belongs to the container's user.

        Raises NotFound, BadRequest, Forbidden (read-only).
        """
        container.check_whole()
        user = container.config.user if own else ""
        try:
            with self._mounted(container, path) as (rootfd, inner, read_only):
                if rootfd < 0:
                    self._backends.of(container).files.put(container, inner, stream, keep_type, user, read_only)
                else:
                    put(rootfd, inner, stream, keep_type, user, read_only)
        except (ImageError, RuntimeFailure) as error:
            raise BadRequest(str(error)) from error
        except OSError as error:
            if error.errno == errno.ENOTDIR:
                raise BadRequest("extraction point is not a directory") from None
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StoreFull(f"no space left on device: not all of it was copied to {path}") from None
            if error.errno is None:
                raise BadRequest(f"damaged archive: {error}") from None
            raise NotFound(f"Could not find the file {path} in container {container.name}") from None
        except compression.ERRORS as error:
            raise BadRequest(f"damaged archive: {error}") from error

    def export(self, container: Container, out: IO[bytes]) -> None:
        """Writes the container's own file system (without volumes) as a tar."""
        self._backends.of(container).files.export(container, out)

    def changes(self, container: Container) -> list[tuple[str, int]]:
        """The paths that differ from the image's, and how: as Docker's `diff` counts kinds."""
        with vanishing.named(container):
            rows = self._backends.of(container).files.changes(container)
        ours = {row.destination for row in container.mounts} | set(_OURS)
        kept = [(path, kind) for path, kind in rows if not any(path == o or path.startswith(f"{o}/") for o in ours)]
        parents = {os.path.dirname(path) for path, _ in kept}
        return [
            (path, kind)
            for path, kind in kept
            if kind != 0 or path in parents or not any(o.startswith(f"{path}/") for o in ours)
        ]

    def commit(
        self, container: Container, name: str, comment: str, author: str, config: Config, changes: Sequence[str], check: Check
    ) -> Image:  # fmt: skip
        """Makes an image of the container's changes on top of its image. `config`, then `changes` (as of a Dockerfile) are put over
        the container's configuration. Raises BadRequest."""
        with tempfile.TemporaryFile(dir=self._scratch) as file:
            self._backends.of(container).files.layer(container, file)
            file.seek(0)
            base = self._images.index.get(container.image)
            execution = image_config.changed(
                image_config.committed(base.config.execution, container.config, config), changes
            )
            command = " ".join(container.config.cmd)
            return archive.add_layer(
                self._images, base, file, execution, comment, name, check, author, created_by=command
            )


def _above(held: int) -> tuple[int, str]:
    """The directory that a file, which has been looked at, is in, and its name there. Raises FileNotFoundError."""
    above, name = os.path.split(os.readlink(f"/proc/self/fd/{held}"))
    fd = os.open(above, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if not os.path.samestat(os.stat(name, dir_fd=fd, follow_symlinks=False), os.fstat(held)):
            raise FileNotFoundError(errno.ENOENT, "it was moved", name)
    except BaseException:
        os.close(fd)
        raise
    return fd, name
