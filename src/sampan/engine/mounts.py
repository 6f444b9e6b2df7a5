"""A container's mounts: Binds, Mounts, Tmpfs and the image's VOLUMEs, sorted out at create time."""

from __future__ import annotations

import os
import secrets
import stat
import threading
from collections.abc import Callable, Sequence
from typing import Any

from sampan.engine.container import Container
from sampan.engine.errors import BadRequest, Conflict, NotFound
from sampan.images.extract import Extractor
from sampan.images.pack import pack_tree
from sampan.linux import mount, mountinfo, openat2
from sampan.volumes.local import LocalVolumes, VolumeConflict, VolumeError, VolumeNotFound

_PROPAGATIONS = ("private", "rprivate", "shared", "rshared", "slave", "rslave")
_MODES = ("ro", "rw", "z", "Z", "nocopy", "cached", "delegated", "consistent", *_PROPAGATIONS)
# Docker's, but for those that make it a mount of something else.
_TMPFS_WORDS = ("defaults", "ro", "rw", "suid", "nosuid", "dev", "nodev", "exec", "noexec", "sync", "async", "dirsync", "mand", "nomand",
                "atime", "noatime", "diratime", "nodiratime", "relatime", "norelatime", "strictatime", "nostrictatime", "tmpcopyup",
                "unbindable", "runbindable", *_PROPAGATIONS)  # fmt: skip
_TMPFS_VALUES = ("size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol")

DEFAULT_SHM = 64 << 20


Allowed = Callable[[str], None]  # whether a path of the host's may be had: raises what says why not
_WISHES = ("Make", "Anonymous", "Labels", "Options")  # of a row until it is made
_WITHIN = openat2.RESOLVE_BENEATH | openat2.RESOLVE_NO_MAGICLINKS
_MOST = 1000  # mounts of one container: each is a descriptor on its way to the container's process


Lent = tuple[Container, str]  # whose mounts are wanted by --volumes-from, and how


def parse(config: dict[str, Any], host: dict[str, Any], lenders: Sequence[Lent] = ()) -> list[dict[str, Any]]:
    """The rows of `Mounts` for a new container, out of everything that says so; nothing is made or looked at yet. Sources are
    absolute and clean: what the policy decides on is what is mounted. Raises BadRequest.
    """
    asked = sum(
        len(part or ()) for part in (host.get("Binds"), host.get("Mounts"), host.get("Tmpfs"), config.get("Volumes"))
    ) + sum(len(lender.mounts) for lender, _ in lenders)
    if asked > _MOST:
        raise BadRequest(f"invalid mounts: {asked} of them, {_MOST} at most")
    rows: dict[str, dict[str, Any]] = {}

    def add(row: dict[str, Any], explicit: bool = True) -> None:
        destination = os.path.normpath("/" + row["Destination"].lstrip("/"))
        if destination == "/":
            raise BadRequest("invalid volume specification: destination can't be '/'")
        if not explicit and destination in rows:
            return
        if destination in rows:
            raise BadRequest(f"Duplicate mount point: {destination}")
        rows[destination] = {**row, "Destination": destination}

    for text in host.get("Binds") or []:
        add(_parse_bind(text))
    for item in host.get("Mounts") or []:
        add(_parse_mount(item))
    for destination, options in (host.get("Tmpfs") or {}).items():
        _check_tmpfs(destination, options)
        add({"Type": "tmpfs", "Source": "", "Destination": destination, "Mode": options, "RW": True,
             "Propagation": ""})  # fmt: skip
    for row in _borrowed(lenders):
        rows.setdefault(row["Destination"], row)
    for destination in config.get("Volumes") or {}:
        path = os.path.normpath(destination)
        if path not in rows:
            add({**_volume(""), "Destination": destination, "Mode": "", "RW": True, "Propagation": ""}, explicit=False)
    return list(rows.values())


def _check_tmpfs(destination: str, options: str) -> None:
    """A file system of its own can't be told to be something else: with "bind" it would be a directory of the host. Raises BadRequest."""
    for option in filter(None, options.split(",")):
        key, equals, value = option.partition("=")
        if not (value and key in _TMPFS_VALUES if equals else key in _TMPFS_WORDS):
            known = ", ".join([*_TMPFS_WORDS, *(f"{name}=" for name in _TMPFS_VALUES)])
            raise BadRequest(f"invalid tmpfs option {option!r} of {destination}: there are {known}")


def _borrowed(lenders: Sequence[Lent]) -> list[dict[str, Any]]:
    """What other containers mount, but for their --tmpfs; of two at one place the later's. Raises BadRequest."""
    rows: dict[str, dict[str, Any]] = {}
    for lender, mode in lenders:
        modes = mode.split(",") if mode else []
        if not set(modes) <= {"ro", "rw", "z", "Z"}:
            raise BadRequest(f"invalid mode: {mode}")
        for row in lender.mounts:
            if row["Type"] != "tmpfs" or row["Destination"] not in (lender.host_config.get("Tmpfs") or {}):
                rows[row["Destination"]] = {**row, "RW": row["RW"] and "ro" not in modes, "NoCopy": True}
    return list(rows.values())


def make(rows: list[dict[str, Any]], volumes: LocalVolumes) -> list[dict[str, Any]]:
    """The rows as a container keeps them; makes anonymous and missing named volumes, and sources that may be missing. Blocks.
    Raises BadRequest, Conflict, NotFound.
    """
    return [_made(row, volumes) for row in rows]


def _made(row: dict[str, Any], volumes: LocalVolumes) -> dict[str, Any]:
    kept = {key: value for key, value in row.items() if key not in _WISHES}
    if row["Type"] == "bind" and not os.path.lexists(row["Source"]):
        if not row.get("Make"):
            raise BadRequest(f'invalid mount config for type "bind": bind source path does not exist: {row["Source"]}')
        _make_source(row["Source"])
    if row["Type"] != "volume":
        return kept
    try:
        if "Anonymous" in row:
            volume = volumes.create(row["Name"], row["Labels"], row["Options"], row["Anonymous"])
        else:  # another container's, which is not made anew when it has gone meanwhile
            volume = volumes.usable(row["Name"])
    except VolumeNotFound as error:
        raise NotFound(str(error)) from error
    except VolumeConflict as error:
        raise Conflict(str(error)) from error
    except VolumeError as error:
        raise BadRequest(str(error)) from error
    return {**kept, "Name": volume.name, "Source": volume.path}


def _clean(source: str) -> str:
    return "/" + os.path.normpath(source).lstrip("/")


def _parse_bind(text: str) -> dict[str, Any]:
    parts = text.split(":")
    if len(parts) > 3 or len(parts) < 2 or not all(parts[:2]):
        raise BadRequest(f"invalid volume specification: '{text}'")
    source, destination = parts[0], parts[1]
    modes = parts[2].split(",") if len(parts) == 3 else []
    for mode in modes:
        if mode not in _MODES:
            raise BadRequest(f"invalid mode: {parts[2]} in volume specification '{text}'")
    if not destination.startswith("/"):
        raise BadRequest(
            f"invalid volume specification: '{text}': invalid mount path: '{destination}' mount path must be absolute"
        )
    row = {"Destination": destination, "Mode": ",".join(modes), "RW": "ro" not in modes,
           "NoCopy": "nocopy" in modes}  # fmt: skip
    propagation = next((mode for mode in modes if mode in _PROPAGATIONS), "")
    if source.startswith("/"):
        return {**row, "Type": "bind", "Source": _clean(source), "Make": True, "Propagation": propagation or "rprivate"}
    return {**row, **_volume(source), "Propagation": ""}


def _volume(name: str, labels: dict[str, str] | None = None, options: dict[str, str] | None = None) -> dict[str, Any]:
    """A volume that is wanted; without a name one of its own, whose name is settled now, so that it has an owner before it is there."""
    return {"Type": "volume", "Name": name or secrets.token_hex(32), "Source": "", "Driver": "local", "Anonymous": not name,
            "Labels": labels or {}, "Options": options or {}}  # fmt: skip


def _parse_mount(item: dict[str, Any]) -> dict[str, Any]:
    kind, target, source = item.get("Type"), item.get("Target") or "", item.get("Source") or ""
    if not target.startswith("/"):
        raise BadRequest(
            f"invalid mount config for type {kind!r}: invalid mount path: '{target}' mount path must be absolute"
        )
    row: dict[str, Any] = {"Destination": target, "Mode": "", "RW": not item.get("ReadOnly"), "Propagation": ""}
    if kind == "bind":
        bind = item.get("BindOptions") or {}
        if not source.startswith("/"):
            raise BadRequest(
                f"invalid mount config for type \"bind\": invalid mount path: '{source}' mount path must be absolute"
            )
        return {**row, "Type": "bind", "Source": _clean(source), "Make": bool(bind.get("CreateMountpoint")), "Propagation": bind.get("Propagation") or "rprivate",
                "NonRecursive": bool(bind.get("NonRecursive"))}  # fmt: skip
    if kind == "volume":
        options = item.get("VolumeOptions") or {}
        driver = options.get("DriverConfig") or {}
        found = _volume(source, options.get("Labels") or {}, driver.get("Options") or {})
        return {**row, **found, "NoCopy": bool(options.get("NoCopy")), "Subpath": options.get("Subpath") or ""}
    if kind == "tmpfs":
        options = item.get("TmpfsOptions") or {}
        mode = [f"size={options['SizeBytes']}"] if options.get("SizeBytes") else []
        mode += [f"mode={options['Mode']:o}"] if options.get("Mode") else []
        return {**row, "Type": "tmpfs", "Source": "", "Mode": ",".join(mode)}
    raise BadRequest(f"invalid mount config: mount type unknown: {kind!r}")


def standard(privileged: bool) -> list[dict[str, Any]]:
    """The file systems of the kernel that every container has."""
    sysfs = "rw" if privileged else "ro"
    return [
        _fs("/proc", "proc", "nosuid", "noexec", "nodev"),
        _fs("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        _fs("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
        _fs("/sys", "sysfs", "nosuid", "noexec", "nodev", sysfs),
        _fs("/sys/fs/cgroup", "cgroup", "nosuid", "noexec", "nodev", sysfs),
        _fs("/dev/mqueue", "mqueue", "nosuid", "noexec", "nodev"),
    ]


def shared_memory(size: int) -> dict[str, Any]:
    """/dev/shm of `size` bytes."""
    return _fs("/dev/shm", "tmpfs", "nosuid", "noexec", "nodev", "mode=1777", f"size={size}")


def specification(
    container: Container, directory: str, volumes: LocalVolumes, init: str | None, held: list[int], allowed: Allowed
) -> list[dict[str, Any]]:
    """The `mounts` of the runtime specification, in the order in which they must be done.

    What is mounted from the host is opened here, once; its entry has the descriptor as "source_fd", which is added to
    `held`: the caller's, to be closed when the mounts have been made. `allowed` is asked about the real path of each such descriptor.
    """
    host = container.host_config
    out = standard(bool(host.get("Privileged")))
    if host.get("IpcMode") == "host":
        out.append({"destination": "/dev/shm", "type": "bind", "source": "/dev/shm", "options": ["rbind"]})
    elif host.get("IpcMode") != "none":
        out.append(shared_memory(host.get("ShmSize") or DEFAULT_SHM))
    taken = {row["Destination"] for row in container.mounts}
    for name in ("hostname", "hosts", "resolv.conf"):
        if f"/etc/{name}" not in taken:
            out.append({"destination": f"/etc/{name}", "type": "bind", "source": f"{directory}/{name}",
                        "options": ["rbind", "rprivate"]})  # fmt: skip
    if init:
        out.append({"destination": "/sbin/docker-init", "type": "bind", "source": init, "options": ["bind", "ro"]})
    for row in sorted(container.mounts, key=lambda item: item["Destination"].count("/")):
        out.append(_entry(row, volumes, held, allowed))
    return out


def table() -> int:
    """What goes along with a specification: its "source_fd"s are in it (see runtime/sources)."""
    return os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _fs(destination: str, kind: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": kind, "options": list(options)}


def _entry(row: dict[str, Any], volumes: LocalVolumes, held: list[int], allowed: Allowed) -> dict[str, Any]:
    if row["Type"] == "tmpfs":
        given = [item for item in row["Mode"].split(",") if item]
        return _fs(row["Destination"], "tmpfs", "nosuid", "nodev", "noexec", *given, *([] if row["RW"] else ["ro"]))
    held.append(open_source(row, volumes, allowed))
    options = ["bind" if row.get("NonRecursive") else "rbind", row["Propagation"] or "rprivate"]
    if row["Type"] == "bind":
        _check_propagation(held[-1], row["Source"], row["Propagation"])
    if not row["RW"]:
        options += ["ro", "rro"]
    return {
        "destination": row["Destination"],
        "type": "bind",
        "source": row["Source"],
        "source_fd": held[-1],
        "options": options,
    }


def _make_source(path: str) -> None:
    """mkdir -p on the host, of real directories only: a link that is put in the way meanwhile is not followed. Raises BadRequest."""
    above = path.rstrip("/")
    while not os.path.lexists(above) and above:
        above = os.path.dirname(above)
    try:
        top = os.open(above or "/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.close(openat2.mkdir_beneath(top, path[len(above) :]))
        finally:
            os.close(top)
    except OSError as error:
        raise BadRequest(f"invalid mount config: cannot make {path}: {os.strerror(error.errno or 0)}") from None


def open_source(row: dict[str, Any], volumes: LocalVolumes, allowed: Allowed) -> int:
    """What a row of `Mounts` shows of the host, as an O_PATH descriptor: its name is looked up here and nowhere else, and what it
    has led to is what the container's owner must be allowed to have.

    Raises BadRequest, NotFound, Conflict, Forbidden.
    """
    if row["Type"] == "volume":
        try:
            top = os.open(volumes.usable(row["Name"]).path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except VolumeNotFound as error:
            raise NotFound(str(error)) from error
        except VolumeConflict as error:
            raise Conflict(str(error)) from error
        return _subpath(top, row["Subpath"]) if row.get("Subpath") else top
    try:
        fd = mount.open_tree(mount.AT_FDCWD, row["Source"], clone=False)  # and not open(2): what is automounted is
    except FileNotFoundError:
        text = f'invalid mount config for type "bind": bind source path does not exist: {row["Source"]}'
        raise BadRequest(text) from None
    except OSError as error:
        text = f'invalid mount config for type "bind": {row["Source"]}: {os.strerror(error.errno or 0)}'
        raise BadRequest(text) from None
    try:
        allowed(os.readlink(f"/proc/self/fd/{fd}"))
    except BaseException:
        os.close(fd)
        raise
    return fd


def _subpath(top: int, subpath: str) -> int:
    """What is inside a volume, whose descriptor is closed; a link in the volume can lead about in it, but not out of it (T50)."""
    try:
        return openat2.openat2(top, subpath.strip("/") or ".", os.O_PATH, resolve=_WITHIN)
    except OSError as error:
        raise BadRequest(f"cannot access path {subpath!r} of the volume: {os.strerror(error.errno or 0)}") from error
    finally:
        os.close(top)


def _check_propagation(fd: int, source: str, wanted: str) -> None:
    """A mount can only share what the host's mount shares. Raises BadRequest naming the mount."""
    kind = wanted.removeprefix("r")
    if kind not in ("shared", "slave"):
        return
    found = mountinfo.mount_of(fd)
    if "shared" in found.propagation or (kind == "slave" and "slave" in found.propagation):
        return
    what = "a shared mount" if kind == "shared" else "a shared or slave mount"
    raise BadRequest(f"path {source} is mounted on {found.target} but it is not {what}")


def copy_up(container: Container, rootfd: int, volumes: LocalVolumes) -> None:
    """Fills empty volumes with what the image has at their place, owner and mode of the top included.

    Of several containers that come with the same new volume one fills it, and the others wait until it has.
    """
    for row in container.mounts:
        if row["Type"] != "volume" or row.get("NoCopy") or row.get("Subpath"):
            continue
        try:
            fd = openat2.open_in_root(rootfd, row["Destination"], os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            continue
        try:
            if os.listdir(fd):
                with volumes.filling(row["Name"]) as target:
                    if target is not None:
                        _copy_tree(fd, target)
            else:
                _copy_owner(fd, row["Source"])
        finally:
            os.close(fd)


def _copy_owner(source: int, target: str) -> None:
    """Owner and mode of an empty directory, for an empty volume."""
    fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if not os.listdir(fd):
            info = os.fstat(source)
            os.fchown(fd, info.st_uid, info.st_gid)
            os.fchmod(fd, stat.S_IMODE(info.st_mode))
    finally:
        os.close(fd)


def _copy_tree(source: int, target: str) -> None:
    info = os.fstat(source)
    reader, writer = os.pipe()

    def pack() -> None:
        with os.fdopen(writer, "wb") as out:
            pack_tree(source, "/", out)

    packer = threading.Thread(target=pack)
    packer.start()
    fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with os.fdopen(reader, "rb") as stream:
            Extractor(fd).extract(stream)
        os.fchown(fd, info.st_uid, info.st_gid)
        os.fchmod(fd, stat.S_IMODE(info.st_mode))
    finally:
        os.close(fd)
        packer.join()
