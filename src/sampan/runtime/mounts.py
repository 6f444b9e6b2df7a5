"""The mounts of a bundle: options parsed as mount(8) writes them, each attached by descriptor.

A destination is resolved inside the rootfs at the moment of use and held as a descriptor until the
mount is on it, so a symlink swapped in by another container cannot redirect it (S004-S006).
"""

from __future__ import annotations

import os
import stat

from sampan.linux import mount as lm
from sampan.linux import openat2, treecopy
from sampan.record import field, record
from sampan.runtime import idmap
from sampan.runtime.errors import RuntimeFailure
from sampan.runtime.sources import is_bind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.oci.runtime_spec import Mount

_SET = {
    "ro": lm.MOUNT_ATTR_RDONLY,
    "nosuid": lm.MOUNT_ATTR_NOSUID,
    "nodev": lm.MOUNT_ATTR_NODEV,
    "noexec": lm.MOUNT_ATTR_NOEXEC,
    "nodiratime": lm.MOUNT_ATTR_NODIRATIME,
    "nosymfollow": lm.MOUNT_ATTR_NOSYMFOLLOW,
}
_CLEAR = {
    "rw": lm.MOUNT_ATTR_RDONLY,
    "suid": lm.MOUNT_ATTR_NOSUID,
    "dev": lm.MOUNT_ATTR_NODEV,
    "exec": lm.MOUNT_ATTR_NOEXEC,
    "diratime": lm.MOUNT_ATTR_NODIRATIME,
    "symfollow": lm.MOUNT_ATTR_NOSYMFOLLOW,
}
# The access-time modes exclude each other; relatime is zero in the kernel's field.
_ATIME = {
    "noatime": lm.MOUNT_ATTR_NOATIME,
    "strictatime": lm.MOUNT_ATTR_STRICTATIME,
    "relatime": 0,
    "atime": 0,
    "norelatime": 0,
    "nostrictatime": 0,
}
_PROPAGATION = {
    "shared": lm.MS_SHARED,
    "slave": lm.MS_SLAVE,
    "private": lm.MS_PRIVATE,
    "unbindable": lm.MS_UNBINDABLE,
}
_SUPERBLOCK = {"sync", "dirsync", "mand", "lazytime", "silent"}
_SUPERBLOCK_OFF = {
    "async",
    "nomand",
    "nolazytime",
    "loud",
    "iversion",
    "noiversion",
    "defaults",
    "remount",
    "idmap",
    "ridmap",
}


@record
class Options:
    """Mount options taken apart: attributes of the mount, propagation, and data for the file system."""

    set_: int = 0
    clear: int = 0
    recursive_set: int = 0
    recursive_clear: int = 0
    propagation: list[tuple[int, bool]] = field(default_factory=list)
    bind: bool = False
    recursive: bool = False
    data: list[tuple[str, str | None]] = field(default_factory=list)
    read_only: bool = False
    copy_up: bool = False


def parse_options(options: list[str]) -> Options:
    """Sorts mount options into their kinds. The last of contradicting options wins."""
    parsed = Options()
    for option in options:
        if option in ("bind", "rbind"):
            parsed.bind, parsed.recursive = True, option == "rbind"
        elif option in _SET:
            parsed.set_ |= _SET[option]
            parsed.clear &= ~_SET[option]
        elif option in _CLEAR:
            parsed.clear |= _CLEAR[option]
            parsed.set_ &= ~_CLEAR[option]
        elif option in _ATIME:
            parsed.clear |= lm.MOUNT_ATTR__ATIME
            parsed.set_ = parsed.set_ & ~lm.MOUNT_ATTR__ATIME | _ATIME[option]
        elif option[1:] in _PROPAGATION and option[0] == "r":
            parsed.propagation.append((_PROPAGATION[option[1:]], True))
        elif option in _PROPAGATION:
            parsed.propagation.append((_PROPAGATION[option], False))
        elif option[:1] == "r" and option[1:] in _SET:
            parsed.recursive_set |= _SET[option[1:]]
        elif option[:1] == "r" and option[1:] in _CLEAR:
            parsed.recursive_clear |= _CLEAR[option[1:]]
        elif option == "tmpcopyup":
            parsed.copy_up = True
        elif option in _SUPERBLOCK:
            parsed.data.append((option, None))
        elif option not in _SUPERBLOCK_OFF and option:
            key, equals, value = option.partition("=")
            parsed.data.append((key, value if equals else None))
    parsed.read_only = bool(parsed.set_ & lm.MOUNT_ATTR_RDONLY)
    return parsed


def known_options() -> list[str]:
    """Every option that is not data of a file system, for the `features` of the runtime."""
    names = [*_SET, *_CLEAR, *_ATIME, *_PROPAGATION, *_SUPERBLOCK, *_SUPERBLOCK_OFF, "bind", "rbind", "tmpcopyup"]
    names += [f"r{name}" for name in (*_SET, *_CLEAR, *_PROPAGATION)]
    return sorted(names)


def attach(rootfd: int, entry: Mount, userns: bool, trees: list[int]) -> int:
    """Performs one entry of `mounts` inside the root; the mount's descriptor, or -1 when there is none to be made.

    Raises RuntimeFailure naming the destination.
    """
    options = parse_options(entry.get("options") or [])
    destination = entry["destination"]
    try:
        if is_bind(entry):
            return _bind(rootfd, entry, options, trees)
        if entry.get("type") == "cgroup":
            return _cgroup(rootfd, destination, options)
        return _filesystem(rootfd, entry, options, userns, trees)
    except OSError as error:
        raise RuntimeFailure(f"mount {entry.get('source', '')} on {destination}: {error}") from error


def _filesystem_data(entry: Mount, options: Options, userns: bool) -> tuple[str, list[tuple[str, str | None]]]:
    """The file system's type and its own options."""
    fstype, data = entry["type"], list(options.data)
    if fstype in ("tmpfs", "shm"):
        data.append(("source", entry.get("source") or "tmpfs"))
        fstype = "tmpfs"
    elif fstype in ("proc", "sysfs", "mqueue", "devpts", "cgroup2"):
        if userns and fstype == "devpts":
            data = [item for item in data if item[0] != "gid" or idmap.maps_group(int(item[1] or 0))]
        data.append(("source", fstype))
    elif entry.get("source"):
        data.append(("source", entry["source"]))
    return fstype, data


def _filesystem(rootfd: int, entry: Mount, options: Options, userns: bool, trees: list[int]) -> int:
    destination = entry["destination"]
    fstype, data = _filesystem_data(entry, options, userns)
    strict = fstype in ("proc", "sysfs")
    there = -1 if strict else _existing(rootfd, destination)
    target = there if there >= 0 else destination_fd(rootfd, destination, directory=True, strict=strict)
    try:
        if fstype == "tmpfs" and there >= 0 and not any(key == "mode" for key, _ in data):
            # Over a directory of the image: its mode; any other has the kernel's default, 1777 (T43).
            data.append(("mode", f"{stat.S_IMODE(os.fstat(there).st_mode):o}"))
        if "tree" in entry:  # the procfs of another's pid namespace
            mounted = trees[int(entry["tree"])]
            lm.mount_setattr(mounted, options.set_, lm.MOUNT_ATTR_RDONLY & ~options.set_)
        else:
            mounted = _new_filesystem(fstype, data, options)
        try:
            if options.copy_up and fstype == "tmpfs":
                treecopy.copy(target, mounted)
            if not strict:
                _keep_out_of_proc(target, destination)
            lm.move_mount(mounted, target, subject=destination)
            for kind, recursive in options.propagation:
                lm.mount_setattr(mounted, propagation=kind, recursive=recursive)
        except BaseException:
            os.close(mounted)
            raise
    finally:
        os.close(target)
    return mounted


def _existing(rootfd: int, destination: str) -> int:
    """The directory that is there, or -1."""
    try:
        return openat2.open_in_root(rootfd, destination, os.O_PATH | os.O_DIRECTORY)
    except OSError:
        return -1


# What lxcfs and its like show a container of its own, and runc lets them (rootfs_linux.go).
_EMULATED = (
    "cpuinfo", "diskstats", "meminfo", "stat", "swaps", "uptime", "loadavg", "slabinfo", "sys/kernel/ns_last_pid",
    "sys/crypto/fips_enabled", "net/dev",
)  # fmt: skip
_PROC_ROOT_INODE = 1


def _keep_out_of_proc(target: int, destination: str, source: int = -1) -> None:
    """Refuses to cover /proc or a part of it, by whatever name it is reached: what is written there later, and what is
    masked, must be the kernel's (S004, S013, CVE-2019-19921, CVE-2023-27561). Raises RuntimeFailure.
    """
    if lm.filesystem_type(target) != lm.PROC_MAGIC:
        return
    if source >= 0 and os.path.normpath(destination).removeprefix("/proc/") in _EMULATED:
        return
    if source >= 0 and lm.filesystem_type(source) == lm.PROC_MAGIC and _is_proc_root(source) and _is_proc_root(target):
        return
    raise RuntimeFailure(f"mount on {destination}: it is in /proc, where nothing but another /proc can be mounted")


def _new_filesystem(fstype: str, data: list[tuple[str, str | None]], options: Options) -> int:
    try:
        return lm.new_filesystem(fstype, data, options.set_)
    except OSError as error:
        if fstype != "sysfs" or error.errno not in (1, 16):
            raise
    # Without an own network namespace sysfs can't be mounted: show the host's, read-only.
    mounted = lm.open_tree(lm.AT_FDCWD, "/sys", recursive=True)
    lm.mount_setattr(mounted, options.set_ | lm.MOUNT_ATTR_RDONLY, recursive=True)
    return mounted


def _is_proc_root(fd: int) -> bool:
    return os.fstat(fd).st_ino == _PROC_ROOT_INODE


def _bind(rootfd: int, entry: Mount, options: Options, trees: list[int]) -> int:
    destination = entry["destination"]
    if "tree" in entry:
        tree: int = trees[entry["tree"]]
    elif "source_fd" in entry:
        raise RuntimeFailure(f"mount on {destination}: its source was not opened")
    else:
        tree = lm.open_tree(lm.AT_FDCWD, entry["source"], recursive=options.recursive)
    try:
        is_directory = stat.S_ISDIR(os.fstat(tree).st_mode)
        if options.set_ or options.clear:
            lm.mount_setattr(tree, options.set_, options.clear)
        if options.recursive_set or options.recursive_clear:
            lm.mount_setattr(tree, options.recursive_set, options.recursive_clear, recursive=True)
        target = destination_fd(rootfd, destination, directory=is_directory)
        try:
            _keep_out_of_proc(target, destination, tree)
            lm.move_mount(tree, target, subject=destination)
        finally:
            os.close(target)
        for kind, recursive in options.propagation or [(lm.MS_PRIVATE, True)]:
            lm.mount_setattr(tree, propagation=kind, recursive=recursive)
    except BaseException:
        os.close(tree)
        raise
    return tree


def destination_fd(rootfd: int, destination: str, directory: bool, strict: bool = False) -> int:
    """The mountpoint as a descriptor, created when missing. `strict` refuses any symlink (S004)."""
    if not strict:
        if directory:
            return openat2.mkdir_in_root(rootfd, destination)
        return openat2.create_file_in_root(rootfd, destination)
    try:
        return openat2.mkdir_beneath(rootfd, destination)
    except OSError as error:
        raise RuntimeFailure(f"the image's {destination} is not a plain directory: {error}") from error


def _cgroup(rootfd: int, destination: str, options: Options) -> int:
    """Shows the container its own cgroups: v2 as one mount, v1 as a tmpfs of bind mounts."""
    from sampan.linux import cgroup

    found = cgroup.hierarchies()
    if not found.usable:
        return -1  # an ordinary user's: there are none that would be the container's own
    attributes = lm.MOUNT_ATTR_NOSUID | lm.MOUNT_ATTR_NODEV | lm.MOUNT_ATTR_NOEXEC
    if not found.v1:
        entry: Mount = {"type": "cgroup2", "destination": destination, "source": "cgroup", "options": []}
        parsed = Options(set_=options.set_ | attributes)
        return _filesystem(rootfd, entry, parsed, False, [])
    top = lm.new_filesystem("tmpfs", [("mode", "755"), ("source", "tmpfs")], attributes)
    target = destination_fd(rootfd, destination, directory=True)
    lm.move_mount(top, target, subject=destination)
    os.close(target)
    groups = _own_groups()
    for mountpoint in sorted(set(found.v1.values())):
        names = [name for name, where in found.v1.items() if where == mountpoint]
        own = next((groups[name] for name in names if name in groups), None)
        if own is None:
            continue
        name = os.path.basename(mountpoint)
        os.mkdir(name, 0o755, dir_fd=top)
        tree = lm.open_tree(lm.AT_FDCWD, mountpoint + own)
        lm.mount_setattr(tree, attributes | options.set_)
        lm.move_mount(tree, top, name)
        os.close(tree)
        for alias in names:
            if alias != name and not alias.startswith("name="):
                os.symlink(name, alias, dir_fd=top)
    if options.read_only:
        lm.mount_setattr(top, lm.MOUNT_ATTR_RDONLY)
    return top


def _own_groups() -> dict[str, str]:
    """v1 controller → path of our group, as the host sees it (read before the cgroup namespace)."""
    groups: dict[str, str] = {}
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            for name in controllers.split(","):
                groups[name] = "" if path == "/" else path
    return groups
