"""A layer into a directory of its own, as overlay wants an upper one, without looking at the layers below.

So layers can be unpacked in parallel. What depends on the ones below is left for later: directories that the layer
uses without bringing them (`implied`), whose owner and mode are those of the directory below. A layer that needs
more of them, a hard link to a file that is not its own, raises NeedsLower: then it is unpacked on an overlay.
Source: image-spec, layer.md; overlayfs.rst ("whiteouts and opaque directories").
"""

from __future__ import annotations

import errno
import os
import stat

from sampan.images.errors import ImageError, StoreFull
from sampan.images.extract import FORBIDDEN_XATTRS, HOSTILE, OPAQUE, WHITEOUT, normalise, remove_tree, set_xattrs
from sampan.images.tarstream import Entry, TarStream
from sampan.linux import mount, nodes, openat2

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_HOLE = 4096
_KINDS = {b"3": stat.S_IFCHR, b"4": stat.S_IFBLK, b"6": stat.S_IFIFO}


class NeedsLower(Exception):
    """The layer can't be unpacked without the ones below it."""


class LayerExtractor:
    """Unpacks one tar stream below `rootfd`, an empty directory. `max_bytes` as for Extractor."""

    def __init__(self, rootfd: int, max_bytes: int = 0) -> None:
        self._root = rootfd
        if not max_bytes:
            free = os.fstatvfs(rootfd)
            max_bytes = max(free.f_bavail * free.f_frsize * 19 // 20, 1)
        self._left = max_bytes
        self._explicit: set[str] = set()  # directories that the layer brings
        self._times: dict[str, int] = {}
        self._implied: dict[str, None] = {}
        self._opaque: set[str] = set()
        self._parent = ""
        self._parent_fd = os.dup(rootfd)

    def extract(self, stream: TarStream) -> list[str]:
        """Does it. Returns the implied directories, parents first. Raises ImageError, NeedsLower."""
        try:
            for entry in stream:
                self._entry(stream, entry)
            for path, mtime in reversed(self._times.items()):
                fd = _still(self._root, path)
                if fd < 0:
                    continue
                try:
                    nodes.utime(fd, mtime)
                finally:
                    os.close(fd)
        except (ValueError, OverflowError) as error:
            raise ImageError(f"damaged tar archive: {error}") from error
        except OSError as error:
            if error.errno in HOSTILE:
                raise ImageError(f"damaged tar archive: one of its members can't be made: {error.strerror}") from error
            raise
        finally:
            os.close(self._parent_fd)
        return [path for path in self._implied if path not in self._explicit and not self._is_covered(path)]

    def _is_covered(self, path: str) -> bool:
        """Whether nothing of the layers below shows there."""
        while path := path.rpartition("/")[0]:
            if path in self._opaque:
                return True
        return False

    def _entry(self, stream: TarStream, entry: Entry) -> None:
        path = normalise(entry.name)
        if not path:
            if entry.kind == b"5":
                nodes.chmod(self._root, entry.mode)
            return
        parent, _, name = path.rpartition("/")
        if parent != self._parent:
            self._enter(parent)
        if name.startswith(WHITEOUT):
            self._whiteout(name)
        elif entry.is_file:
            self._file(stream, name, entry)
        elif entry.kind == b"5":
            self._directory(name, path, entry)
        elif entry.kind == b"2":
            self._again(name, lambda: os.symlink(entry.target, name, dir_fd=self._parent_fd))
            self._metadata(name, entry)
        elif entry.kind == b"1":
            self._hard_link(name, entry)
        elif entry.kind in _KINDS:
            number = os.makedev(entry.major, entry.minor)
            self._again(name, lambda: os.mknod(name, _KINDS[entry.kind] | 0o600, number, dir_fd=self._parent_fd))
            self._metadata(name, entry)
        else:
            raise ImageError(f"{entry.name}: unknown tar member type {entry.kind!r}")

    def _enter(self, parent: str) -> None:
        try:
            fd = openat2.open_in_root(self._root, parent or ".", os.O_PATH | os.O_DIRECTORY)
        except OSError:
            fd = self._imply(parent)
        os.close(self._parent_fd)
        self._parent, self._parent_fd = parent, fd

    def _imply(self, path: str) -> int:
        """Makes a directory that the layer has not brought (yet), with its parents."""
        parts = path.split("/")
        for count in range(1, len(parts) + 1):
            part = "/".join(parts[:count])
            try:
                os.close(openat2.open_in_root(self._root, part, os.O_PATH | os.O_DIRECTORY))
            except OSError:
                # Through a symlink into a lower layer, or below a file: only the whole tree can tell.
                try:
                    os.mkdir(parts[count - 1], 0o755, dir_fd=(above := self._open_parent(parts[: count - 1])))
                except FileExistsError:
                    raise NeedsLower(part) from None
                finally:
                    os.close(above)
                self._implied[part] = None
        return openat2.open_in_root(self._root, path, os.O_PATH | os.O_DIRECTORY)

    def _open_parent(self, parts: list[str]) -> int:
        return openat2.open_in_root(self._root, "/".join(parts) or ".", os.O_PATH | os.O_DIRECTORY)

    def _again(self, name: str, make: object) -> None:
        """Makes something; what has the name already goes first."""
        try:
            make()  # type: ignore[operator]
        except FileExistsError:
            remove_tree(self._parent_fd, name)
            make()  # type: ignore[operator]

    def _file(self, stream: TarStream, name: str, entry: Entry) -> None:
        try:
            fd = os.open(name, _NEW_FILE, entry.mode, dir_fd=self._parent_fd)
        except FileExistsError:
            remove_tree(self._parent_fd, name)
            fd = os.open(name, _NEW_FILE, entry.mode, dir_fd=self._parent_fd)
        try:
            hole = False
            self._left -= entry.size
            if self._left < 0:
                raise StoreFull("no space left on device: the archive unpacks to more than there is room for")
            for piece in stream.content():
                # A block of zeros becomes a hole (P018); looking at its ends first is nearly free.
                if len(piece) >= _HOLE and not piece[0] and not piece[-1] and not bytes(piece).strip(b"\0"):
                    os.lseek(fd, len(piece), os.SEEK_CUR)
                    hole = True
                    continue
                hole = False
                while piece:
                    piece = piece[os.write(fd, piece) :]
            if hole:
                os.ftruncate(fd, entry.size)
            if entry.uid or entry.gid:
                os.fchown(fd, entry.uid, entry.gid)
            if entry.mode & 0o6022:  # what the umask or the change of owner has taken
                os.fchmod(fd, entry.mode)
            if entry.xattrs:
                set_xattrs(fd, entry)
            os.utime(fd, ns=(entry.mtime, entry.mtime))
        finally:
            os.close(fd)

    def _directory(self, name: str, path: str, entry: Entry) -> None:
        try:
            os.mkdir(name, 0o755, dir_fd=self._parent_fd)
        except FileExistsError:
            info = os.stat(name, dir_fd=self._parent_fd, follow_symlinks=False)
            if not stat.S_ISDIR(info.st_mode):
                gone = stat.S_ISCHR(info.st_mode) and info.st_rdev == 0
                os.unlink(name, dir_fd=self._parent_fd)
                os.mkdir(name, 0o755, dir_fd=self._parent_fd)
                if gone:  # a whiteout came first: nothing of the lower directory shows through
                    self._make_opaque(name)
        self._explicit.add(path)
        fd = self._open_directory(name)
        try:
            os.fchown(fd, entry.uid, entry.gid)
            if entry.xattrs:
                set_xattrs(fd, entry)
            os.fchmod(fd, entry.mode)
        finally:
            os.close(fd)
        self._times.pop(path, None)
        self._times[path] = entry.mtime

    def _hard_link(self, name: str, entry: Entry) -> None:
        target_parent, _, target_name = normalise(entry.target).rpartition("/")
        try:
            source = openat2.open_in_root(self._root, target_parent or ".", os.O_PATH | os.O_DIRECTORY)
        except OSError:
            raise NeedsLower(entry.target) from None
        try:
            self._again(
                name,
                lambda: os.link(
                    target_name, name, src_dir_fd=source, dst_dir_fd=self._parent_fd, follow_symlinks=False
                ),
            )
        except FileNotFoundError:
            raise NeedsLower(entry.target) from None
        except OSError as error:
            raise ImageError(f"{entry.name}: hard link to {entry.target}: {error.strerror}") from error
        finally:
            os.close(source)

    def _metadata(self, name: str, entry: Entry) -> None:
        """Of what is no file and no directory: a link, a device, a fifo."""
        made = nodes.hold(self._parent_fd, name)
        try:
            nodes.chown(made, entry.uid, entry.gid)
            if entry.xattrs:
                set_xattrs(made, entry)
            if entry.kind != b"2":
                nodes.chmod(made, entry.mode)
            nodes.utime(made, entry.mtime)
        finally:
            os.close(made)

    def _open_directory(self, name: str) -> int:
        return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._parent_fd)

    def _whiteout(self, name: str) -> None:
        if name == OPAQUE:
            if not self._parent:
                raise NeedsLower("/")
            self._opaque.add(self._parent)
            nodes.set_xattr(self._parent_fd, mount.overlay_attribute("opaque"), b"y")
            return
        hidden = name.removeprefix(WHITEOUT)
        if hidden in ("", ".", ".."):
            return
        try:
            os.mknod(hidden, stat.S_IFCHR, 0, dir_fd=self._parent_fd)
        except FileExistsError:
            info = os.stat(hidden, dir_fd=self._parent_fd, follow_symlinks=False)
            if stat.S_ISDIR(info.st_mode):  # the layer's own directory stays, the lower one's content goes
                self._make_opaque(hidden)

    def _make_opaque(self, name: str) -> None:
        self._opaque.add(f"{self._parent}/{name}".lstrip("/"))
        fd = self._open_directory(name)
        try:
            os.setxattr(fd, mount.overlay_attribute("opaque"), b"y")
        finally:
            os.close(fd)


def _still(rootfd: int, path: str) -> int:
    """The directory that a layer has made there, or -1 if something later in the layer has taken its place, or its parents'."""
    try:
        return openat2.open_in_root(rootfd, path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return -1
        raise


def inherit_implied(upper: int, implied: list[str], lower: int) -> None:
    """Gives implied directories what they have below: owner, mode, times, attributes. Raises NeedsLower.

    `lower` is the tree of the layers below, and NeedsLower means that it has no directory there but a link or a file.
    """
    for path in implied:
        try:
            below = openat2.open_in_root(lower, path, os.O_PATH | os.O_NOFOLLOW)
        except OSError:
            continue  # new here, or below something that is
        own = _still(upper, path)
        if own < 0:
            os.close(below)
            continue
        try:
            info = os.fstat(below)
            if not stat.S_ISDIR(info.st_mode):
                raise NeedsLower(path)
            os.fchown(own, info.st_uid, info.st_gid)
            os.fchmod(own, stat.S_IMODE(info.st_mode))
            for name, value in nodes.xattrs(below).items():
                if not name.startswith(FORBIDDEN_XATTRS):
                    nodes.set_xattr(own, name, value)
            nodes.utime(own, info.st_mtime_ns)
        finally:
            os.close(below)
            os.close(own)
