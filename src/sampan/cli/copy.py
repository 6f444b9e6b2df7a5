"""cp between the host and a container."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import sys
import tarfile
import tempfile

from sampan.cli.flags import UsageError
from sampan.cli.results import result
from sampan.cli.session import write_all
from sampan.client.http import APIError, Http, query
from sampan.linux import filetree


def _split(text: str) -> tuple[str, str]:
    """(container, path); a name with a slash or dot in front of the colon is a path on the host."""
    name, colon, path = text.partition(":")
    if not colon or "/" in name or name.startswith("."):
        return "", text
    return name, path


def copy(http: Http, source: str, target: str, follow: bool) -> int:
    """Copies one way; "-" is a tar on stdin or stdout. Raises APIError, UsageError."""
    source_name, source_path = _split(source)
    target_name, target_path = _split(target)
    if bool(source_name) == bool(target_name):
        raise UsageError("copying needs one side in a container: CONTAINER:PATH")
    if source_name:
        return _from_container(http, source_name, source_path, target_path)
    return _to_container(http, source_path, target_name, target_path, follow)


def _from_container(http: Http, name: str, path: str, target: str) -> int:
    response = http.send("GET", f"/containers/{name}/archive" + query(path=path))
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
    """Writes the members below `target`, by the extractor that trusts no name in the archive."""
    from importlib import import_module

    extract = import_module("sampan.images.extract")
    contents_only = path.endswith("/.")
    if os.path.isdir(target):
        directory, rename = target, "" if not contents_only else "."
    else:
        if target.endswith("/"):
            raise UsageError(f"destination directory does not exist: {target}")
        directory, rename = os.path.dirname(os.path.abspath(target)), os.path.basename(target)
    if not os.path.isdir(directory):
        raise UsageError(f"destination directory does not exist: {directory}")
    staging = tempfile.mkdtemp(dir=directory, prefix=".sampan-cp-")
    try:
        fd = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            extract.Extractor(fd, owner=(os.getuid(), os.getgid())).extract(spool)
        finally:
            os.close(fd)
        for name in os.listdir(staging):
            inside = contents_only and rename == "."
            _move(f"{staging}/{name}", directory if inside else f"{directory}/{rename or name}")
    finally:
        filetree.remove(staging)


def _move(source: str, target: str) -> None:
    """Puts what is at `source` at `target`, on the same file system: into directories that are there, over files."""
    waiting = [(source, target)]
    while waiting:
        source, target = waiting.pop()
        above = os.path.isdir(target)
        if not os.path.isdir(source) or os.path.islink(source):
            if above:
                raise UsageError(f"cannot overwrite directory {target} with a file")
            _move_file(source, target)
        elif above:
            with contextlib.suppress(PermissionError):  # it is somebody else's
                shutil.copystat(source, target)
            waiting += [(f"{source}/{name}", f"{target}/{name}") for name in os.listdir(source)]
        else:
            _move_file(source, target)


def _move_file(source: str, target: str) -> None:
    """A rename, but a device or a pipe is written to, and what a link leads to is replaced."""
    kind = stat.S_IFMT(os.lstat(source).st_mode)
    if not os.path.lexists(target) or (os.path.isfile(target) and not os.path.islink(target)):
        os.replace(source, target)
    elif kind == stat.S_IFREG:
        with open(source, "rb") as file, result(target) as out:
            shutil.copyfileobj(file, out, 1 << 20)
    elif os.path.islink(target):
        os.replace(source, target)
    else:
        raise UsageError(f"{target} is no regular file: it is not replaced")


def _to_container(http: Http, source: str, name: str, target: str, follow: bool) -> int:
    if source == "-":
        _put(http, name, target, sys.stdin.buffer)
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
        with tarfile.open(fileobj=spool, mode="w", dereference=follow) as tar:
            tar.add(source, arcname=member, filter=_as_root)
        spool.seek(0)
        _put(http, name, directory, spool)
    return 0


def _as_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uname = member.gname = ""
    return member


def _is_directory(http: Http, name: str, path: str) -> bool:
    import base64
    import json

    try:
        response = http.send("HEAD", f"/containers/{name}/archive" + query(path=path.rstrip("/") + "/."))
    except APIError as error:
        if error.status == 404:
            return False
        raise
    found = json.loads(base64.b64decode(response.headers["x-docker-container-path-stat"]))
    return bool(found["mode"] >> 31)


def _put(http: Http, name: str, directory: str, file: object) -> None:
    from sampan.cli.arguments import chunks

    Http(http._path).send("PUT", f"/containers/{name}/archive" + query(path=directory), stream=chunks(file)).read()  # type: ignore[arg-type]
