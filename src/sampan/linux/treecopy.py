"""Two file trees that are as deep and as large as somebody else likes, gone down side by side: without recursion, and without
following links. Copies are made so.
"""

from __future__ import annotations

import os
import stat
from contextlib import closing

from sampan.linux import filetree, nodes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_CHUNK = 1 << 20


def together(
    source: int,
    target: int,
    each: Callable[[int, int, str], bool],
    done: Callable[[int, int, os.stat_result], None],
) -> None:
    """Calls `each` with two directories and every name of the first, in their order; where it says so there is a directory of that
    name in both, which is gone into: when all in it is done, `done` is called with the two, and what the first was before.

    Of the top `done` is not called. Raises OSError.
    """
    with closing(filetree.Descent(".", source)) as reader, closing(filetree.Descent(".", target)) as writer:
        waiting, before = [_names(reader.fd)], [os.fstat(reader.fd)]
        while True:
            while waiting[-1]:
                name = waiting[-1].pop()
                if each(reader.fd, writer.fd, name):
                    reader.enter(name)
                    writer.enter(name)
                    waiting.append(_names(reader.fd))
                    before.append(os.fstat(reader.fd))
            waiting.pop()
            if not waiting:
                return
            done(reader.fd, writer.fd, before.pop())
            reader.leave()
            writer.leave()


def _names(fd: int) -> list[str]:
    return sorted(os.listdir(fd), reverse=True)


def copy(source: int, target: int) -> None:
    """Copies what is in the directory `source` into the directory `target`, which has none of it, with owners, modes,
    times and extended attributes; sockets are left out. Raises OSError.
    """
    # Theirs may be held by O_PATH, which gives no attributes.
    with closing(filetree.Descent(".", source)) as reader, closing(filetree.Descent(".", target)) as writer:
        together(reader.fd, writer.fd, _copy_one, _copy_attributes)
        _copy_attributes(reader.fd, writer.fd, os.fstat(reader.fd))


def _copy_one(reader: int, writer: int, name: str) -> bool:
    held = nodes.hold(reader, name)
    try:
        info = os.fstat(held)
        if stat.S_ISDIR(info.st_mode):
            os.mkdir(name, 0o700, dir_fd=writer)
            return True
        if stat.S_ISREG(info.st_mode):
            _copy_file(held, writer, name)
        elif not stat.S_ISSOCK(info.st_mode):
            if stat.S_ISLNK(info.st_mode):
                os.symlink(os.readlink("", dir_fd=held), name, dir_fd=writer)
            else:
                os.mknod(name, info.st_mode, info.st_rdev, dir_fd=writer)
            os.chown(name, info.st_uid, info.st_gid, dir_fd=writer, follow_symlinks=False)
        return False
    finally:
        os.close(held)


def _copy_file(held: int, writer: int, name: str) -> None:
    source = nodes.reopen_regular(held, name)
    try:
        target = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=writer)
        try:
            while os.sendfile(target, source, None, _CHUNK):
                pass
            _copy_attributes(source, target, os.fstat(source))
        finally:
            os.close(target)
    finally:
        os.close(source)


def _copy_attributes(source: int, target: int, info: os.stat_result) -> None:
    """Owner first: chown(2) clears capabilities and setuid bits."""
    os.fchown(target, info.st_uid, info.st_gid)
    os.fchmod(target, stat.S_IMODE(info.st_mode))
    try:
        for name in os.listxattr(source):
            if not name.startswith("trusted.overlay."):
                os.setxattr(target, name, os.getxattr(source, name))
    except OSError:
        pass  # a file system without them
    os.utime(target, ns=(info.st_atime_ns, info.st_mtime_ns))
