"""cp between the host and a container."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import sys
import tempfile

from sampan.cli.flags import UsageError, Values
from sampan.cli.results import result
from sampan.cli.session import write_all
from sampan.client.connection import engine
from sampan.client.http import APIError, Http, at, query
from sampan.linux import filetree, nodes, openat2, treecopy


def _split(text: str) -> tuple[str, str]:
    """(container, path); a name with a slash or dot in front of the colon is a path on the host."""
    name, colon, path = text.partition(":")
    if not colon or "/" in name or name.startswith("."):
        return "", text
    return name, path


def cp(v: Values, names: list[str]) -> int:
    """cp"""
    return copy(engine(), names[0], names[1], v.on("follow-link"), v.on("archive"))


def copy(http: Http, source: str, target: str, follow: bool, own: bool = False) -> int:
    """Copies one way; "-" is a tar on stdin or stdout. Raises APIError, UsageError."""
    source_name, source_path = _split(source)
    target_name, target_path = _split(target)
    if bool(source_name) == bool(target_name):
        raise UsageError("copying needs one side in a container: CONTAINER:PATH")
    if source_name:
        return _from_container(http, source_name, source_path, target_path)
    return _to_container(http, source_path, target_name, target_path, follow, own)


def _from_container(http: Http, name: str, path: str, target: str) -> int:
    response = http.send("GET", at("/containers/{}/archive", name) + query(path=path))
    if target == "-":
        for part in response.chunks():
            write_all(1, part)
        return 0
    with tempfile.TemporaryFile() as spool:
        for part in response.chunks():
            spool.write(part)
        spool.seek(0)
        _unpack(spool, path, target)
    return 0


def _unpack(spool: object, path: str, target: str) -> None:
    """Writes the members below `target`, by the extractor that trusts no name in the archive.

    The target is looked up once, as who calls has named it. Nothing below it is followed: somebody else may write there.
    """
    from importlib import import_module

    extract = import_module("sampan.images.extract")
    new = "" if os.path.isdir(target) else os.path.basename(target)
    if not new and not os.path.isdir(target):
        raise UsageError(f"destination directory does not exist: {target}")
    above = os.path.dirname(os.path.abspath(target)) if new else target
    try:
        directory = os.open(above, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"destination directory does not exist: {above}") from None
    name = f".sampan-cp-{os.urandom(8).hex()}"
    try:
        os.mkdir(name, 0o700, dir_fd=directory)
        staging = openat2.open_beneath(directory, name, os.O_RDONLY | os.O_DIRECTORY)
        try:
            unpacked = extract.Extractor(staging, owner=(os.getuid(), os.getgid()), harmless=True)
            unpacked.extract(spool)
            for member in unpacked.left_out:
                print(f"{member!r} is a device, and not copied", file=sys.stderr)
            if path.endswith("/."):
                _place_content(staging, directory, new)
            else:
                for member in os.listdir(staging):
                    _place(staging, member, directory, new or member, target)
        finally:
            os.close(staging)
            filetree.remove_at(directory, name)
    finally:
        os.close(directory)


def _place_content(staging: int, directory: int, new: str) -> None:
    """What was copied as DIR/. goes into a directory, which is made if need be."""
    if not new:
        _merge(staging, directory)
        return
    os.mkdir(new, 0o755, dir_fd=directory)
    made = openat2.open_beneath(directory, new, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _merge(staging, made)
    finally:
        os.close(made)


def _place(staging: int, member: str, directory: int, new: str, target: str) -> None:
    """What was copied gets its name; where that is a link, a device or a pipe, what it leads to is written instead."""
    mode = os.stat(member, dir_fd=staging, follow_symlinks=False).st_mode
    there = _mode(directory, new)
    if stat.S_ISREG(mode) and there and not stat.S_ISREG(there) and not stat.S_ISDIR(there):
        with open(nodes.open_regular(staging, member), "rb") as file, result(target) as out:
            shutil.copyfileobj(file, out, 1 << 20)
    elif _move(staging, member, directory, new):
        source = openat2.open_beneath(staging, member, os.O_RDONLY | os.O_DIRECTORY)
        into = openat2.open_beneath(directory, new, os.O_RDONLY | os.O_DIRECTORY)
        try:
            info = os.fstat(source)
            _merge(source, into)
            _like(info, into)
        finally:
            os.close(source)
            os.close(into)


def _mode(directory: int, name: str) -> int:
    """The mode of what is there, 0 for nothing."""
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return 0


def _merge(source: int, target: int) -> None:
    """Puts what is in one directory into another of the same file system: into directories that are there, over files and links."""
    treecopy.together(
        source,
        target,
        lambda reader, writer, name: _move(reader, name, writer, name),
        lambda _, writer, info: _like(info, writer),
    )


def _move(source: int, name: str, target: int, new: str) -> bool:
    """Renames, over a file or a link. True: both are directories, and one is to be put into the other. Raises UsageError."""
    mode, there = _mode(source, name), _mode(target, new)
    if stat.S_ISDIR(there):
        if stat.S_ISDIR(mode):
            return True
        raise UsageError(f"cannot overwrite directory {new} with a file")
    if there and not stat.S_ISREG(there) and not stat.S_ISLNK(there):
        raise UsageError(f"{new} is no regular file: it is not replaced")
    if there and stat.S_ISDIR(mode):
        if stat.S_ISREG(there):
            raise UsageError(f"cannot overwrite non-directory {new} with a directory")
        os.unlink(new, dir_fd=target)
    os.rename(name, new, src_dir_fd=source, dst_dir_fd=target)
    return False


def _like(info: os.stat_result, target: int) -> None:
    """Mode and time of a directory that was there already: when all is in it, which changes its time."""
    with contextlib.suppress(PermissionError):  # it is somebody else's
        os.fchmod(target, stat.S_IMODE(info.st_mode))
        os.utime(target, ns=(info.st_atime_ns, info.st_mtime_ns))


def _to_container(http: Http, source: str, name: str, target: str, follow: bool, own: bool) -> int:
    if source == "-":
        _put(http, name, target, sys.stdin.buffer, own)
        return 0
    if not os.path.lexists(source):
        raise UsageError(f"lstat {source}: no such file or directory")
    directory, member = target, os.path.basename(os.path.abspath(source))
    if not _is_directory(http, name, target):
        if target.endswith("/"):
            raise UsageError(f"destination directory does not exist: {target}")
        directory, member = os.path.dirname(target) or "/", os.path.basename(target)
    if source.endswith("/."):
        member = "."
    with tempfile.TemporaryFile() as spool:
        _pack(source, member, follow, spool)
        spool.seek(0)
        _put(http, name, directory, spool, own)
    return 0


def _pack(source: str, member: str, follow: bool, spool: object) -> None:
    """Writes what is at `source` as a tar; its own name is followed with `follow`, and nothing that is in it."""
    from importlib import import_module

    pack = import_module("sampan.images.pack")
    path = os.path.realpath(source) if follow or source.endswith(("/", "/.")) else os.path.abspath(source)
    above, name = os.path.split(path)
    directory = os.open(above, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        pack.pack_tree(directory, name or ".", spool, member)
    finally:
        os.close(directory)


def _is_directory(http: Http, name: str, path: str) -> bool:
    import base64
    import json

    try:
        response = http.send("HEAD", at("/containers/{}/archive", name) + query(path=path.rstrip("/") + "/."))
    except APIError as error:
        if error.status == 404:
            return False
        raise
    found = json.loads(base64.b64decode(response.headers["x-docker-container-path-stat"]))
    return bool(found["mode"] >> 31)


def _put(http: Http, name: str, directory: str, file: object, own: bool) -> None:
    from sampan.cli.arguments import chunks

    path = at("/containers/{}/archive", name) + query(path=directory, copyUIDGID=own or None)
    Http(http._path).send("PUT", path, stream=chunks(file)).read()  # type: ignore[arg-type]
