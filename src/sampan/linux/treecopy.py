"""Copies of file trees that are as deep and as large as somebody else likes: without recursion, and without following links.

Both trees are gone down side by side (filetree.Descent); what is copied is held before it is looked at.
"""

from __future__ import annotations

import os
import stat

from sampan.linux import filetree, nodes

_CHUNK = 1 << 20


def copy(source: int, target: int) -> None:
    """Copies what is in the directory `source` into the directory `target`, which has none of it, with owners, modes,
    times and extended attributes; sockets are left out. Raises OSError.
    """
    reader = filetree.Descent(".", source)
    writer = filetree.Descent(".", target)
    try:
        waiting = [_copy_files(reader.fd, writer.fd)]
        while True:
            if waiting[-1]:
                name = waiting[-1].pop()
                os.mkdir(name, 0o700, dir_fd=writer.fd)
                reader.enter(name)
                writer.enter(name)
                waiting.append(_copy_files(reader.fd, writer.fd))
                continue
            _copy_attributes(reader.fd, writer.fd)
            if not reader.depth:
                return
            waiting.pop()
            reader.leave()
            writer.leave()
    finally:
        reader.close()
        writer.close()


def _copy_files(reader: int, writer: int) -> list[str]:
    directories: list[str] = []
    for name in os.listdir(reader):
        held = nodes.hold(reader, name)
        try:
            info = os.fstat(held)
            if stat.S_ISDIR(info.st_mode):
                directories.append(name)
            elif stat.S_ISREG(info.st_mode):
                _copy_file(held, writer, name)
            elif not stat.S_ISSOCK(info.st_mode):
                if stat.S_ISLNK(info.st_mode):
                    os.symlink(os.readlink("", dir_fd=held), name, dir_fd=writer)
                else:
                    os.mknod(name, info.st_mode, info.st_rdev, dir_fd=writer)
                os.chown(name, info.st_uid, info.st_gid, dir_fd=writer, follow_symlinks=False)
        finally:
            os.close(held)
    return directories


def _copy_file(held: int, writer: int, name: str) -> None:
    source = nodes.reopen_regular(held, name)
    try:
        target = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=writer)
        try:
            while os.sendfile(target, source, None, _CHUNK):
                pass
            _copy_attributes(source, target)
        finally:
            os.close(target)
    finally:
        os.close(source)


def _copy_attributes(source: int, target: int) -> None:
    """Owner first: chown(2) clears capabilities and setuid bits."""
    info = os.fstat(source)
    os.fchown(target, info.st_uid, info.st_gid)
    os.fchmod(target, stat.S_IMODE(info.st_mode))
    try:
        for name in os.listxattr(source):
            if not name.startswith("trusted.overlay."):
                os.setxattr(target, name, os.getxattr(source, name))
    except OSError:
        pass  # a file system without them
    os.utime(target, ns=(info.st_atime_ns, info.st_mtime_ns))
