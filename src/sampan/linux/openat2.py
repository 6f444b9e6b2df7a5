"""openat2(2): paths that come from a container, resolved inside its root and nowhere else."""

from __future__ import annotations

import ctypes
import errno
import os
import stat

from sampan.linux.syscall import failure, syscall

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

_RETRIES = 64


class _OpenHow(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


def openat2(dirfd: int, path: str | bytes, flags: int, mode: int = 0, resolve: int = 0) -> int:
    """Opens `path` below `dirfd` under the rules in `resolve`. The descriptor is close-on-exec.

    EAGAIN (a rename raced with ".." under RESOLVE_IN_ROOT) is retried a bounded number of times.
    """
    raw = os.fsencode(path)
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    for attempt in range(_RETRIES):
        try:
            return syscall(
                "openat2",
                ctypes.c_int(dirfd),
                ctypes.c_char_p(raw),
                ctypes.byref(how),
                ctypes.c_size_t(ctypes.sizeof(how)),
                subject=os.fsdecode(path),
            )
        except OSError as error:
            if error.errno != errno.EAGAIN or attempt == _RETRIES - 1:
                raise
    raise AssertionError("unreachable")


def open_in_root(rootfd: int, path: str | bytes, flags: int = os.O_PATH, mode: int = 0) -> int:
    """Opens `path` as a process chrooted to `rootfd` would, never following /proc's magic links."""
    text = os.fsencode(path).lstrip(b"/") or b"."
    return openat2(rootfd, text, flags, mode, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)


def mkdir_in_root(rootfd: int, path: str, mode: int = 0o755, uid: int = 0, gid: int = 0) -> int:
    """mkdir -p inside a root, following the root's own symlinks. Returns a directory's descriptor.

    Each missing component is created relative to the descriptor of its already resolved parent, so
    a symlink swapped in meanwhile cannot move the creation elsewhere (S005, S006). What is made has
    exactly `mode`, whatever the umask, and belongs to `uid` and `gid` (T30).
    """
    current = os.dup(rootfd)
    walked = ""
    try:
        for part in [p for p in path.split("/") if p not in ("", ".")]:
            walked = f"{walked}/{part}"
            following = _open_or_make(rootfd, current, walked, part, mode, uid, gid)
            os.close(current)
            current = following
    except BaseException:
        os.close(current)
        raise
    return current


def mkdir_beneath(rootfd: int, path: str, mode: int = 0o755) -> int:
    """mkdir -p below a directory, in whose path no link is allowed. Returns a directory's descriptor.

    Raises OSError: ELOOP and ENOTDIR for a link.
    """
    current = os.dup(rootfd)
    try:
        for part in [p for p in path.split("/") if p not in ("", ".")]:
            try:
                os.mkdir(part, mode, dir_fd=current)
            except FileExistsError:
                pass
            above, current = current, open_beneath(current, part, os.O_PATH | os.O_DIRECTORY)
            os.close(above)
    except BaseException:
        os.close(current)
        raise
    return current


def open_beneath(dirfd: int, path: str, flags: int) -> int:
    """Opens `path` below a directory; a link anywhere in it is refused (ELOOP)."""
    return openat2(dirfd, path.strip("/") or ".", flags, resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)


def _open_or_make(rootfd: int, parent: int, walked: str, part: str, mode: int, uid: int, gid: int) -> int:
    flags = os.O_PATH | os.O_DIRECTORY
    try:
        return open_in_root(rootfd, walked, flags)
    except FileNotFoundError:
        pass
    if part == "..":
        raise failure(errno.ENOENT, "mkdir", walked)
    try:
        os.mkdir(part, mode, dir_fd=parent)
    except FileExistsError:
        # A dangling symlink: create what it points to, inside the root.
        info = os.stat(part, dir_fd=parent, follow_symlinks=False)
        if not stat.S_ISLNK(info.st_mode):
            return open_in_root(rootfd, walked, flags)
        target = os.readlink(part, dir_fd=parent)
        base = "" if target.startswith("/") else os.path.dirname(walked)
        if walked.count("/") > 200:
            raise failure(errno.ELOOP, "mkdir", walked) from None
        os.close(mkdir_in_root(rootfd, f"{base}/{target}", mode, uid, gid))
        return open_in_root(rootfd, walked, flags)
    made = openat2(parent, part, os.O_RDONLY | os.O_DIRECTORY, resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
    try:
        _give(made, mode, uid, gid)
    except BaseException:
        os.close(made)
        raise
    return made


def _give(fd: int, mode: int, uid: int, gid: int) -> None:
    """Owner and mode of what was just made; a set-group-id bit that the parent has passed on stays."""
    info = os.fstat(fd)
    if (info.st_uid, info.st_gid) != (uid, gid):
        os.fchown(fd, uid, gid)
    wanted = mode | info.st_mode & stat.S_ISGID
    if stat.S_IMODE(info.st_mode) != wanted:
        os.fchmod(fd, wanted)


def create_file_in_root(rootfd: int, path: str, mode: int = 0o644) -> int:
    """Makes sure a file exists at `path` inside the root (a mountpoint). Returns an O_PATH fd.

    A file that is made has exactly `mode` and belongs to root, as its parents do.
    """
    try:
        return open_in_root(rootfd, path)
    except FileNotFoundError:
        pass
    parent = mkdir_in_root(rootfd, os.path.dirname(path))
    try:
        name = os.path.basename(path)
        try:
            fd = os.open(name, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_WRONLY, mode, dir_fd=parent)
        except FileExistsError:
            return open_in_root(rootfd, path)
        try:
            _give(fd, mode, 0, 0)
        finally:
            os.close(fd)
        return openat2(parent, name, os.O_PATH, resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
    finally:
        os.close(parent)
