"""The container's view of the file system: root, mounts, devices, masked paths, pivot."""

from __future__ import annotations

import errno
import os
import stat

from sampan.linux import mount as lm
from sampan.linux import nodes, openat2
from sampan.linux.namespaces import initial_user_namespace
from sampan.runtime import mounts
from sampan.runtime.errors import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.linux.spec_types import DeviceRule
    from sampan.oci.runtime_spec import Device, Spec
    from sampan.runtime.requests import Overlay

_DEVICES = (
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
)
# What every container may use: making any node, the devices above, console, ptmx and terminals.
DEVICE_RULES: list[DeviceRule] = [
    {"allow": True, "type": "c", "access": "m"},
    {"allow": True, "type": "b", "access": "m"},
]
for _, _major, _minor in (*_DEVICES, ("console", 5, 1), ("ptmx", 5, 2)):
    DEVICE_RULES.append({"allow": True, "type": "c", "major": _major, "minor": _minor, "access": "rwm"})
DEVICE_RULES.append({"allow": True, "type": "c", "major": 136, "access": "rwm"})
_LINKS = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
)
_PROPAGATION = {
    "shared": lm.MS_SHARED,
    "rshared": lm.MS_SHARED | lm.MS_REC,
    "slave": lm.MS_SLAVE,
    "rslave": lm.MS_SLAVE | lm.MS_REC,
    "private": lm.MS_PRIVATE,
    "rprivate": lm.MS_PRIVATE | lm.MS_REC,
    "unbindable": lm.MS_UNBINDABLE,
    "runbindable": lm.MS_UNBINDABLE | lm.MS_REC,
}


def mount_root(spec: Spec, overlay: Overlay | None, where: str, tree: int = -1) -> int:
    """Mounts the root file system on the directory `where`. Returns a descriptor of its top.

    `overlay` ({"lower", "upper", "work"}) is the engine's way; without it `where` itself is bound.
    `tree` is either of them as a detached mount made already. Must run in the container's own mount namespace.
    """
    propagation = spec["linux"].get("rootfsPropagation") or "rslave"
    if propagation not in _PROPAGATION:
        raise RuntimeFailure(f"unknown rootfsPropagation {propagation}")
    lm.mount(None, "/", None, _PROPAGATION[propagation] & ~lm.MS_UNBINDABLE or lm.MS_SLAVE | lm.MS_REC)
    if overlay is not None:
        if tree < 0:
            tree = lm.overlay(overlay["lower"], overlay.get("upper"), overlay.get("work"))
    else:
        if tree < 0:
            tree = lm.open_tree(lm.AT_FDCWD, where, recursive=True)
        lm.mount_setattr(tree, propagation=lm.MS_PRIVATE, recursive=False)
    if "shared" in propagation:
        _make_parent_private(where)
    try:
        lm.move_mount(tree, lm.AT_FDCWD, where, subject=where)
    except OSError as error:
        os.close(tree)
        raise RuntimeFailure(f"mount the root file system on {where}: {error}") from error
    return tree


def _make_parent_private(where: str) -> None:
    """The mount that `where` lies on must not be shared, or our mount would show on the host and
    pivot_root(2) refuse. mount_setattr takes only the top of a mount, so go up until there is one."""
    path = where
    while True:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            lm.mount_setattr(fd, propagation=lm.MS_PRIVATE)
            return
        except OSError:
            if path == "/":
                raise
        finally:
            os.close(fd)
        path = os.path.dirname(path)


def populate(rootfd: int, spec: Spec, userns: bool, trees: list[int]) -> dict[str, int]:
    """Mounts everything in `mounts`, in the order given, and fills /dev.

    Returns the kernel's file systems by where they are, for protect(): their names can be another thing's by then, where
    others write into the root or a volume that is on the way.
    """
    kernels: dict[str, int] = {}
    for entry in spec.get("mounts") or []:
        mounted = mounts.attach(rootfd, entry, userns, trees)
        where = os.path.normpath(entry["destination"])
        if mounted >= 0 and entry.get("type") in _KERNELS and where not in kernels:
            kernels[where] = mounted
        elif mounted >= 0:
            os.close(mounted)
    _make_devices(rootfd, spec, userns or not initial_user_namespace())
    return kernels


_KERNELS = ("proc", "sysfs")


def _make_devices(rootfd: int, spec: Spec, userns: bool) -> None:
    has_dev = any(entry["destination"].rstrip("/") == "/dev" for entry in spec.get("mounts") or [])
    dev = openat2.mkdir_in_root(rootfd, "/dev")
    try:
        for name, major, minor in _DEVICES:
            own: Device = {"path": f"/dev/{name}", "type": "c", "major": major, "minor": minor, "fileMode": 0o666}
            _make_device(rootfd, own, userns)
        for device in spec["linux"].get("devices") or []:
            _make_device(rootfd, device, userns)
        if has_dev:
            for name, target in _LINKS:
                _symlink(dev, name, target)
    finally:
        os.close(dev)


def _symlink(dev: int, name: str, target: str) -> None:
    if name == "ptmx":
        try:
            os.unlink(name, dir_fd=dev)
        except OSError:
            pass
    try:
        os.symlink(target, name, dir_fd=dev)
    except OSError:
        pass


_KINDS = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}


def _make_device(rootfd: int, device: Device, userns: bool) -> None:
    path = device["path"]
    if device.get("type") not in _KINDS:
        raise RuntimeFailure(f"device {path}: unknown type {device.get('type')!r}")
    parent = openat2.mkdir_in_root(rootfd, os.path.dirname(path) or "/")
    name = os.path.basename(path)
    try:
        kind, number = _KINDS[device["type"]], os.makedev(device.get("major", 0), device.get("minor", 0))
        if userns:
            _bind_device(parent, name, path, kind, number)
            return
        mode = device.get("fileMode")
        made = _make_node(parent, name, kind | (0o666 if mode is None else stat.S_IMODE(mode)), number)
        if made >= 0:
            uid, gid = device.get("uid") or 0, device.get("gid") or 0
            if uid or gid:
                nodes.chown(made, uid, gid)
            os.close(made)
    except OSError as error:
        raise RuntimeFailure(f"device {path}: {error.strerror}") from error
    finally:
        os.close(parent)


def _make_node(parent: int, name: str, mode: int, number: int) -> int:
    """mknod(2) with exactly this mode, since a chmod could meet another file of that name by then. The node's
    descriptor, or -1 when it is there. Raises OSError."""
    kind, mask = stat.S_IFMT(mode), os.umask(0)
    try:
        try:
            os.mknod(name, mode, number, dir_fd=parent)
        except FileExistsError:
            there = nodes.hold(parent, name)
            same = nodes.is_device(there, kind, number)
            os.close(there)
            if same:
                return -1
            os.unlink(name, dir_fd=parent)
            os.mknod(name, mode, number, dir_fd=parent)
    finally:
        os.umask(mask)
    made = nodes.hold(parent, name)
    if not nodes.is_device(made, kind, number):
        os.close(made)
        raise OSError(errno.EEXIST, "it was exchanged while it was made")
    return made


def _bind_device(parent: int, name: str, path: str, kind: int, number: int) -> None:
    """In a user namespace mknod is not allowed: bind the host's node of the same name, if it is that device."""
    try:
        target = os.open(name, os.O_CREAT | os.O_NOFOLLOW | os.O_WRONLY | os.O_CLOEXEC, 0o644, dir_fd=parent)
    except OSError:
        return  # exists already, as a node or a mount
    try:
        tree = lm.open_tree(lm.AT_FDCWD, path)
        try:
            if not nodes.is_device(tree, kind, number):
                raise RuntimeFailure(f"device {path}: the host's is another, and a user namespace can make none")
            lm.move_mount(tree, target, subject=path)
        finally:
            os.close(tree)
    finally:
        os.close(target)


def open_null() -> int:
    """The host's real /dev/null (O_PATH), checked to be device 1:3 (S011)."""
    fd = os.open("/dev/null", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    info = os.fstat(fd)
    if not stat.S_ISCHR(info.st_mode) or info.st_rdev != os.makedev(1, 3):
        os.close(fd)
        raise RuntimeFailure("the host's /dev/null is not the null device 1:3; masking would be unsafe")
    return fd


def protect(rootfd: int, spec: Spec, null: int, kernels: dict[str, int]) -> None:
    """Masks and makes read-only what the specification lists. A missing path is no error; any other
    failure is, since starting without the mask would be unsafe. `kernels`: as populate() returns them, closed here.

    Before the old root is let go: `null` is on it, and before Linux 6.15 only what is mounted in one's own
    namespace can be mounted once more.
    """
    for path in spec["linux"].get("readonlyPaths") or []:
        target = _existing(rootfd, kernels, path)
        if target is None:
            continue
        tree = lm.open_tree(target, "", recursive=True)
        lm.mount_setattr(tree, lm.MOUNT_ATTR_RDONLY, recursive=True)
        lm.move_mount(tree, target, subject=path)
        os.close(tree)
        os.close(target)
    for path in spec["linux"].get("maskedPaths") or []:
        target = _existing(rootfd, kernels, path)
        if target is None:
            continue
        if stat.S_ISDIR(os.fstat(target).st_mode):
            options: list[tuple[str, str | None]] = [("mode", "555"), ("size", "0k"), ("source", "tmpfs")]
            cover = lm.new_filesystem("tmpfs", options, lm.MOUNT_ATTR_RDONLY)
        else:
            cover = lm.open_tree(null, "")
        lm.move_mount(cover, target, subject=path)
        os.close(cover)
        os.close(target)
    for fd in kernels.values():
        os.close(fd)


def _existing(rootfd: int, kernels: dict[str, int], path: str) -> int | None:
    """What is there; below a file system of the kernel's in that very one, whatever its name leads to now (S011)."""
    path = os.path.normpath(path)
    top = next((top for top in kernels if path == top or path.startswith(f"{top}/")), None)
    try:
        if top is None:
            return openat2.open_in_root(rootfd, path)
        resolve = openat2.RESOLVE_BENEATH | openat2.RESOLVE_NO_MAGICLINKS
        return openat2.openat2(kernels[top], path[len(top) + 1 :] or ".", os.O_PATH, resolve=resolve)
    except (FileNotFoundError, NotADirectoryError):
        return None


def pivot(rootfd: int, spec: Spec, no_pivot: bool = False) -> None:
    """Makes `rootfd` the root of this mount namespace and lets go of the old one.

    `no_pivot` moves the mount over "/" instead, for a root on an initramfs, which pivot_root(2) refuses.
    """
    os.fchdir(rootfd)
    if no_pivot:
        lm.mount(".", "/", None, lm.MS_MOVE)
        os.chroot(".")
    else:
        old = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        lm.pivot_root(".", ".")
        # The old root now lies on top of the new one at "/": detach it without letting the unmount
        # propagate to the host. By its descriptor: "." would be the new root, whose binds may be shared.
        os.fchdir(old)
        os.close(old)
        lm.mount(None, ".", None, lm.MS_SLAVE | lm.MS_REC)
        lm.umount(".", lm.MNT_DETACH)
    os.chdir("/")
    propagation = spec["linux"].get("rootfsPropagation")
    if propagation:
        lm.mount(None, "/", None, _PROPAGATION[propagation])
    if (spec.get("root") or {}).get("readonly"):
        lm.mount_setattr(rootfd, lm.MOUNT_ATTR_RDONLY)


def private_proc() -> int:
    """A detached procfs of the current pid namespace."""
    return lm.new_filesystem("proc", [("source", "proc")])
