"""Where QEMU lives: an empty root with programs to read only, no privileges, a filter. Standard library only."""

from __future__ import annotations

import os
import signal
import stat

from sampan.linux import bpf, caps, mount, prctl, seccomp
from sampan.linux.namespaces import CLONE_NEWNS, unshare
from sampan.linux.syscall import ARCH
from sampan.record import record
from sampan.vm import confine

_PROGRAMS = ("/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/alternatives")
_DEVICES = ("null", "zero", "urandom", "kvm")
# What serving files with their owners takes; a machine without shares has none. The guest's kernel has decided who may;
# QEMU does it for all, as a user that owns nothing.
_SHARING = [
    "CAP_CHOWN",  # what a guest's user makes gets that user's ids, and chown works
    "CAP_DAC_OVERRIDE",  # to open, make and remove in directories of others
    "CAP_FOWNER",  # chmod, utimes, extended attributes of others' files; removing in sticky directories
    "CAP_FSETID",  # chmod 2755 of a file whose group is not QEMU's would lose the bit without a word
]
_FALLOCATE = 285 if ARCH == "x86_64" else 47


@record
class Share:
    """What a guest may see of the host: `path`, as /shares/`name`. `follow`: with mounts that are made there later."""

    path: str
    name: str
    read_only: bool = False
    follow: bool = False


def enter(user: int, log: int, shares: list[Share], files: list[str]) -> None:
    """Called between fork and execve: moves this process into the jail. `files`: what else it may read.

    `user`: of the machine, from confine.identity().
    """
    null = os.open("/dev/null", os.O_RDWR)
    for target, fd in ((0, null), (1, log), (2, log)):
        os.dup2(fd, target, inheritable=True)
    os.umask(0o022)
    # Before we are in another namespace, where what is known by a descriptor could not be mounted any more.
    trees = [mount.open_tree(mount.AT_FDCWD, share.path, recursive=True) for share in shares]
    unshare(CLONE_NEWNS)
    _make_root(shares, trees, files)
    caps.become(user, caps.mask(_SHARING) if shares else 0)
    prctl.set_parent_death_signal(signal.SIGKILL)  # now: a change of ids takes it back
    seccomp.install(_filter())


def _make_root(shares: list[Share], trees: list[int], files: list[str]) -> None:
    mount.mount(None, "/", None, mount.MS_SLAVE | mount.MS_REC)
    top = mount.new_filesystem("tmpfs", [("mode", "755"), ("size", "1m"), ("source", "jail")])
    read_only = mount.MOUNT_ATTR_RDONLY | mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NODEV
    for path in _PROGRAMS:
        if os.path.islink(path):
            os.makedirs(f"/proc/self/fd/{top}{os.path.dirname(path)}", exist_ok=True)
            os.symlink(os.readlink(path), path.lstrip("/"), dir_fd=top)
        elif os.path.exists(path):
            _bind(top, _tree(path), path, read_only)
    for path in files:
        _bind(top, _tree(os.path.realpath(path)), path, read_only)
    for name in ("dev", "shares", "proc", "tmp"):
        os.makedirs(f"/proc/self/fd/{top}/{name}", 0o755, exist_ok=True)
    for name in _DEVICES:
        _device(top, f"/dev/{name}")
    for share, tree in zip(shares, trees, strict=True):
        attributes = mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NODEV | mount.MOUNT_ATTR_NOEXEC
        attributes |= mount.MOUNT_ATTR_RDONLY if share.read_only else 0
        _bind(top, tree, f"/shares/{share.name}", attributes, True, share.follow)
    mount.move_mount(_proc(), top, "proc")
    confine.pivot(top)


def _proc() -> int:
    """For /proc/self/fd. Where this process may not mount one, in another's pid namespace, it is the host's."""
    try:
        return mount.new_filesystem("proc", [("source", "proc")], mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NOEXEC)
    except PermissionError:
        return mount.open_tree(mount.AT_FDCWD, "/proc", recursive=True)


def _device(top: int, path: str) -> None:
    """A device's node, for everybody in the jail; where nobody may make one (not root), the host's."""
    try:
        number = os.stat(path).st_rdev
    except FileNotFoundError:
        return
    try:
        os.mknod(path.lstrip("/"), stat.S_IFCHR | 0o666, number, dir_fd=top)
        os.chmod(path.lstrip("/"), 0o666, dir_fd=top)
    except PermissionError:
        _bind(top, _tree(path), path, mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NOEXEC)


def _tree(path: str) -> int:
    return mount.open_tree(mount.AT_FDCWD, path)


def _bind(top: int, tree: int, target: str, attributes: int, recursive: bool = False, follow: bool = False) -> None:
    propagation = mount.MS_SLAVE if follow else mount.MS_PRIVATE
    mount.mount_setattr(tree, attributes, propagation=propagation, recursive=recursive)
    inside = f"/proc/self/fd/{top}{target}"
    if stat.S_ISDIR(os.fstat(tree).st_mode):
        os.makedirs(inside, 0o755, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(inside), 0o755, exist_ok=True)
        os.close(os.open(inside, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
    mount.move_mount(tree, top, target.lstrip("/"))
    os.close(tree)


def _filter() -> bytes:
    """Makes fallocate(2) do nothing and succeed.

    QEMU gives memory that the guest has freed back by a hole in the file it comes from, and by forgetting
    its own copy. The file is the template of many machines; the copy is what we want back.
    """
    program = bpf.Program()
    program.load(0)  # the call's number, in struct seccomp_data
    program.jump(bpf.JEQ, _FALLOCATE, "nothing", "")
    program.ret(0x7FFF0000)  # SECCOMP_RET_ALLOW
    program.place("nothing")
    program.ret(0x00050000)  # SECCOMP_RET_ERRNO, and no error
    return program.assemble()
