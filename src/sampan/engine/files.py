"""A container's file system from outside: its root by descriptor, cp, export, diff, commit."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from typing import IO, Any

from sampan.engine import guest_answers, guest_archives, image_config, mounts, vanishing
from sampan.engine.container import Container, timestamp
from sampan.engine.engine import Engine
from sampan.engine.errors import BadRequest, Forbidden, NotFound
from sampan.engine.model import Config, MountType
from sampan.images import archive, compression, pack, root_fs
from sampan.images.errors import ImageError, StoreFull
from sampan.images.image import Image
from sampan.images.index import Check
from sampan.linux import mount
from sampan.runtime.errors import RuntimeFailure


def root(engine: Engine, container: Container) -> int:
    """A descriptor of the container's root to read: the live one, or a view nobody else sees."""
    if container.running:
        with contextlib.suppress(ProcessLookupError):  # it has just ended, and that is not told yet
            return container.open_process("root", os.O_RDONLY | os.O_DIRECTORY)
    return _view(engine, container)


def _view(engine: Engine, container: Container) -> int:
    """A descriptor of what is written over what the image has; of a broken container of no known image, what it wrote alone."""
    upper = f"{engine.containers.directory(container)}/upper"
    try:
        lower = engine.images.lower_directories(engine.images.index.get(container.image))
    except ImageError:
        if not container.broken:
            raise
        return os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    return mount.overlay([upper, *lower], None, None)


@contextlib.contextmanager
def _located(engine: Engine, container: Container, path: str, write: bool = False) -> Iterator[tuple[int, str, bool]]:
    """(root descriptor, path inside it, read-only): inside a volume when the path leads into one.

    A running container's root shows its mounts already; for a stopped one the longest mount that
    contains the path is opened instead. The descriptor is -1 when the files are in a virtual machine.
    """
    own, inner, read_only = _place(engine, container, path)
    if own >= 0:
        opened: contextlib.AbstractContextManager[int] = _closing(own)
    elif container.virtual:
        opened = contextlib.nullcontext(-1)
    elif write:
        opened = engine.roots.writable(container)
    else:
        opened = _closing(root(engine, container))
    with opened as fd:
        yield fd, inner, read_only


@contextlib.contextmanager
def _closing(fd: int) -> Iterator[int]:
    try:
        yield fd
    finally:
        os.close(fd)


def _place(engine: Engine, container: Container, path: str) -> tuple[int, str, bool]:
    """As _located(), with -1 for what is in the container's root."""
    normal = os.path.normpath("/" + path.lstrip("/"))
    rows = [row for row in container.mounts if row.kind is not MountType.TMPFS]
    inside = [row for row in rows if normal == row.destination or normal.startswith(row.destination + "/")]
    best = max(inside, key=lambda row: len(row.destination), default=None)
    read_only = best.read_only if best else container.host_config.read_only_root
    if container.running or best is None:
        return -1, path, read_only
    held = mounts.open_source(best, engine.volumes, engine.gate.allowed(container))
    try:
        if stat.S_ISDIR(os.fstat(held).st_mode):
            fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=held)
            return fd, normal[len(best.destination) :] or "/", read_only
        above, name = _above(held)
        return above, name, read_only
    finally:
        os.close(held)


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


def path_stat(engine: Engine, container: Container, path: str) -> dict[str, object]:
    """The object of X-Docker-Container-Path-Stat. Raises NotFound."""
    try:
        with _located(engine, container, path) as (rootfd, inner, _):
            if rootfd < 0:
                info = engine.machines.in_thread(engine.machines.job(container, "stat", path=inner))
            else:
                info = root_fs.stat_of(rootfd, inner)
    except OSError:
        raise NotFound(f"Could not find the file {path} in container {container.name}") from None
    return {
        "name": os.path.basename(path.rstrip("/")) or "/",
        "size": info["size"],
        "mode": _go_mode(info["mode"]),
        "mtime": timestamp(info["mtime"]),
        "linkTarget": info["link"],
    }


def _go_mode(mode: int) -> int:
    """Go's os.FileMode bits of a stat mode, as the API sends them."""
    value = mode & 0o777
    kinds = {stat.S_IFDIR: 1 << 31, stat.S_IFLNK: 1 << 27, stat.S_IFBLK: 1 << 26, stat.S_IFIFO: 1 << 25,
             stat.S_IFSOCK: 1 << 24, stat.S_IFCHR: 1 << 26 | 1 << 21}  # fmt: skip
    value |= kinds.get(stat.S_IFMT(mode), 0)
    for bit, go in ((stat.S_ISUID, 1 << 23), (stat.S_ISGID, 1 << 22), (stat.S_ISVTX, 1 << 20)):
        value |= go if mode & bit else 0
    return value


def get_archive(engine: Engine, container: Container, path: str, out: IO[bytes]) -> None:
    """Writes what is at `path` as a tar whose members start with its last component."""
    top = os.path.basename(path.rstrip("/")) or "."
    try:
        with _located(engine, container, path) as (rootfd, inner, _):
            if rootfd < 0:
                _from_guest(engine, container, lambda file: guest_archives.retell(file, out, top), "get", path=inner)
            else:
                root_fs.get(rootfd, inner, out, top)
    except OSError as error:
        raise NotFound(f"Could not find the file {path} in container {container.name}") from error


def _from_guest(
    engine: Engine, container: Container, take: Callable[[IO[bytes]], None], name: str, **args: Any
) -> None:
    """Has what a job in the container's guest writes taken. Raises as the job does, or as `take`."""
    reader, writer = os.pipe()
    done = engine.machines.later(engine.machines.job(container, name, writer=writer, **args))
    with os.fdopen(reader, "rb") as file:
        try:
            take(file)
        except ImageError:
            if not file.read(1):
                done.result()  # it says why it ends there
            raise
    done.result()


def _copied(out: IO[bytes]) -> Callable[[IO[bytes]], None]:
    return lambda file: shutil.copyfileobj(file, out, 1 << 20)


def _into_guest(engine: Engine, container: Container, stream: IO[bytes], name: str, **args: Any) -> None:
    """Gives a stream to a job in the container's guest. Raises as the job does."""
    reader, writer = os.pipe()
    done = engine.machines.later(engine.machines.job(container, name, reader=reader, **args))
    try:
        with os.fdopen(writer, "wb") as file:
            shutil.copyfileobj(stream, file, 1 << 20)
    except BrokenPipeError:
        pass  # it has read enough, or failed
    done.result()


def put_archive(
    engine: Engine, container: Container, path: str, stream: IO[bytes], keep_type: bool, own: bool = False
) -> None:
    """Extracts a tar into the directory `path`; with `own` everything belongs to the container's user.

    Raises NotFound, BadRequest, Forbidden (read-only).
    """
    container.check_whole()
    try:
        with _located(engine, container, path, write=True) as (rootfd, inner, read_only):
            if rootfd < 0:
                engine.machines.in_thread(engine.machines.job(container, "check", path=inner))
            else:
                os.close(root_fs.open_directory(rootfd, inner))
            user = str(container.config.user) if own else ""
            if read_only:
                raise Forbidden("container rootfs is marked read-only")
            if rootfd < 0:
                _into_guest(engine, container, stream, "put", path=inner, keep_type=keep_type, user=user)
            else:
                root_fs.put(rootfd, inner, stream, keep_type, user)
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


def export(engine: Engine, container: Container, out: IO[bytes]) -> None:
    """Writes the container's own file system (without volumes) as a tar."""
    if container.virtual:
        _from_guest(engine, container, lambda file: guest_archives.retell(file, out, "."), "export")
        return
    with vanishing.named(container), _closing(_view(engine, container)) as rootfd:
        pack.pack_tree(rootfd, "/", out)


# What the engine itself puts into every root as mountpoints is no change by the user.
_OURS = ("/dev", "/proc", "/sys", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/sbin/docker-init")


def _changed(engine: Engine, container: Container) -> list[tuple[str, int]]:
    if container.virtual:
        return _changed_in_guest(engine, container)
    lowerfd = engine.image_roots.open(engine.images.index.get(container.image))
    try:
        return list(pack.changes(f"{engine.containers.directory(container)}/upper", lowerfd))
    finally:
        os.close(lowerfd)


def _changed_in_guest(engine: Engine, container: Container) -> list[tuple[str, int]]:
    out = guest_answers.Changes(container.name)
    _from_guest(engine, container, _copied(out), "changes")
    return out.rows()


def changes(engine: Engine, container: Container) -> list[dict[str, object]]:
    """The rows of `docker diff`."""
    with vanishing.named(container):
        rows = _changed(engine, container)
    ours = {row.destination for row in container.mounts} | set(_OURS)
    kept = [(path, kind) for path, kind in rows if not any(path == o or path.startswith(f"{o}/") for o in ours)]
    parents = {os.path.dirname(path) for path, _ in kept}
    return [
        {"Path": path, "Kind": kind}
        for path, kind in kept
        if kind != 0 or path in parents or not any(o.startswith(f"{path}/") for o in ours)
    ]


def commit(engine: Engine, container: Container, name: str, comment: str, config: Config, check: Check) -> Image:
    """Makes an image of the container's changes on top of its image."""
    merged = {**(engine.images.index.get(container.image).config.get("config") or {})}
    for source in (container.config, config):
        merged |= image_config.write(source)
    base = engine.images.index.get(container.image)
    with tempfile.TemporaryFile(dir=engine.data_root) as file:
        if container.virtual:
            _from_guest(engine, container, _copied(file), "layer")
        else:
            with vanishing.named(container):
                pack.pack_layer(f"{engine.containers.directory(container)}/upper", file)
        file.seek(0)
        return archive.add_layer(engine.images, base, file, merged, comment or "sampan commit", name, check)
