"""cp, export, commit and diff: a container's files through the API."""

from __future__ import annotations

import base64
import contextlib
import json
import posixpath
import stat
from typing import IO

from aiohttp import web

from sampan.api import access, decode, piped
from sampan.api.requests import body, engine_of, flag, spool
from sampan.engine import pools
from sampan.engine.container import Container, timestamp
from sampan.engine.errors import BadRequest, NotFound
from sampan.engine.files import Files
from sampan.images import compression
from sampan.oci import reference


def _path(request: web.Request) -> str:
    """The path in the query as Docker reads it: ".." is of the text, and a "/" or "/." at its end means what a link there leads to."""
    path = request.query.get("path", "")
    if not path:
        raise BadRequest("missing query parameter 'path'")
    clean = posixpath.normpath("/" + path.lstrip("/"))
    last = path.rpartition("/")[2]
    if clean == "/":
        return "/." if last == "." else "/"
    return f"{clean}/{'.' if last == '.' else ''}" if last in ("", ".") else clean


def _stat_header(request: web.Request) -> str:
    engine, container = access.container(request)
    path = _path(request)
    found = engine.files.path_stat(container, path)
    if path.endswith(("/", "/.")) and not stat.S_ISDIR(found["mode"]):
        raise NotFound(f"Could not find the file {path} in container {container.name}: not a directory")
    shown = {
        "name": posixpath.basename(path.rstrip("/")) or "/",
        "size": found["size"],
        "mode": _go_mode(found["mode"]),
        "mtime": timestamp(found["mtime"]),
        "linkTarget": found["link"],
    }
    return base64.b64encode(json.dumps(shown).encode()).decode()


def _go_mode(mode: int) -> int:
    """Go's os.FileMode bits of a stat mode, as the API sends them."""
    value = mode & 0o777
    kinds = {stat.S_IFDIR: 1 << 31, stat.S_IFLNK: 1 << 27, stat.S_IFBLK: 1 << 26, stat.S_IFIFO: 1 << 25,
             stat.S_IFSOCK: 1 << 24, stat.S_IFCHR: 1 << 26 | 1 << 21}  # fmt: skip
    value |= kinds.get(stat.S_IFMT(mode), 0)
    for bit, go in ((stat.S_ISUID, 1 << 23), (stat.S_ISGID, 1 << 22), (stat.S_ISVTX, 1 << 20)):
        value |= go if mode & bit else 0
    return value


async def head_archive(request: web.Request) -> web.Response:
    """HEAD /containers/{id}/archive"""
    header = await pools.run("look", _stat_header, request)
    return web.Response(headers={"X-Docker-Container-Path-Stat": header})


async def get_archive(request: web.Request) -> web.StreamResponse:
    """GET /containers/{id}/archive"""
    engine, container = access.container(request)
    path = _path(request)
    header = await pools.run("look", _stat_header, request)
    engine.events.announce(container, "archive-path")
    return await piped.answer(
        request,
        "archives of files",
        lambda out: engine.files.get_archive(container, path, out),
        {"X-Docker-Container-Path-Stat": header},
    )


def _unpack(files: Files, container: Container, path: str, file: IO[bytes], keep_type: bool, own: bool) -> None:
    files.put_archive(container, path, compression.decompress(file), keep_type, own)


async def put_archive(request: web.Request) -> web.Response:
    """PUT /containers/{id}/archive"""
    engine, container = access.container(request)
    path = _path(request)
    keep_type, own = flag(request, "noOverwriteDirNonDir"), flag(request, "copyUIDGID")
    with await spool(request, engine.data_root) as file:
        await pools.run("archive", _unpack, engine.files, container, path, file, keep_type, own)
    engine.events.announce(container, "extract-to-dir")
    return web.Response(status=200)


async def export(request: web.Request) -> web.StreamResponse:
    """GET /containers/{id}/export"""
    engine, container = access.container(request)
    engine.events.announce(container, "export")
    return await piped.answer(request, "exports", lambda out: engine.files.export(container, out))


async def changes(request: web.Request) -> web.Response:
    """GET /containers/{id}/changes"""
    engine, container = access.container(request)
    rows = await pools.run("look", engine.files.changes, container)
    return web.json_response([{"Path": path, "Kind": kind} for path, kind in rows] or None)


async def commit(request: web.Request) -> web.Response:
    """POST /commit"""
    engine = engine_of(request)
    container = engine.finding.container(access.who(request), request.query.get("container", ""), access.verb(request))
    config = decode.config(await body(request, optional=True))
    changes = request.query.getall("changes", [])
    name = request.query.get("repo", "")
    if name and request.query.get("tag"):
        name += f":{request.query['tag']}"
    comment, author = request.query.get("comment", ""), request.query.get("author", "")
    still = engine.freezing.still(container) if flag(request, "pause", True) else contextlib.nullcontext()
    coming = engine.arrivals.of(access.who(request))
    async with still:
        image = await pools.run(
            "commit", engine.files.commit, container, name, comment, author, config, changes, coming.check
        )
    named = reference.parse(name).familiar if name else ""
    if named:
        coming.announce("tag", image, image.id, named)
    engine.events.announce(container, "commit", comment=comment, imageID=image.id, imageRef=named)
    return web.json_response({"Id": image.id}, status=201)
