"""The guest's file systems: the image's disk below, the container's own above, what the host shares."""

from __future__ import annotations

import os

from sampan.linux import mount, openat2
from sampan.linux.syscall import check, libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.runtime.requests import Overlay
    from sampan.vm.machine_types import Belongings

LOWER, WRITABLE, ROOT, SHARES, FILES = "/run/lower", "/run/rw", "/run/root", "/run/shares", "/run/files"
# Below the image: what every container is mounted on, so that nothing has to be copied up for it.
MOUNTPOINTS = "/run/mountpoints"
OVERLAY: Overlay = {"lower": [LOWER, MOUNTPOINTS], "upper": f"{WRITABLE}/upper", "work": f"{WRITABLE}/work"}


def disk(serial: str) -> str:
    """The block device with a serial number of ours. Raises FileNotFoundError."""
    for name in sorted(os.listdir("/sys/block")):
        try:
            with open(f"/sys/block/{name}/serial", encoding="ascii") as file:
                if file.read().strip() == serial:
                    return f"/dev/{name}"
        except OSError:
            continue
    raise FileNotFoundError(f"no disk {serial}")


_devices: dict[str, str] = {}


def make_ready() -> None:
    """Before the guest is anybody's: what all machines have, with the empty disk that each gets a copy of."""
    for path in (LOWER, WRITABLE, ROOT, SHARES, FILES):
        os.makedirs(path, exist_ok=True)
    for name in ("proc", "dev", "sys", "etc"):
        os.makedirs(f"{MOUNTPOINTS}/{name}", 0o755)
    for name in ("hostname", "hosts", "resolv.conf"):
        os.close(os.open(f"{MOUNTPOINTS}/etc/{name}", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
    for serial in ("root", "fresh", "disk"):
        _devices[serial] = disk(serial)
    mount.mount(_devices["fresh"], WRITABLE, "ext4", mount.MS_NOATIME, "noinit_itable")
    _make_upper()


def _make_upper() -> None:
    for name in ("upper", "work"):
        try:
            os.mkdir(f"{WRITABLE}/{name}", 0o755)
        except FileExistsError:
            continue


def mount_all(wanted: Belongings) -> None:
    """Mounts the disks and, if there is something, the host's shares. Raises OSError."""
    if not _devices:
        make_ready()  # a guest that was not made from a template
    mount.mount(_devices["root"], LOWER, "erofs", mount.MS_RDONLY)
    if wanted["writable"] == "memory":
        size = wanted.get("size")
        mount.mount("tmpfs", WRITABLE, "tmpfs", 0, f"mode=755{f',size={size}' if size else ''}")
        _make_upper()
    elif wanted["writable"] == "disk":
        # Over the template's, which is left alone: what is on that disk is nobody's.
        mount.mount(_devices["disk"], WRITABLE, "ext4", mount.MS_NOATIME, "noinit_itable")
        _make_upper()
    if wanted.get("new"):
        _copy_owner()
    if wanted.get("shares"):
        mount.mount("shares", SHARES, "9p", 0, "trans=virtio,version=9p2000.L,msize=262144,access=client,cache=mmap")


def _copy_owner() -> None:
    """The top of the container's root is as the image has it."""
    upper = str(OVERLAY["upper"])
    image, own = os.stat(LOWER), os.stat(upper)
    if (image.st_mode, image.st_uid, image.st_gid) != (own.st_mode, own.st_uid, own.st_gid):
        os.chmod(upper, image.st_mode & 0o7777)
        os.chown(upper, image.st_uid, image.st_gid)


def write_files(files: dict[str, str]) -> None:
    """Small files that are bound into the container, kept in their inodes."""
    for name, text in files.items():
        fd = os.open(f"{FILES}/{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)


def mount_root() -> None:
    """The container's root, when no container is to mount it."""
    fd = mount.overlay([LOWER, MOUNTPOINTS], str(OVERLAY["upper"]), str(OVERLAY["work"]))
    mount.move_mount(fd, mount.AT_FDCWD, ROOT)
    os.close(fd)


def make_directory(path: str) -> None:
    """Makes a directory in what mount_root() has mounted; where that can't be, the container's start says so."""
    root = open_root(0)
    try:
        os.close(openat2.mkdir_in_root(root, path))
    except OSError:
        pass
    finally:
        os.close(root)


def unmount_root() -> None:
    """Undoes mount_root()."""
    mount.umount(ROOT, 0)


def open_root(pid: int) -> int:
    """A descriptor of the root: of the process `pid`, or of what mount_root() has mounted."""
    return os.open(f"/proc/{pid}/root" if pid else ROOT, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def close() -> None:
    """Everything written is on the disk after this: the overlay may hold the file system longer than its mount lasts."""
    fd = os.open(WRITABLE, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        check(libc.syncfs(fd), "syncfs", WRITABLE)
    finally:
        os.close(fd)
    try:
        mount.umount(WRITABLE, 0)
    except OSError:
        pass  # its journal will be replayed


def view() -> int:
    """The container's file system without what is mounted on it, to read only."""
    return mount.overlay([str(OVERLAY["upper"]), LOWER], None, None)
