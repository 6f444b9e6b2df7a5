"""A container's mounts: Binds, Mounts, Tmpfs and the image's VOLUMEs, sorted out at create time."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from sampan.engine.container import Container
from sampan.engine.errors import BadRequest, Conflict, NotFound
from sampan.engine.model import (
    BindOptions,
    Config,
    HostConfig,
    Mount,
    MountRequest,
    MountType,
    TmpfsOptions,
    VolumeOptions,
)
from sampan.linux import mount, mountinfo, openat2
from sampan.oci.runtime_spec import Mount as MountEntry
from sampan.runtime import init_program
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
_WITHIN = openat2.RESOLVE_BENEATH | openat2.RESOLVE_NO_MAGICLINKS
replace = msgspec.structs.replace
_DEFAULTS = VolumeOptions()
_MOST = 1000  # mounts of one container: each is a descriptor on its way to the container's process


Lent = tuple[Container, str]  # whose mounts are wanted by --volumes-from, and how


class NewVolume(msgspec.Struct, frozen=True):
    """A volume that is made unless it is there; an anonymous one goes with its container."""

    anonymous: bool
    labels: Mapping[str, str] = {}
    options: Mapping[str, str] = {}


class Planned(msgspec.Struct, frozen=True):
    """A mount of a container that is not made yet, and what has to be made for it.

    `volume`: None of another container's, which is not made anew when it has gone meanwhile.
    """

    mount: Mount
    make_source: bool = False  # a directory where there is nothing
    volume: NewVolume | None = None


def plan(config: Config, host: HostConfig, lenders: Sequence[Lent] = ()) -> list[Planned]:
    """The mounts of a new container, out of everything that asks for one; nothing is made or looked at yet. Sources are
    absolute and clean: what the policy decides on is what is mounted. Raises BadRequest.
    """
    asked = len(host.binds) + len(host.mounts) + len(host.tmpfs) + len(config.volumes)
    asked += sum(len(lender.mounts) for lender, _ in lenders)
    if asked > _MOST:
        raise BadRequest(f"invalid mounts: {asked} of them, {_MOST} at most")
    rows: dict[str, Planned] = {}

    def add(row: Planned, explicit: bool = True) -> None:
        destination = os.path.normpath("/" + row.mount.destination.lstrip("/"))
        if destination == "/":
            raise BadRequest("invalid volume specification: destination can't be '/'")
        if not explicit and destination in rows:
            return
        if destination in rows:
            raise BadRequest(f"Duplicate mount point: {destination}")
        rows[destination] = replace(row, mount=replace(row.mount, destination=destination))

    for text in host.binds:
        add(_parse_bind(text))
    for item in host.mounts:
        add(_parse_mount(item))
    for destination, options in host.tmpfs.items():
        _check_tmpfs(destination, options)
        add(Planned(Mount(kind=MountType.TMPFS, destination=destination, mode=options)))
    for row in _borrowed(lenders):
        rows.setdefault(row.destination, Planned(row))
    for destination in config.volumes:
        path = os.path.normpath(destination)
        if path not in rows:
            add(_volume("", destination), explicit=False)
    return list(rows.values())


def _check_tmpfs(destination: str, options: str) -> None:
    """A file system of its own can't be told to be something else: with "bind" it would be a directory of the host. Raises BadRequest."""
    for option in filter(None, options.split(",")):
        key, equals, value = option.partition("=")
        if not (value and key in _TMPFS_VALUES if equals else key in _TMPFS_WORDS):
            known = ", ".join([*_TMPFS_WORDS, *(f"{name}=" for name in _TMPFS_VALUES)])
            raise BadRequest(f"invalid tmpfs option {option!r} of {destination}: there are {known}")


def _borrowed(lenders: Sequence[Lent]) -> list[Mount]:
    """What other containers mount, but for their --tmpfs; of two at one place the later's. Raises BadRequest."""
    rows: dict[str, Mount] = {}
    for lender, mode in lenders:
        modes = mode.split(",") if mode else []
        if not set(modes) <= {"ro", "rw", "z", "Z"}:
            raise BadRequest(f"invalid mode: {mode}")
        for row in lender.mounts:
            if row.kind is not MountType.TMPFS or row.destination not in lender.host_config.tmpfs:
                rows[row.destination] = replace(row, read_only=row.read_only or "ro" in modes, no_copy=True)
    return list(rows.values())


def make(rows: Iterable[Planned], volumes: LocalVolumes) -> list[Mount]:
    """The mounts as a container keeps them; makes anonymous and missing named volumes, and sources that may be missing. Blocks.
    Raises BadRequest, Conflict, NotFound.
    """
    return [_made(row, volumes) for row in rows]


def _made(row: Planned, volumes: LocalVolumes) -> Mount:
    mount, new = row.mount, row.volume
    if mount.kind is MountType.BIND and not os.path.lexists(mount.source):
        if not row.make_source:
            raise BadRequest(f'invalid mount config for type "bind": bind source path does not exist: {mount.source}')
        _make_source(mount.source)
    if mount.kind is not MountType.VOLUME:
        return mount
    try:
        if new is not None:
            volume = volumes.create(mount.name, dict(new.labels), dict(new.options), new.anonymous)
        else:
            volume = volumes.usable(mount.name)
    except VolumeNotFound as error:
        raise NotFound(str(error)) from error
    except VolumeConflict as error:
        raise Conflict(str(error)) from error
    except VolumeError as error:
        raise BadRequest(str(error)) from error
    return replace(mount, name=volume.name, source=volume.path)


def _clean(source: str) -> str:
    return "/" + os.path.normpath(source).lstrip("/")


def _parse_bind(text: str) -> Planned:
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
    read_only, no_copy, mode = "ro" in modes, "nocopy" in modes, ",".join(modes)
    if not source.startswith("/"):
        return _volume(source, destination, mode=mode, read_only=read_only, no_copy=no_copy)
    propagation = next((mode for mode in modes if mode in _PROPAGATIONS), "rprivate")
    mount = Mount(kind=MountType.BIND, source=_clean(source), destination=destination, mode=mode, read_only=read_only, no_copy=no_copy,
                  propagation=propagation)  # fmt: skip
    return Planned(mount, make_source=True)


def _volume(
    name: str, destination: str, options: VolumeOptions = _DEFAULTS, mode: str = "", read_only: bool = False, no_copy: bool = False
) -> Planned:  # fmt: skip
    """A volume that is wanted; without a name one of its own, whose name is settled now, so that it has an owner before it is there."""
    mount = Mount(kind=MountType.VOLUME, name=name or secrets.token_hex(32), driver="local", destination=destination, mode=mode,
                  read_only=read_only, no_copy=no_copy or options.no_copy, subpath=options.subpath)  # fmt: skip
    return Planned(mount, volume=NewVolume(not name, options.labels, options.driver_options))


def _parse_mount(item: MountRequest) -> Planned:
    kind, target, source = item.kind, item.target, item.source
    if not target.startswith("/"):
        raise BadRequest(
            f"invalid mount config for type {kind!r}: invalid mount path: '{target}' mount path must be absolute"
        )
    if kind == MountType.BIND:
        bind = item.bind or BindOptions()
        if not source.startswith("/"):
            raise BadRequest(
                f"invalid mount config for type \"bind\": invalid mount path: '{source}' mount path must be absolute"
            )
        mount = Mount(kind=MountType.BIND, source=_clean(source), destination=target, read_only=item.read_only,
                      propagation=bind.propagation or "rprivate", non_recursive=bind.non_recursive)  # fmt: skip
        return Planned(mount, make_source=bind.create_source)
    if kind == MountType.VOLUME:
        return _volume(source, target, item.volume or _DEFAULTS, read_only=item.read_only)
    if kind == MountType.TMPFS:
        options = item.tmpfs or TmpfsOptions()
        mode = [f"size={options.size}"] if options.size else []
        mode += [f"mode={options.mode:o}"] if options.mode else []
        return Planned(Mount(kind=MountType.TMPFS, destination=target, mode=",".join(mode), read_only=item.read_only))
    raise BadRequest(f"invalid mount config: mount type unknown: {kind or None!r}")


def standard(privileged: bool) -> list[MountEntry]:
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


def shared_memory(size: int) -> MountEntry:
    """/dev/shm of `size` bytes."""
    return _fs("/dev/shm", "tmpfs", "nosuid", "noexec", "nodev", "mode=1777", f"size={size}")


def specification(
    container: Container, directory: str, volumes: LocalVolumes, held: list[int], allowed: Allowed
) -> list[MountEntry]:
    """The `mounts` of the runtime specification, in the order in which they must be done.

    What is mounted from the host is opened here, once; its entry has the descriptor as "source_fd", which is added to
    `held`: the caller's, to be closed when the mounts have been made. `allowed` is asked about the real path of each such descriptor.
    """
    host = container.host_config
    out = standard(host.privileged)
    if host.ipc_mode == "host":
        out.append({"destination": "/dev/shm", "type": "bind", "source": "/dev/shm", "options": ["rbind"]})
    elif host.ipc_mode != "none":
        out.append(shared_memory(host.shm_size or DEFAULT_SHM))
    taken = {row.destination for row in container.mounts}
    mode = ["ro"] if host.read_only_root else []
    for name in ("hostname", "hosts", "resolv.conf"):
        if f"/etc/{name}" not in taken:
            out.append({"destination": f"/etc/{name}", "type": "bind", "source": f"{directory}/{name}",
                        "options": ["rbind", "rprivate", *mode]})  # fmt: skip
    if host.init and (init := init_program.find()):
        out.append({"destination": init_program.INSIDE, "type": "bind", "source": init, "options": ["bind", "ro"]})
    for row in sorted(container.mounts, key=lambda item: item.destination.count("/")):
        out.append(_entry(row, volumes, held, allowed))
    return out


def table() -> int:
    """What goes along with a specification: its "source_fd"s are in it (see runtime/sources)."""
    return os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _fs(destination: str, kind: str, *options: str) -> MountEntry:
    return {"destination": destination, "type": kind, "source": kind, "options": list(options)}


def _entry(row: Mount, volumes: LocalVolumes, held: list[int], allowed: Allowed) -> MountEntry:
    if row.kind is MountType.TMPFS:
        given = [item for item in row.mode.split(",") if item]
        return _fs(row.destination, "tmpfs", "nosuid", "nodev", "noexec", *given, *(["ro"] if row.read_only else []))
    held.append(open_source(row, volumes, allowed))
    options = ["bind" if row.non_recursive else "rbind", row.propagation or "rprivate"]
    if row.kind is MountType.BIND:
        _check_propagation(held[-1], row.source, row.propagation)
    if row.read_only:
        options += ["ro", "rro"]
    return {
        "destination": row.destination,
        "type": "bind",
        "source": row.source,
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


def open_source(row: Mount, volumes: LocalVolumes, allowed: Allowed) -> int:
    """What a mount shows of the host, as an O_PATH descriptor: its name is looked up here and nowhere else, and what it
    has led to is what the container's owner must be allowed to have.

    Raises BadRequest, NotFound, Conflict, Forbidden.
    """
    if row.kind is MountType.VOLUME:
        try:
            top = os.open(volumes.usable(row.name).path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except VolumeNotFound as error:
            raise NotFound(str(error)) from error
        except VolumeConflict as error:
            raise Conflict(str(error)) from error
        return _subpath(top, row.subpath) if row.subpath else top
    try:
        fd = mount.open_tree(mount.AT_FDCWD, row.source, clone=False)  # and not open(2): what is automounted is
    except FileNotFoundError:
        text = f'invalid mount config for type "bind": bind source path does not exist: {row.source}'
        raise BadRequest(text) from None
    except OSError as error:
        text = f'invalid mount config for type "bind": {row.source}: {os.strerror(error.errno or 0)}'
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
