"""Copying into a stage: what COPY does with owners, modes, existing files and missing parents."""

from __future__ import annotations

import errno
import os
import posixpath
import re
import stat
from dataclasses import dataclass, field

from sampan.build.errors import BuildError
from sampan.build.file_tree import Tree
from sampan.build.patterns import Ignore
from sampan.linux import nodes, openat2

_SYMBOLIC = re.compile(r"([ugoa]*)([-+=])([rwxXst]*)")


@dataclass(slots=True)
class Manner:
    """How to copy. `owner` None keeps the source's; `mode` is octal or symbolic text, "" keeps it."""

    owner: tuple[int, int] | None = (0, 0)
    mode: str = ""
    exclude: Ignore = field(default_factory=lambda: Ignore([]))


def changed_mode(mode: int, text: str, directory: bool) -> int:
    """The mode after a chmod(1) argument, octal or symbolic. Raises BuildError."""
    if not text:
        return mode
    if re.fullmatch(r"[0-7]{1,5}", text):
        return int(text, 8) & 0o7777
    for clause in text.split(","):
        match = _SYMBOLIC.fullmatch(clause)
        if match is None:
            raise BuildError(f"invalid chmod parameter: '{text}'. it should be octal string or symbolic form")
        mode = _apply_clause(mode, match[1] or "a", match[2], match[3], directory)
    return mode


def _apply_clause(mode: int, who: str, operator: str, letters: str, directory: bool) -> int:
    who = "ugo" if "a" in who else who
    bits = 0
    for shift, letter in ((6, "u"), (3, "g"), (0, "o")):
        if letter not in who:
            continue
        for permission, value in (("r", 4), ("w", 2), ("x", 1)):
            wanted = permission in letters or (permission == "x" and "X" in letters and (directory or mode & 0o111))
            bits |= value << shift if wanted else 0
    if "s" in letters:
        bits |= (0o4000 if "u" in who else 0) | (0o2000 if "g" in who else 0)
    if "t" in letters:
        bits |= 0o1000
    if operator == "+":
        return mode | bits
    if operator == "-":
        return mode & ~bits
    mask = sum(7 << shift for shift, letter in ((6, "u"), (3, "g"), (0, "o")) if letter in who)
    return mode & ~mask | bits


def make_parents(rootfd: int, path: str, owner: tuple[int, int] = (0, 0)) -> int:
    """Opens a directory of the stage, making what is missing (0755); what exists keeps its owner and mode (P013, P017)."""
    try:
        return openat2.mkdir_in_root(rootfd, path, 0o755, *owner)
    except OSError as error:
        raise BuildError(f"cannot make directory {path}: {os.strerror(error.errno or 0)}") from None


def copy(tree: Tree, path: str, info: os.stat_result, rootfd: int, target: str, manner: Manner) -> None:
    """Copies a file to `target`, or a directory's content into it. Raises BuildError."""
    if stat.S_ISDIR(info.st_mode):
        _copy_content(tree, path, info, rootfd, target, manner)
        return
    source = openat2.open_in_root(tree.rootfd, posixpath.dirname(path) or ".", os.O_PATH | os.O_DIRECTORY)
    parent = make_parents(rootfd, posixpath.dirname(target) or "/")
    try:
        _copy_one(source, posixpath.basename(path), info, parent, posixpath.basename(target), manner, {})
    finally:
        os.close(source)
        os.close(parent)


def _copy_content(tree: Tree, path: str, info: os.stat_result, rootfd: int, target: str, manner: Manner) -> None:
    existed = _is_directory(rootfd, target)
    parents = _Parents(make_parents(rootfd, target))
    top = parents.top
    links: dict[tuple[int, int], str] = {}
    later: list[tuple[str, os.stat_result]] = []
    try:
        for full, source_fd, entry in tree.walk(path):
            relative = full[len(path) + 1 :] if path else full
            if manner.exclude and manner.exclude.hides(relative):
                continue
            parent_path, _, name = relative.rpartition("/")
            parent = parents.open(parent_path)
            if stat.S_ISDIR(entry.st_mode):
                if _make_directory(parent, name, entry, manner):
                    later.append((relative, entry))
                continue
            _copy_one(source_fd, posixpath.basename(full), entry, parent, name, manner, links, top, relative)
        for relative, entry in reversed(later):
            parents.touch(relative, entry.st_mtime_ns)
        if not existed:
            _metadata_fd(top, info, manner, directory=True)
    finally:
        parents.close()


class _Parents:
    """The directories of the target, below `top`: the one used last stays open."""

    def __init__(self, top: int) -> None:
        self.top = top
        self._path, self._fd = "", os.dup(top)

    def open(self, path: str) -> int:
        """The descriptor of a directory, which is made if it is not there (what led to it was excluded)."""
        if path != self._path:
            try:
                fd = self._below(self.top, path) if path else os.dup(self.top)
            except FileNotFoundError:
                fd = self._make(path)
            except NotADirectoryError:
                raise BuildError(f"cannot copy into {path}: it is no directory") from None
            except OSError as error:
                if error.errno != errno.ELOOP:
                    raise
                raise BuildError(f"cannot copy into {path}: it is no directory") from None
            os.close(self._fd)
            self._path, self._fd = path, fd
        return self._fd

    def touch(self, path: str, moment: int) -> None:
        """Sets a directory's time, when all is in it."""
        fd = openat2.open_beneath(self.top, path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.utime(fd, ns=(moment, moment))
        finally:
            os.close(fd)

    @staticmethod
    def _below(fd: int, path: str) -> int:
        return openat2.open_beneath(fd, path, os.O_PATH | os.O_DIRECTORY)

    def _make(self, path: str) -> int:
        current = os.dup(self.top)
        try:
            for part in path.split("/"):
                try:
                    os.mkdir(part, 0o755, dir_fd=current)
                except FileExistsError:
                    pass
                above, current = current, self._below(current, part)
                os.close(above)
        except OSError as error:
            os.close(current)
            raise BuildError(f"cannot copy into {path}: {error.strerror}") from None
        return current

    def close(self) -> None:
        """Closes what is open, the top too."""
        os.close(self._fd)
        os.close(self.top)


def _make_directory(parent: int, name: str, info: os.stat_result, manner: Manner) -> bool:
    """Makes a directory like the source's; one that is there keeps its owner and mode. Whether it is new."""
    try:
        os.mkdir(name, 0o755, dir_fd=parent)
    except FileExistsError:
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            return False
        raise BuildError(f"cannot copy to non-directory: {name}") from None
    uid, gid = manner.owner or (info.st_uid, info.st_gid)
    fd = openat2.open_beneath(parent, name, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fchown(fd, uid, gid)
        os.fchmod(fd, changed_mode(stat.S_IMODE(info.st_mode), manner.mode, True))
    finally:
        os.close(fd)
    return True


def _copy_one(
    source: int, source_name: str, info: os.stat_result, parent: int, name: str, manner: Manner,
    links: dict[tuple[int, int], str], top: int = -1, relative: str = "",
) -> None:  # fmt: skip
    _make_room(parent, name)
    key = (info.st_dev, info.st_ino)
    if info.st_nlink > 1 and key in links and top >= 0:
        os.link(links[key], name, src_dir_fd=top, dst_dir_fd=parent, follow_symlinks=False)
        return
    links[key] = relative
    kind = stat.S_IFMT(info.st_mode)
    if kind == stat.S_IFREG:
        _copy_file(source, source_name, parent, name, info, manner)
        return
    if kind == stat.S_IFLNK:
        os.symlink(os.readlink(source_name, dir_fd=source), name, dir_fd=parent)
    elif kind == stat.S_IFSOCK:
        return
    else:
        os.mknod(name, info.st_mode, info.st_rdev, dir_fd=parent)
    uid, gid = manner.owner or (info.st_uid, info.st_gid)
    made = nodes.hold(parent, name)
    try:
        nodes.chown(made, uid, gid)
        nodes.utime(made, info.st_mtime_ns)
    finally:
        os.close(made)


def _make_room(parent: int, name: str) -> None:
    try:
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return
    if stat.S_ISDIR(found.st_mode):
        raise BuildError(f"cannot replace to directory {name} with file")
    os.unlink(name, dir_fd=parent)


def _copy_file(source: int, source_name: str, parent: int, name: str, info: os.stat_result, manner: Manner) -> None:
    try:
        reading = nodes.open_regular(source, source_name)
    except OSError as error:
        raise BuildError(
            f"cannot copy {source_name}: {os.strerror(error.errno or 0)}: it was exchanged meanwhile"
        ) from None
    try:
        writing = os.open(
            name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=parent
        )
        try:
            copy_data(reading, writing)
            for attribute in os.listxattr(reading):
                if not attribute.startswith(("trusted.overlay.", "user.overlay.", "security.selinux")):
                    os.setxattr(writing, attribute, os.getxattr(reading, attribute))
            _metadata_fd(writing, info, manner, directory=False)
        finally:
            os.close(writing)
    finally:
        os.close(reading)


def copy_data(reading: int, writing: int) -> None:
    """A file's content, holes as holes (copy_file_range(2), lseek(2) SEEK_DATA)."""
    size, position = os.fstat(reading).st_size, 0
    while position < size:
        try:
            position = os.lseek(reading, position, os.SEEK_DATA)
        except OSError:  # ENXIO: only a hole is left
            break
        end = os.lseek(reading, position, os.SEEK_HOLE)
        os.lseek(writing, position, os.SEEK_SET)
        while position < end:
            try:
                moved = os.copy_file_range(reading, writing, min(end - position, 1 << 30), position, position)
            except OSError:
                data = os.pread(reading, min(end - position, 1 << 20), position)
                moved = os.pwrite(writing, data, position)
            if moved == 0:
                break
            position += moved
    os.ftruncate(writing, size)


def _metadata_fd(fd: int, info: os.stat_result, manner: Manner, directory: bool) -> None:
    uid, gid = manner.owner or (info.st_uid, info.st_gid)
    nodes.chown(fd, uid, gid)
    nodes.chmod(fd, changed_mode(stat.S_IMODE(info.st_mode), manner.mode, directory))
    nodes.utime(fd, info.st_mtime_ns)


def _is_directory(rootfd: int, path: str) -> bool:
    try:
        os.close(openat2.open_in_root(rootfd, path, os.O_PATH | os.O_DIRECTORY))
        return True
    except OSError:
        return False


is_directory = _is_directory
