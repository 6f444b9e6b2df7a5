"""File trees that are as deep and as large as somebody else likes: walked, measured and removed without recursion.

Every directory is reached from the one above it by one component and O_NOFOLLOW, so neither PATH_MAX nor a link that
appears meanwhile matters. At most `_KEPT` directories are open at a time; those above are found again by "..", and
their inode tells whether they are the same.
"""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_KEPT = 32
_ATTEMPTS = 20  # at a directory that somebody fills while it is removed


class Descent:
    """A place in a tree: the chain of directories from its top, the last of them open as `fd`."""

    def __init__(self, path: str, dir_fd: int | None = None) -> None:
        """Raises OSError: NotADirectoryError also when it is a link."""
        fd = os.open(path, _DIRECTORY, dir_fd=dir_fd)
        self._fds = [fd]  # -1: closed meanwhile
        self._keys = [_key(fd)]

    @property
    def fd(self) -> int:
        """The directory we are in."""
        return self._fds[-1]

    @property
    def depth(self) -> int:
        """How many directories below the top."""
        return len(self._fds) - 1

    def enter(self, name: str) -> None:
        """Goes into a directory of this one. Raises OSError."""
        fd = os.open(name, _DIRECTORY, dir_fd=self.fd)
        self._fds.append(fd)
        self._keys.append(_key(fd))
        far = len(self._fds) - 1 - _KEPT
        if far > 0 and self._fds[far] >= 0:
            os.close(self._fds[far])
            self._fds[far] = -1

    def leave(self) -> None:
        """Goes back to the directory above. Raises OSError (ESTALE) when somebody has moved this one."""
        if self._fds[-2] < 0:
            above = os.open("..", _DIRECTORY, dir_fd=self.fd)
            if _key(above) != self._keys[-2]:
                os.close(above)
                raise OSError(errno.ESTALE, "a directory was moved while it was read")
            self._fds[-2] = above
        os.close(self._fds.pop())
        self._keys.pop()

    @property
    def device(self) -> int:
        """The file system that this directory is on."""
        return self._keys[-1][0]

    @property
    def top_device(self) -> int:
        """The file system that the top is on."""
        return self._keys[0][0]

    def close(self) -> None:
        """Closes what is open."""
        for fd in self._fds:
            if fd >= 0:
                os.close(fd)
        self._fds.clear()


def _key(fd: int) -> tuple[int, int]:
    info = os.fstat(fd)
    return info.st_dev, info.st_ino


class Entry:
    """What descend() has found: `name` in the directory `parent`, both good until the next is asked for.

    A directory is open as `fd`, and is gone into unless `enter` is set to False; of anything else nothing is known yet.
    """

    __slots__ = ("enter", "fd", "name", "parent", "path")

    def __init__(self, path: str, name: str, parent: int) -> None:
        self.path, self.name, self.parent = path, name, parent
        self.fd, self.enter = -1, True

    def stat(self) -> os.stat_result:
        """As lstat(2). Raises FileNotFoundError when it has gone meanwhile, OSError."""
        return os.fstat(self.fd) if self.fd >= 0 else os.stat(self.name, dir_fd=self.parent, follow_symlinks=False)


def descend(top: int, path: str = "") -> Iterator[Entry]:
    """Everything below a directory, by names in their order, each directory before what is in it. Raises OSError.

    Paths begin with `path`. What is gone or has become something else since it was listed is left out.
    """
    place = Descent(".", top)
    prefixes, waiting = [f"{path}/" if path else ""], [_listed(place.fd)]
    try:
        while True:
            while waiting[-1]:
                name, is_directory = waiting[-1].pop()
                entry = Entry(f"{prefixes[-1]}{name}", name, place.fd)
                if is_directory:
                    try:
                        place.enter(name)
                    except (FileNotFoundError, NotADirectoryError):
                        continue
                    entry.fd = place.fd
                yield entry
                if is_directory and entry.enter:
                    prefixes.append(f"{entry.path}/")
                    waiting.append(_listed(place.fd))
                elif is_directory:
                    place.leave()
            prefixes.pop()
            waiting.pop()
            if not waiting:
                return
            place.leave()
    finally:
        place.close()


def _listed(fd: int) -> list[tuple[str, bool]]:
    """(name, whether it is a directory) of what is in a directory, the first name last."""
    with os.scandir(fd) as found:
        return sorted(((entry.name, entry.is_dir(follow_symlinks=False)) for entry in found), reverse=True)


def walk(path: str) -> Iterator[tuple[int, list[os.DirEntry[str]]]]:
    """Each directory of the tree as (descriptor, entries), the upper ones first; what can't be read is left out.

    Somebody may change the tree meanwhile: then some of it may be missing.
    """
    try:
        place = Descent(path)
    except OSError:
        return
    try:
        waiting: list[list[str]] = []
        while True:
            entries = _entries(place.fd)
            yield place.fd, entries
            waiting.append([entry.name for entry in entries if entry.is_dir(follow_symlinks=False)])
            if not _next(place, waiting):
                return
    finally:
        place.close()


def _entries(fd: int) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(fd) as found:
            return list(found)
    except OSError:
        return []


def _next(place: Descent, waiting: list[list[str]]) -> bool:
    """Goes to the next directory that waits; False when there is none."""
    while waiting:
        while waiting[-1]:
            try:
                place.enter(waiting[-1].pop())
                return True
            except OSError:
                continue  # removed, or replaced by something else, since it was listed
        waiting.pop()
        if not waiting:
            return False
        try:
            place.leave()
        except OSError:
            return False
    return False


def measure(path: str) -> tuple[int, int]:
    """(bytes in files, bytes that they take on the disk) of a tree; a file of several names counts once on the disk."""
    length = blocks = 0
    seen: set[tuple[int, int]] = set()
    for fd, entries in walk(path):
        for entry in entries:
            try:
                if entry.is_dir(follow_symlinks=False):
                    continue
                info = os.stat(entry.name, dir_fd=fd, follow_symlinks=False)
            except OSError:
                continue
            length += info.st_size
            if info.st_nlink > 1:
                if (info.st_dev, info.st_ino) in seen:
                    continue
                seen.add((info.st_dev, info.st_ino))
            blocks += info.st_blocks * 512
    return length, blocks


def remove(path: str, ignore_errors: bool = False, files: bool = True) -> None:
    """Deletes a tree, or a file or link. What is mounted in it is not touched, and keeps its place.

    Everything that can be deleted is; then the first error is raised. Without `files` only directories are
    deleted (a tree of control groups has files that can't be).
    """
    try:
        _remove(path, files)
    except OSError:
        if not ignore_errors:
            raise


def remove_at(parent: int, name: str) -> None:
    """As remove(), of what is called `name` in an open directory; a link is removed itself."""
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        pass
    except (IsADirectoryError, PermissionError):
        remove(f"/proc/self/fd/{parent}/{name}")


def _remove(path: str, files: bool) -> None:
    path = path.rstrip("/")
    trouble: list[OSError] = []
    for attempt in range(_ATTEMPTS):
        try:
            place = Descent(path)
        except NotADirectoryError:
            os.unlink(path)
            return
        try:
            _empty(place, files, trouble)
        finally:
            place.close()
        try:
            os.rmdir(path)
            break
        except FileNotFoundError:
            break
        except OSError as error:
            if error.errno == errno.ENOTEMPTY and not trouble and attempt + 1 < _ATTEMPTS:
                continue  # somebody wrote into it since it was listed
            trouble.append(error)
            break
    if trouble:
        raise trouble[0]


def _empty(place: Descent, files: bool, trouble: list[OSError]) -> None:
    """Deletes what is below the place."""
    names: list[str] = []  # of the directories we are in, below the top
    waiting = [_clear(place.fd, files, trouble)]
    refills = [0]
    while True:
        if waiting[-1]:
            name = waiting[-1].pop()
            if _enter(place, name, trouble):
                names.append(name)
                waiting.append(_clear(place.fd, files, trouble))
                refills.append(0)
        elif not names:
            return
        else:
            place.leave()
            waiting.pop()
            refills.pop()
            name = names.pop()
            try:
                os.rmdir(name, dir_fd=place.fd)
            except FileNotFoundError:
                pass
            except OSError as error:
                if error.errno == errno.ENOTEMPTY and not trouble and refills[-1] < _ATTEMPTS:
                    refills[-1] += 1  # somebody wrote into it since it was listed
                    waiting[-1].append(name)
                else:
                    trouble.append(error)


def _enter(place: Descent, name: str, trouble: list[OSError]) -> bool:
    try:
        place.enter(name)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        trouble.append(error)
        return False
    if place.device != place.top_device:
        trouble.append(OSError(errno.EBUSY, "something is mounted there", name))
        place.leave()
        return False
    return True


def _clear(fd: int, files: bool, trouble: list[OSError]) -> list[str]:
    """Deletes the files of a directory; returns the names of its directories."""
    found: list[str] = []
    try:
        with os.scandir(fd) as entries:
            rows = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    except OSError as error:
        trouble.append(error)
        return found
    for name, is_directory in rows:
        if is_directory:
            found.append(name)
        elif files:
            try:
                os.unlink(name, dir_fd=fd)
            except FileNotFoundError:
                pass
            except OSError as error:
                trouble.append(error)
    return found
