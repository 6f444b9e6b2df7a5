"""Mounts: the classic calls and the descriptor-based ones (fsopen, open_tree, move_mount)."""

from __future__ import annotations

import ctypes
import functools
import os

from sampan.linux.namespaces import initial_user_namespace
from sampan.linux.syscall import check, failure, libc, syscall

MS_RDONLY, MS_NOATIME, MS_BIND, MS_MOVE = 0x1, 0x400, 0x1000, 0x2000
MS_REC, MS_UNBINDABLE, MS_PRIVATE, MS_SLAVE = 0x4000, 1 << 17, 1 << 18, 1 << 19
MS_SHARED = 1 << 20
MNT_DETACH = 2

MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC = 0x1, 0x2, 0x4, 0x8
MOUNT_ATTR__ATIME, MOUNT_ATTR_NOATIME, MOUNT_ATTR_STRICTATIME = 0x70, 0x10, 0x20
MOUNT_ATTR_NODIRATIME, MOUNT_ATTR_IDMAP, MOUNT_ATTR_NOSYMFOLLOW = 0x80, 0x100000, 0x200000

# statfs(2): what kind of file system something is on.
PROC_MAGIC, DEVPTS_MAGIC = 0x9FA0, 0x1CD1
TMPFS_MAGIC, RAMFS_MAGIC = 0x01021994, 0x858458F6

AT_EMPTY_PATH, AT_RECURSIVE, AT_FDCWD = 0x1000, 0x8000, -100
OPEN_TREE_CLONE, OPEN_TREE_CLOEXEC = 1, os.O_CLOEXEC
_MOVE_MOUNT_F_EMPTY_PATH, _MOVE_MOUNT_T_EMPTY_PATH = 0x4, 0x40
_FSCONFIG_SET_FLAG, _FSCONFIG_SET_STRING, _FSCONFIG_CMD_CREATE = 0, 1, 6


def _bytes(value: str | None) -> bytes | None:
    return None if value is None else os.fsencode(value)


def mount(source: str | None, target: str, fstype: str | None = None, flags: int = 0, data: str = "") -> None:
    """mount(2)."""
    result = libc.mount(_bytes(source), _bytes(target), _bytes(fstype), ctypes.c_ulong(flags), _bytes(data or None))
    check(result, "mount", target)


def umount(target: str, flags: int = MNT_DETACH) -> None:
    """umount2(2), lazily unless told otherwise."""
    check(libc.umount2(_bytes(target), ctypes.c_int(flags)), "umount", target)


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2). With both "." the old root ends up stacked below the new one."""
    syscall("pivot_root", ctypes.c_char_p(os.fsencode(new_root)), ctypes.c_char_p(os.fsencode(put_old)))


def open_tree(dirfd: int, path: str, clone: bool = True, recursive: bool = False) -> int:
    """A descriptor of a mount: with `clone` a new detached copy of it (open_tree(2))."""
    flags = OPEN_TREE_CLOEXEC | (OPEN_TREE_CLONE if clone else 0)
    if clone and recursive:
        flags |= AT_RECURSIVE
    if not path:
        flags |= AT_EMPTY_PATH
    return syscall(
        "open_tree",
        ctypes.c_int(dirfd),
        ctypes.c_char_p(os.fsencode(path)),
        ctypes.c_uint(flags),
        subject=path or f"fd {dirfd}",
    )


def move_mount(from_fd: int, to_fd: int, to_path: str = "", subject: str = "") -> None:
    """Attaches the mount `from_fd` at `to_path` below `to_fd` (or on `to_fd` itself)."""
    flags = _MOVE_MOUNT_F_EMPTY_PATH | (0 if to_path else _MOVE_MOUNT_T_EMPTY_PATH)
    syscall(
        "move_mount",
        ctypes.c_int(from_fd),
        ctypes.c_char_p(b""),
        ctypes.c_int(to_fd),
        ctypes.c_char_p(os.fsencode(to_path)),
        ctypes.c_uint(flags),
        subject=subject or to_path,
    )


class _MountAttr(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")]


def mount_setattr(
    fd: int, set_: int = 0, clear: int = 0, propagation: int = 0, recursive: bool = False, userns_fd: int = 0
) -> None:
    """Changes flags or propagation of the mount at `fd` (mount_setattr(2))."""
    attr = _MountAttr(set_, clear, propagation, userns_fd)
    syscall(
        "mount_setattr",
        ctypes.c_int(fd),
        ctypes.c_char_p(b""),
        ctypes.c_uint(AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)),
        ctypes.byref(attr),
        ctypes.c_size_t(ctypes.sizeof(attr)),
    )


def filesystem_type(fd: int) -> int:
    """The magic number of the file system that `fd` is on (statfs(2)). Raises OSError."""
    found = (ctypes.c_long * 32)()  # struct statfs begins with f_type, and is shorter than this
    check(libc.fstatfs(ctypes.c_int(fd), ctypes.byref(found)), "statfs")
    return found[0]


def new_filesystem(fstype: str, options: list[tuple[str, str | None]], attributes: int = 0) -> int:
    """Makes a file system and returns its detached mount's descriptor (fsopen, fsconfig, fsmount)."""
    context = syscall("fsopen", ctypes.c_char_p(fstype.encode()), ctypes.c_uint(1), subject=fstype)
    try:
        for key, value in options:
            _fsconfig(context, key, value, fstype)
        syscall(
            "fsconfig",
            ctypes.c_int(context),
            ctypes.c_uint(_FSCONFIG_CMD_CREATE),
            ctypes.c_void_p(None),
            ctypes.c_void_p(None),
            ctypes.c_int(0),
            subject=f"{fstype}{_context_log(context)}",
        )
        return syscall("fsmount", ctypes.c_int(context), ctypes.c_uint(1), ctypes.c_uint(attributes), subject=fstype)
    finally:
        os.close(context)


def _fsconfig(context: int, key: str, value: str | None, fstype: str) -> None:
    command = _FSCONFIG_SET_FLAG if value is None else _FSCONFIG_SET_STRING
    try:
        syscall(
            "fsconfig",
            ctypes.c_int(context),
            ctypes.c_uint(command),
            ctypes.c_char_p(key.encode()),
            ctypes.c_char_p(_bytes(value)),
            ctypes.c_int(0),
        )
    except OSError as error:
        subject = f"{fstype} option {key}={value}{_context_log(context)}"
        raise failure(error.errno or 0, "mount", subject) from None


def _context_log(context: int) -> str:
    """What the kernel says about a failed fsconfig, read from the context (fsopen(2))."""
    try:
        return f" ({os.read(context, 4096).decode(errors='replace').strip()})"
    except OSError:
        return ""


def overlay_attribute(name: str) -> str:
    """The extended attribute in which overlays made here keep `name` ("opaque"): see userxattr in overlayfs.rst."""
    return f"{'trusted' if initial_user_namespace() else 'user'}.overlay.{name}"


def overlay(lower: list[str], upper: str | None, work: str | None) -> int:
    """A detached overlay mount: `lower` from top to bottom, optionally writable.

    Uses one ``lowerdir+`` per layer (Linux 6.8), which has no limit of a page for all paths
    together; older kernels get one ``lowerdir`` string.
    """
    tail: list[tuple[str, str | None]] = []
    if upper and work:
        tail = [("upperdir", upper), ("workdir", work)]
    if not initial_user_namespace():  # trusted.overlay.* attributes are not ours to write
        tail.append(("userxattr", None))
    tail.append(("source", "overlay"))
    if _takes_single_layers():
        return new_filesystem("overlay", [("lowerdir+", path) for path in lower] + tail)
    return new_filesystem("overlay", [("lowerdir", ":".join(lower)), *tail])


@functools.cache
def _takes_single_layers() -> bool:
    """Whether this kernel knows lowerdir+. Asked of its version: older ones take any key, and refuse the whole later."""
    major, minor = os.uname().release.split(".")[:2]
    return (int(major), int(minor.partition("-")[0])) >= (6, 8)
