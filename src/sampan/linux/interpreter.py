"""The Python binary where no container can write it (S001).

Whatever enters a container has the interpreter as its /proc/PID/exe until execve. Opened through a
detached read-only mount it gives EROFS for writing, and no process in a container can remount a
mount outside of its namespace.
"""

from __future__ import annotations

import os
import sys

from sampan.linux import mount as lm

_MFD_ALLOW_SEALING, _MFD_CLOEXEC = 2, 1
_F_ADD_SEALS, _ALL_SEALS = 1033, 0xF  # fcntl(2): seal, shrink, grow, write


def read_only() -> int:
    """A descriptor of the interpreter on a detached read-only mount, or, without the right to
    mount, of a sealed copy in memory. Close-on-exec: execve by /proc/self/fd still finds it."""
    binary = os.path.realpath(sys.executable)
    try:
        tree = lm.open_tree(lm.AT_FDCWD, binary)
    except PermissionError:
        return _sealed_copy(binary)
    lm.mount_setattr(tree, lm.MOUNT_ATTR_RDONLY)
    return tree


def _sealed_copy(binary: str) -> int:
    import fcntl

    copy = os.memfd_create("sampan-python", _MFD_ALLOW_SEALING | _MFD_CLOEXEC)
    with open(binary, "rb") as file:
        remaining = os.fstat(file.fileno()).st_size
        while remaining:
            remaining -= os.sendfile(copy, file.fileno(), None, remaining)
    fcntl.fcntl(copy, _F_ADD_SEALS, _ALL_SEALS)
    return copy


def is_read_only() -> bool:
    """Whether this process runs from such a descriptor."""
    fd = os.open("/proc/self/exe", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.readlink("/proc/self/exe").startswith("/memfd:"):
            import fcntl

            return fcntl.fcntl(fd, 1034) & _ALL_SEALS == _ALL_SEALS  # F_GET_SEALS
        return bool(os.fstatvfs(fd).f_flag & os.ST_RDONLY)
    finally:
        os.close(fd)


def ensure_read_only(module: str) -> None:
    """Unless it does so already, starts this program again from such a descriptor, running `module`.

    In isolated mode and without site-packages: only this package's directory is on the path.
    """
    if is_read_only():
        return
    descriptor = read_only()
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    code = f"import sys; sys.path.insert(0, {package!r}); from {module} import main; main()"
    arguments = [os.path.realpath(sys.executable), "-I", "-S", "-B", "-c", code, *sys.argv[1:]]
    os.execve(f"/proc/self/fd/{descriptor}", arguments, os.environ)
