"""What `cp` does, inside a root that may be anybody's: paths are resolved in it and by descriptor only."""

from __future__ import annotations

import os
import stat
from typing import IO, TypedDict

from sampan.images.extract import Extractor
from sampan.images.pack import pack_tree
from sampan.linux import openat2
from sampan.runtime import accounts


class Stat(TypedDict):
    """What a path leads to: bytes, st_mode, nanoseconds since the epoch, and the target of a link ("": it is none)."""

    size: int
    mode: int
    mtime: int
    link: str


def stat_of(rootfd: int, path: str) -> Stat:
    """Size, mode, mtime (nanoseconds) and link target of what is at `path`. Raises OSError.

    Its parents are followed, and itself when a slash is at the end.
    """
    parent, _, name = path.rstrip("/").rpartition("/")
    directory = openat2.open_in_root(rootfd, parent or ".", os.O_PATH | os.O_DIRECTORY)
    try:
        info = os.stat(name or ".", dir_fd=directory, follow_symlinks=False)
        link = os.readlink(name, dir_fd=directory) if stat.S_ISLNK(info.st_mode) else ""
        if link and path.endswith("/"):
            fd = openat2.open_in_root(rootfd, path)
            info = os.fstat(fd)
            os.close(fd)
    finally:
        os.close(directory)
    return {"size": info.st_size, "mode": info.st_mode, "mtime": info.st_mtime_ns, "link": link}


def get(rootfd: int, path: str, out: IO[bytes], name: str) -> None:
    """Writes what is at `path` as a tar whose members start with `name`. Raises OSError."""
    inner = f"{path}." if path.endswith("/") else path  # what a link there leads to
    pack_tree(rootfd, inner, out, name)


def open_directory(rootfd: int, path: str) -> int:
    """A descriptor of the directory at `path`. Raises NotADirectoryError, OSError."""
    return openat2.open_in_root(rootfd, path, os.O_RDONLY | os.O_DIRECTORY)


def put(rootfd: int, path: str, stream: IO[bytes], keep_type: bool, user: str = "") -> None:
    """Extracts a tar into the directory at `path`; with a `user` of the root's all of it belongs to that one.

    Raises NotADirectoryError, OSError, ImageError, RuntimeFailure for a user that there is not.
    """
    found = accounts.resolve(rootfd, user) if user else None
    target = open_directory(rootfd, path)
    try:
        Extractor(target, keep_type=keep_type, owner=(found.uid, found.gid) if found else None).extract(stream)
    finally:
        os.close(target)
