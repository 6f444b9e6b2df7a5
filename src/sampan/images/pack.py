"""File trees into tar streams: a whole root, a part of it, or an overlay's upper as a layer."""

from __future__ import annotations

import errno
import os
import stat
import tarfile
from collections.abc import Iterator
from typing import IO, cast

from sampan.linux import filetree, mount, nodes, openat2

_XATTR = "SCHILY.xattr."
_BLOCK = 1 << 20
_LONGEST = 4095  # a path that is longer can't be named, and so not unpacked
_OVERLAY = ("trusted.overlay.", "user.overlay.")


class _Packer:
    def __init__(self, out: IO[bytes], layer: bool, clamp: int | None = None) -> None:
        self._clamp = clamp
        self._tar = tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT, bufsize=_BLOCK)
        self._tar.copybufsize = _BLOCK  # type: ignore[attr-defined]  # with its 16 KiB it takes three times as long
        self._layer = layer
        self._inodes: dict[tuple[int, int], str] = {}  # of files with several names

    def close(self) -> None:
        self._tar.close()

    def add(self, parent_fd: int, name: str, path: str) -> None:
        """Adds what is there under the name `path`, a directory with all that is in it."""
        held = nodes.hold(parent_fd, name)
        try:
            if not stat.S_ISDIR(os.fstat(held).st_mode):
                self._one(held, path)
                return
            top = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=held)
        finally:
            os.close(held)
        try:
            self._directory(top, path)
            for entry in filetree.descend(top, path):
                if len(entry.path) > _LONGEST:
                    text = f"directories are nested too deep to be archived, below {entry.path[:60]}…"
                    raise OSError(errno.ENAMETOOLONG, text)
                if entry.fd >= 0:
                    self._directory(entry.fd, entry.path)
                else:
                    self._named(entry)
        finally:
            os.close(top)

    def _directory(self, fd: int, path: str) -> None:
        if path:
            member = self._member(path, os.fstat(fd))
            member.type = tarfile.DIRTYPE
            self._xattrs(fd, member)
            self._add(member)
            if self._layer and is_opaque(fd):
                self._add(tarfile.TarInfo(f"{path}/.wh..wh..opq"))

    def _named(self, entry: filetree.Entry) -> None:
        try:
            held = nodes.hold(entry.parent, entry.name)
        except FileNotFoundError:
            return  # since it was listed
        try:
            self._one(held, entry.path)
        finally:
            os.close(held)

    def _one(self, held: int, path: str) -> None:
        """Adds what is held, and no directory."""
        info = os.fstat(held)
        if self._layer and is_whiteout(info):
            base, _, last = path.rpartition("/")
            self._add(tarfile.TarInfo(f"{base}/.wh.{last}" if base else f".wh.{last}"))
            return
        if stat.S_ISSOCK(info.st_mode) or stat.S_ISDIR(info.st_mode):  # the latter since it was listed
            return
        member = self._member(path, info)
        if info.st_nlink > 1:
            first = self._inodes.setdefault((info.st_dev, info.st_ino), path)
            if first != path:
                member.type, member.linkname = tarfile.LNKTYPE, first
                self._add(member)
                return
        if stat.S_ISREG(info.st_mode):
            self._file(held, member, info)
            return
        if stat.S_ISLNK(info.st_mode):
            member.type, member.linkname = tarfile.SYMTYPE, os.readlink("", dir_fd=held)
        else:
            kinds = {
                stat.S_IFCHR: tarfile.CHRTYPE,
                stat.S_IFBLK: tarfile.BLKTYPE,
                stat.S_IFIFO: tarfile.FIFOTYPE,
            }
            member.type = kinds[stat.S_IFMT(info.st_mode)]
            member.devmajor, member.devminor = os.major(info.st_rdev), os.minor(info.st_rdev)
        self._add(member)

    def _add(self, member: tarfile.TarInfo, content: _Padded | None = None) -> None:
        self._tar.addfile(member, cast("IO[bytes]", content))
        self._tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps them all, and never looks at them again

    def _member(self, path: str, info: os.stat_result) -> tarfile.TarInfo:
        member = tarfile.TarInfo(path)
        member.mode = stat.S_IMODE(info.st_mode)
        member.uid, member.gid = info.st_uid, info.st_gid
        member.mtime = int(info.st_mtime) if self._clamp is None else min(int(info.st_mtime), self._clamp)
        return member

    def _file(self, held: int, member: tarfile.TarInfo, info: os.stat_result) -> None:
        with os.fdopen(nodes.reopen_regular(held, member.name), "rb") as file:
            member.size = info.st_size
            self._xattrs(file.fileno(), member)
            self._add(member, _Padded(file, info.st_size))

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
    top = os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for entry in filetree.descend(top):
            full = f"/{entry.path}"
            try:
                info = entry.stat()
            except FileNotFoundError:
                continue  # since it was listed
            existed = _exists(lowerfd, full)
            if not is_whiteout(info):
                yield full, 0 if existed else 1
            elif existed:
                yield full, 2
            entry.enter = len(full) <= _LONGEST
    finally:
        os.close(top)


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
