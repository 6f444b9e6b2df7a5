"""Tar streams into a root file system, by descriptors only: no member can leave the root."""

from __future__ import annotations

import os
import stat
import tarfile
from dataclasses import dataclass, field
from typing import IO

from sampan.images.errors import ImageError
from sampan.linux import openat2

WHITEOUT, OPAQUE = ".wh.", ".wh..wh..opq"
_BLOCK = 1 << 20
_XATTR = "SCHILY.xattr."
# Names the engine's own overlay uses; an image must not set them (P119).
FORBIDDEN_XATTRS = ("trusted.overlay.", "user.overlay.")


@dataclass(slots=True)
class Extractor:
    """Writes one tar stream below `rootfd`.

    With `whiteouts` the members ``.wh.*`` delete what lower layers brought (image-spec, layer.md);
    otherwise they are ordinary names. `owner` overrides ids; `max_bytes` bounds what is written, by
    default to what the file system has free less a twentieth, so that no bomb fills it (S020).
    """

    rootfd: int
    whiteouts: bool = False
    owner: tuple[int, int] | None = None
    max_bytes: int = 0
    keep_type: bool = False
    _written: int = 0
    _created: set[str] = field(default_factory=set)
    _directories: list[tuple[str, float]] = field(default_factory=list)
    _parent_path: str | None = None
    _parent_fd: int = -1

    def extract(self, stream: IO[bytes]) -> None:
        """Extracts the whole stream. Raises ImageError for a damaged or hostile one."""
        if not self.max_bytes:
            free = os.fstatvfs(self.rootfd)
            self.max_bytes = max(free.f_bavail * free.f_frsize * 19 // 20, 1)
        try:
            with tarfile.open(fileobj=stream, mode="r|", bufsize=_BLOCK, errorlevel=1) as tar:
                for member in tar:
                    self._member(tar, member)
        except (tarfile.TarError, ValueError, RecursionError, OverflowError) as error:
            raise ImageError(f"damaged tar archive: {error}") from error
        finally:
            self._forget_parent()
        for path, mtime in reversed(self._directories):
            fd = openat2.open_in_root(self.rootfd, path)
            try:
                os.utime(f"/proc/self/fd/{fd}", ns=(int(mtime * 1e9), int(mtime * 1e9)))
            finally:
                os.close(fd)

    def _member(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        path = normalise(member.name)
        if not path:
            if member.isdir():
                self._metadata_of_root(member)
            return
        parent, _, name = path.rpartition("/")
        parent_fd = self._parent(parent)
        if self.whiteouts and name.startswith(WHITEOUT):
            self._whiteout(parent, parent_fd, name)
            return
        if self.whiteouts:
            self._created.add(path)
        if member.isdir():
            self._directory(parent_fd, name, path, member)
            return
        self._clear(parent_fd, name)
        if member.isreg():
            self._file(tar, parent_fd, name, member)
        elif member.issym():
            os.symlink(member.linkname, name, dir_fd=parent_fd)
        elif member.islnk():
            self._hard_link(parent_fd, name, member)
            return
        elif member.ischr() or member.isblk() or member.isfifo():
            kind = stat.S_IFCHR if member.ischr() else stat.S_IFBLK if member.isblk() else stat.S_IFIFO
            number = os.makedev(member.devmajor, member.devminor)
            os.mknod(name, kind | 0o600, number, dir_fd=parent_fd)
        else:
            raise ImageError(f"{member.name}: unknown tar member type {member.type!r}")
        self._metadata(parent_fd, name, member)

    def _parent(self, parent: str) -> int:
        if parent != self._parent_path:
            if self._parent_fd >= 0:
                os.close(self._parent_fd)
                self._parent_fd = -1
            self._parent_fd = openat2.mkdir_in_root(self.rootfd, parent)
            self._parent_path = parent
        return self._parent_fd

    def _forget_parent(self) -> None:
        if self._parent_fd >= 0:
            os.close(self._parent_fd)
        self._parent_fd, self._parent_path = -1, None

    def _clear(self, parent_fd: int, name: str) -> None:
        try:
            info = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
        except FileNotFoundError:
            return
        if stat.S_ISDIR(info.st_mode):
            if self.keep_type:
                raise ImageError(f"cannot overwrite directory {name!r} with a non-directory")
            remove_tree(parent_fd, name)
            return
        os.unlink(name, dir_fd=parent_fd)

    def _directory(self, parent_fd: int, name: str, path: str, member: tarfile.TarInfo) -> None:
        try:
            os.mkdir(name, 0o755, dir_fd=parent_fd)
        except FileExistsError:
            info = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
            if stat.S_ISLNK(info.st_mode) and self._is_directory(path):
                return  # an existing symlink to a directory stays, as tar and Docker keep it
            if not stat.S_ISDIR(info.st_mode):
                if self.keep_type:
                    raise ImageError(f"cannot overwrite non-directory {name!r} with a directory") from None
                os.unlink(name, dir_fd=parent_fd)
                os.mkdir(name, 0o755, dir_fd=parent_fd)
        self._metadata(parent_fd, name, member)
        self._directories.append((path, member.mtime))

    def _is_directory(self, path: str) -> bool:
        try:
            os.close(openat2.open_in_root(self.rootfd, path, os.O_PATH | os.O_DIRECTORY))
            return True
        except OSError:
            return False

    def _file(self, tar: tarfile.TarFile, parent_fd: int, name: str, member: tarfile.TarInfo) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=parent_fd)
        try:
            source = tar.extractfile(member)
            assert source is not None
            left = member.size
            while left:
                block = source.read(min(left, _BLOCK))
                if not block:
                    raise ImageError(f"{member.name}: the archive ends in the middle of the file")
                left -= len(block)
                self._account(len(block))
                self._write(fd, block)
            os.ftruncate(fd, member.size)
        finally:
            os.close(fd)

    def _account(self, count: int) -> None:
        self._written += count
        if self._written > self.max_bytes:
            raise ImageError(f"no space left on device: the archive unpacks to more than {self.max_bytes} bytes")

    @staticmethod
    def _write(fd: int, block: bytes) -> None:
        """Writes a block; one of zeros only becomes a hole (P018)."""
        if len(block) >= 4096 and not block.strip(b"\0"):
            os.lseek(fd, len(block), os.SEEK_CUR)
            return
        view = memoryview(block)
        while view:
            view = view[os.write(fd, view) :]

    def _hard_link(self, parent_fd: int, name: str, member: tarfile.TarInfo) -> None:
        target = normalise(member.linkname)
        target_parent, _, target_name = target.rpartition("/")
        try:
            source = openat2.open_in_root(self.rootfd, target_parent or ".", os.O_PATH | os.O_DIRECTORY)
        except OSError as error:
            raise ImageError(f"{member.name}: hard link to {member.linkname}: {error.strerror}") from error
        try:
            os.link(target_name, name, src_dir_fd=source, dst_dir_fd=parent_fd, follow_symlinks=False)
        except OSError as error:
            raise ImageError(f"{member.name}: hard link to {member.linkname}: {error.strerror}") from error
        finally:
            os.close(source)

    def _metadata_of_root(self, member: tarfile.TarInfo) -> None:
        os.chmod(f"/proc/self/fd/{self.rootfd}", stat.S_IMODE(member.mode))

    def _metadata(self, parent_fd: int, name: str, member: tarfile.TarInfo) -> None:
        uid, gid = self.owner or (member.uid, member.gid)
        os.chown(name, uid, gid, dir_fd=parent_fd, follow_symlinks=False)
        xattrs = [key for key in member.pax_headers if key.startswith(_XATTR)]
        if xattrs:
            self._xattrs(parent_fd, name, member, xattrs)
        if not member.issym():
            os.chmod(name, stat.S_IMODE(member.mode), dir_fd=parent_fd)
        if not member.isdir():
            stamp = int(member.mtime * 1e9)
            os.utime(name, ns=(stamp, stamp), dir_fd=parent_fd, follow_symlinks=False)

    @staticmethod
    def _xattrs(parent_fd: int, name: str, member: tarfile.TarInfo, keys: list[str]) -> None:
        for key in keys:
            attribute = key.removeprefix(_XATTR)
            if attribute.startswith(FORBIDDEN_XATTRS):
                continue
            value = member.pax_headers[key].encode("utf-8", "surrogateescape")
            try:
                os.setxattr(f"/proc/self/fd/{parent_fd}/{name}", attribute, value, follow_symlinks=False)
            except OSError as error:
                if error.errno not in (1, 95):  # EPERM, ENOTSUP: a namespace this file system has not
                    raise

    def _whiteout(self, parent: str, parent_fd: int, name: str) -> None:
        if name == OPAQUE:
            for entry in _entries(parent_fd):
                path = f"{parent}/{entry}" if parent else entry
                if not self._keeps(path):
                    remove_tree(parent_fd, entry)
            return
        hidden = name.removeprefix(WHITEOUT)
        if hidden in ("", ".", ".."):
            return
        path = f"{parent}/{hidden}" if parent else hidden
        if path not in self._created:
            remove_tree(parent_fd, hidden)

    def _keeps(self, path: str) -> bool:
        return path in self._created or any(item.startswith(f"{path}/") for item in self._created)


def _entries(fd: int) -> list[str]:
    """The names in a directory given by an O_PATH descriptor, which can't be listed itself."""
    readable = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
    try:
        return os.listdir(readable)
    finally:
        os.close(readable)


def normalise(name: str) -> str:
    """A member's name as a path relative to the root: no leading slash, no "." and ".."."""
    parts: list[str] = []
    for part in name.split("/"):
        if part in ("", "."):
            continue
        if part == "..":
            if parts:
                parts.pop()
            continue
        parts.append(part)
    return "/".join(parts)


def remove_tree(parent_fd: int, name: str) -> None:
    """Removes a file or a whole directory below a descriptor, following nothing. Missing is fine."""
    try:
        os.unlink(name, dir_fd=parent_fd)
        return
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError):
        pass
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent_fd)
    try:
        for entry in os.listdir(fd):
            remove_tree(fd, entry)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=parent_fd)
