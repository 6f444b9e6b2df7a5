"""File trees into tar streams: a whole root, a part of it, or an overlay's upper as a layer."""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator
from typing import IO

from sampan.linux import mount, openat2

_XATTR = "SCHILY.xattr."
_OVERLAY = ("trusted.overlay.", "user.overlay.")


class _Packer:
    def __init__(self, out: IO[bytes], layer: bool, clamp: int | None = None) -> None:
        self._clamp = clamp
        self._tar = tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT, bufsize=1 << 20)
        self._layer = layer
        self._inodes: dict[tuple[int, int], str] = {}

    def close(self) -> None:
        self._tar.close()

    def add(self, parent_fd: int, name: str, path: str) -> None:
        info = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
        if self._layer and is_whiteout(info):
            base, _, last = path.rpartition("/")
            self._tar.addfile(tarfile.TarInfo(f"{base}/.wh.{last}" if base else f".wh.{last}"))
            return
        if stat.S_ISSOCK(info.st_mode):
            return
        if stat.S_ISDIR(info.st_mode):
            self._directory(parent_fd, name, path, info)
            return
        member = self._member(path, info)
        key = (info.st_dev, info.st_ino)
        if info.st_nlink > 1 and key in self._inodes:
            member.type, member.linkname = tarfile.LNKTYPE, self._inodes[key]
            self._tar.addfile(member)
            return
        self._inodes[key] = path
        if stat.S_ISLNK(info.st_mode):
            member.type, member.linkname = tarfile.SYMTYPE, os.readlink(name, dir_fd=parent_fd)
        elif stat.S_ISREG(info.st_mode):
            self._file(parent_fd, name, member, info)
            return
        else:
            kinds = {
                stat.S_IFCHR: tarfile.CHRTYPE,
                stat.S_IFBLK: tarfile.BLKTYPE,
                stat.S_IFIFO: tarfile.FIFOTYPE,
            }
            member.type = kinds[stat.S_IFMT(info.st_mode)]
            member.devmajor, member.devminor = os.major(info.st_rdev), os.minor(info.st_rdev)
        self._tar.addfile(member)

    def _member(self, path: str, info: os.stat_result) -> tarfile.TarInfo:
        member = tarfile.TarInfo(path)
        member.mode = stat.S_IMODE(info.st_mode)
        member.uid, member.gid = info.st_uid, info.st_gid
        member.mtime = int(info.st_mtime) if self._clamp is None else min(int(info.st_mtime), self._clamp)
        return member

    def _directory(self, parent_fd: int, name: str, path: str, info: os.stat_result) -> None:
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent_fd)
        try:
            if path:
                member = self._member(path, info)
                member.type = tarfile.DIRTYPE
                self._xattrs(fd, member)
                self._tar.addfile(member)
                if self._layer and is_opaque(fd):
                    self._tar.addfile(tarfile.TarInfo(f"{path}/.wh..wh..opq"))
            for entry in sorted(os.listdir(fd)):
                self.add(fd, entry, f"{path}/{entry}" if path else entry)
        finally:
            os.close(fd)

    def _file(self, parent_fd: int, name: str, member: tarfile.TarInfo, info: os.stat_result) -> None:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=parent_fd)
        with os.fdopen(fd, "rb") as file:
            member.size = info.st_size
            self._xattrs(fd, member)
            self._tar.addfile(member, _Padded(file, info.st_size))

    @staticmethod
    def _xattrs(fd: int, member: tarfile.TarInfo) -> None:
        headers: dict[str, str] = {}
        try:
            names = os.listxattr(fd)
        except OSError:
            return
        for name in names:
            if not name.startswith((*_OVERLAY, "security.selinux")):
                value = os.getxattr(fd, name).decode("utf-8", "surrogateescape")
                headers[_XATTR + name] = value
        member.pax_headers = headers


class _Padded:
    """A file that may shrink while it is read: the missing rest is zeros, so the tar stays whole."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._left = file, size

    def read(self, count: int = -1) -> bytes:
        count = self._left if count < 0 else min(count, self._left)
        data = self._file.read(count)
        self._left -= count
        return data + bytes(count - len(data))


def is_whiteout(info: os.stat_result) -> bool:
    """Whether an entry of an overlay's upper directory marks a deletion: a character device 0:0."""
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0


def is_opaque(fd: int) -> bool:
    """Whether a directory of an overlay's upper hides the lower ones' content."""
    try:
        return os.getxattr(fd, mount.overlay_attribute("opaque")) == b"y"
    except OSError:
        return False


def pack_tree(rootfd: int, path: str, out: IO[bytes], name: str = "") -> None:
    """Writes what is at `path` inside the root as tar; members are named below `name`.

    The last component is not followed when it is a symlink; parents are, inside the root.
    """
    parent, _, last = path.strip("/").rpartition("/")
    packer = _Packer(out, layer=False)
    try:
        if not last:
            packer.add(rootfd, ".", name)
            return
        parent_fd = openat2.open_in_root(rootfd, parent or ".", os.O_PATH | os.O_DIRECTORY)
        try:
            packer.add(parent_fd, last, name or last)
        finally:
            os.close(parent_fd)
    finally:
        packer.close()


def pack_layer(upper: str, out: IO[bytes], clamp: int | None = None) -> None:
    """Writes an overlay's upper directory as an OCI layer, deletions as whiteouts. No time is later than `clamp`."""
    fd = os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    packer = _Packer(out, layer=True, clamp=clamp)
    try:
        packer.add(fd, ".", "")
    finally:
        packer.close()
        os.close(fd)


def changes(upper: str, lowerfd: int) -> Iterator[tuple[str, int]]:
    """(path, kind) rows of what a container changed: 0 modified, 1 added, 2 deleted, as the API counts."""
    fd = os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield from _changes(fd, "", lowerfd)
    finally:
        os.close(fd)


def _changes(fd: int, path: str, lowerfd: int) -> Iterator[tuple[str, int]]:
    for name in sorted(os.listdir(fd)):
        info = os.stat(name, dir_fd=fd, follow_symlinks=False)
        full = f"{path}/{name}"
        existed = _exists(lowerfd, full)
        if is_whiteout(info):
            if existed:
                yield full, 2
            continue
        yield full, 0 if existed else 1
        if stat.S_ISDIR(info.st_mode):
            inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            try:
                yield from _changes(inner, full, lowerfd)
            finally:
                os.close(inner)


def _exists(rootfd: int, path: str) -> bool:
    try:
        parent = openat2.open_in_root(rootfd, os.path.dirname(path), os.O_PATH | os.O_DIRECTORY)
    except OSError:
        return False
    try:
        os.stat(os.path.basename(path), dir_fd=parent, follow_symlinks=False)
        return True
    except OSError:
        return False
    finally:
        os.close(parent)
