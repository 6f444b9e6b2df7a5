"""Copying what lies under a new tmpfs into it (the mount option "tmpcopyup")."""

from __future__ import annotations

import os
import stat

_CHUNK = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def copy_directory(source: int, target: int) -> None:
    """Copies the tree at `source` into the empty directory `target`, owners, modes and times included.

    Links are copied as links and never followed; sockets are left out. Raises OSError.
    """
    reader = os.open(".", _DIRECTORY, dir_fd=source)
    writer = os.open(".", _DIRECTORY, dir_fd=target)
    try:
        for entry in os.scandir(reader):
            _copy_entry(reader, writer, entry.name, entry.stat(follow_symlinks=False))
        _copy_owner(writer, os.fstat(reader))
    finally:
        os.close(reader)
        os.close(writer)


def _copy_entry(reader: int, writer: int, name: str, info: os.stat_result) -> None:
    kind = stat.S_IFMT(info.st_mode)
    if kind == stat.S_IFLNK:
        os.symlink(os.readlink(name, dir_fd=reader), name, dir_fd=writer)
        os.chown(name, info.st_uid, info.st_gid, dir_fd=writer, follow_symlinks=False)
    elif kind == stat.S_IFDIR:
        os.mkdir(name, 0o700, dir_fd=writer)
        source = os.open(name, _DIRECTORY, dir_fd=reader)
        target = os.open(name, _DIRECTORY, dir_fd=writer)
        try:
            copy_directory(source, target)
        finally:
            os.close(source)
            os.close(target)
    elif kind == stat.S_IFREG:
        _copy_file(reader, writer, name)
    elif kind != stat.S_IFSOCK:
        os.mknod(name, info.st_mode, info.st_rdev, dir_fd=writer)
        os.chown(name, info.st_uid, info.st_gid, dir_fd=writer, follow_symlinks=False)


def _copy_file(reader: int, writer: int, name: str) -> None:
    source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=reader)
    target = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=writer)
    try:
        while os.sendfile(target, source, None, _CHUNK):
            pass
        _copy_owner(target, os.fstat(source))
    finally:
        os.close(source)
        os.close(target)


def _copy_owner(fd: int, info: os.stat_result) -> None:
    os.fchown(fd, info.st_uid, info.st_gid)
    os.fchmod(fd, stat.S_IMODE(info.st_mode))
    os.utime(fd, ns=(info.st_atime_ns, info.st_mtime_ns))
