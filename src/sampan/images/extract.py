"""Tar streams into a root file system, by descriptors only: no member can leave the root."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, field
from typing import IO

from sampan.images.errors import ImageError, StoreFull
from sampan.images.tarstream import Entry, TarStream
from sampan.linux import filetree, nodes, openat2

WHITEOUT, OPAQUE = ".wh.", ".wh..wh..opq"
_KINDS = {b"3": stat.S_IFCHR, b"4": stat.S_IFBLK, b"6": stat.S_IFIFO}
_SET_ID = stat.S_ISUID | stat.S_ISGID
# What only the name or the target of a member can be to blame for.
HOSTILE = (errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.ENOTDIR, errno.EISDIR)
# Names the engine's own overlay uses; an image must not set them (P119).
FORBIDDEN_XATTRS = ("trusted.overlay.", "user.overlay.")


@dataclass(slots=True)
class Extractor:
    """Writes one tar stream below `rootfd`.

    With `whiteouts` the members ``.wh.*`` delete what lower layers brought (image-spec, layer.md);
    otherwise they are ordinary names. `owner` overrides ids. `harmless`: for a place where others could run or open what comes
    from somebody who is not trusted: no set-id bits, whose owner would be another now, no attributes but the user's, and no devices,
    whose names are `left_out`. `max_bytes` bounds what is written, by
    default to what the file system has free less a twentieth, so that no bomb fills it (S020).
    """

    rootfd: int
    whiteouts: bool = False
    owner: tuple[int, int] | None = None
    max_bytes: int = 0
    keep_type: bool = False
    harmless: bool = False
    left_out: list[str] = field(default_factory=list)
    _written: int = 0
    _created: set[str] = field(default_factory=set)  # with the directories they are in
    _directories: dict[str, int] = field(default_factory=dict)
    _parent_path: str | None = None
    _parent_fd: int = -1

    def extract(self, stream: IO[bytes]) -> None:
        """Extracts the whole stream. Raises ImageError for a damaged or hostile one."""
        if not self.max_bytes:
            free = os.fstatvfs(self.rootfd)
            self.max_bytes = max(free.f_bavail * free.f_frsize * 19 // 20, 1)
        members = TarStream(stream.read)
        try:
            for member in members:
                self._member(members, member)
            for path, mtime in reversed(self._directories.items()):
                self._touch(path, mtime)
        except (ValueError, OverflowError) as error:
            raise ImageError(f"damaged tar archive: {error}") from error
        except OSError as error:
            if error.errno in HOSTILE:
                raise ImageError(f"damaged tar archive: one of its members can't be made: {error.strerror}") from error
            raise
        finally:
            self._forget_parent()

    def _member(self, members: TarStream, member: Entry) -> None:
        path = normalise(member.name)
        if not path:
            if (
                member.kind == b"5" and not self.harmless
            ):  # which is somebody's already, whom its mode keeps others from
                nodes.chmod(self.rootfd, member.mode)
            return
        if self.harmless and member.kind in (b"3", b"4"):
            self.left_out.append(path)
            return
        parent, _, name = path.rpartition("/")
        parent_fd = self._parent(parent)
        if self.whiteouts and name.startswith(WHITEOUT):
            self._whiteout(parent, parent_fd, name)
            return
        if self.whiteouts:
            self._note(path)
        if member.kind == b"5":
            self._directory(parent_fd, name, path, member)
            return
        self._clear(parent_fd, name)
        if member.is_file:
            self._file(members, parent_fd, name, member)
            return
        if member.kind == b"1":
            self._hard_link(parent_fd, name, member)
            return
        if member.kind == b"2":
            os.symlink(member.target, name, dir_fd=parent_fd)
        elif member.kind in _KINDS:
            number = os.makedev(member.major, member.minor)
            os.mknod(name, _KINDS[member.kind] | 0o600, number, dir_fd=parent_fd)
        else:
            raise ImageError(f"{member.name}: unknown tar member type {member.kind!r}")
        made = nodes.hold(parent_fd, name)
        try:
            if stat.S_IFMT(os.fstat(made).st_mode) != _KINDS.get(member.kind, stat.S_IFLNK):
                raise _exchanged(member)
            self._metadata(made, member)
        finally:
            os.close(made)

    def _parent(self, parent: str) -> int:
        if parent != self._parent_path:
            if self._parent_fd >= 0:
                os.close(self._parent_fd)
                self._parent_fd = -1
            try:
                self._parent_fd = openat2.open_in_root(self.rootfd, parent or ".", os.O_PATH | os.O_DIRECTORY)
            except FileNotFoundError:
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

    def _directory(self, parent_fd: int, name: str, path: str, member: Entry) -> None:
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
        try:
            made = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent_fd)
        except (FileNotFoundError, NotADirectoryError):
            raise _exchanged(member) from None
        try:
            self._metadata(made, member)
        finally:
            os.close(made)
        self._directories.pop(path, None)
        self._directories[path] = member.mtime

    def _touch(self, path: str, mtime: int) -> None:
        """Sets a directory's time, when all is in it; one that somebody has exchanged meanwhile has another's."""
        try:
            fd = openat2.open_in_root(self.rootfd, path, os.O_RDONLY | os.O_DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            return
        try:
            os.utime(fd, ns=(mtime, mtime))
        finally:
            os.close(fd)

    def _is_directory(self, path: str) -> bool:
        try:
            os.close(openat2.open_in_root(self.rootfd, path, os.O_PATH | os.O_DIRECTORY))
            return True
        except OSError:
            return False

    def _file(self, members: TarStream, parent_fd: int, name: str, member: Entry) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=parent_fd)
        try:
            self._written += member.size
            if self._written > self.max_bytes:
                raise StoreFull(
                    f"no space left on device: the archive unpacks to more than {self.max_bytes} bytes, for which there is room"
                )
            for piece in members.content():
                self._write(fd, piece)
            os.ftruncate(fd, member.size)
            self._metadata(fd, member)
        finally:
            os.close(fd)

    @staticmethod
    def _write(fd: int, piece: memoryview) -> None:
        """Writes a piece; one of zeros only becomes a hole (P018)."""
        if len(piece) >= 4096 and not piece[0] and not piece[-1] and not bytes(piece).strip(b"\0"):
            os.lseek(fd, len(piece), os.SEEK_CUR)
            return
        while piece:
            piece = piece[os.write(fd, piece) :]

    def _hard_link(self, parent_fd: int, name: str, member: Entry) -> None:
        target = normalise(member.target)
        target_parent, _, target_name = target.rpartition("/")
        try:
            source = openat2.open_in_root(self.rootfd, target_parent or ".", os.O_PATH | os.O_DIRECTORY)
        except OSError as error:
            raise ImageError(f"{member.name}: hard link to {member.target}: {error.strerror}") from error
        try:
            os.link(target_name, name, src_dir_fd=source, dst_dir_fd=parent_fd, follow_symlinks=False)
        except OSError as error:
            raise ImageError(f"{member.name}: hard link to {member.target}: {error.strerror}") from error
        finally:
            os.close(source)

    def _metadata(self, fd: int, member: Entry) -> None:
        """Owner, attributes, mode and time of what was made, by its descriptor. The owner first: chown(2) clears set-uid bits."""
        uid, gid = self.owner or (member.uid, member.gid)
        nodes.chown(fd, uid, gid)
        if member.xattrs:
            set_xattrs(fd, member, "user." if self.harmless else "")
        if member.kind != b"2":
            nodes.chmod(fd, member.mode & ~_SET_ID if self.harmless else member.mode)
        if member.kind != b"5":
            nodes.utime(fd, member.mtime)

    def _whiteout(self, parent: str, parent_fd: int, name: str) -> None:
        if name == OPAQUE:
            for entry in _entries(parent_fd):
                path = f"{parent}/{entry}" if parent else entry
                if path not in self._created:
                    remove_tree(parent_fd, entry)
            return
        hidden = name.removeprefix(WHITEOUT)
        if hidden in ("", ".", ".."):
            return
        path = f"{parent}/{hidden}" if parent else hidden
        if path not in self._created:
            remove_tree(parent_fd, hidden)

    def _note(self, path: str) -> None:
        while path and path not in self._created:
            self._created.add(path)
            path = path.rpartition("/")[0]


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


def set_xattrs(fd: int, member: Entry, only: str = "") -> None:
    """Sets a member's extended attributes whose names begin with `only`; those of the engine's own overlay are left out."""
    for attribute, value in member.xattrs.items():
        if attribute.startswith(FORBIDDEN_XATTRS) or not attribute.startswith(only):
            continue
        try:
            nodes.set_xattr(fd, attribute, value)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP):  # a namespace that this file system has not
                raise


def _exchanged(member: Entry) -> ImageError:
    return ImageError(f"{member.name}: somebody has put something else in its place while it was unpacked")


def remove_tree(parent_fd: int, name: str) -> None:
    """Removes a file or a whole directory below a descriptor, following nothing. Missing is fine."""
    filetree.remove_at(parent_fd, name)
