"""cp, export, commit and diff: a container's files through the API."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
from collections.abc import Callable
from typing import IO

from aiohttp import web

from sampan.api.requests import body, engine_of, flag, spool
from sampan.engine import files, freezing
from sampan.engine.errors import BadRequest
from sampan.images import compression


async def stream_from_thread(
    request: web.Request, produce: Callable[[IO[bytes]], None], headers: dict[str, str] | None = None
) -> web.StreamResponse:
    """Sends what `produce` writes into a pipe, in a thread. An error before the first byte is an error reply."""
    reader, writer = os.pipe()

    def run() -> None:
        with os.fdopen(writer, "wb") as out:
            produce(out)

    loop = asyncio.get_running_loop()
    source = os.fdopen(reader, "rb", buffering=0)
    task = loop.run_in_executor(None, run)
    try:
        first = await asyncio.to_thread(source.read, 1 << 18)
        if not first:
            await task
        response = web.StreamResponse(headers={"Content-Type": "application/x-tar", **(headers or {})})
        await response.prepare(request)
        while first:
            await response.write(first)
            first = await asyncio.to_thread(source.read, 1 << 18)
    finally:
        source.close()
    try:
        await task
    except BrokenPipeError:
        pass
    return response


def _path(request: web.Request) -> str:
    path = request.query.get("path", "")
    if not path:
        raise BadRequest("missing query parameter 'path'")
    return path


def _stat_header(request: web.Request) -> str:
    engine = engine_of(request)
    found = files.path_stat(engine, engine.find(request.match_info["id"]), _path(request))
    return base64.b64encode(json.dumps(found).encode()).decode()


async def head_archive(request: web.Request) -> web.Response:
    """HEAD /containers/{id}/archive"""
    header = await asyncio.to_thread(_stat_header, request)
    return web.Response(headers={"X-Docker-Container-Path-Stat": header})


async def get_archive(request: web.Request) -> web.StreamResponse:
    """GET /containers/{id}/archive"""
    engine = engine_of(request)
    container, path = engine.find(request.match_info["id"]), _path(request)
    header = await asyncio.to_thread(_stat_header, request)
    return await stream_from_thread(
        request,
        lambda out: files.get_archive(engine, container, path, out),
        {"X-Docker-Container-Path-Stat": header},
    )


async def put_archive(request: web.Request) -> web.Response:
    """PUT /containers/{id}/archive"""
    engine = engine_of(request)
    container, path = engine.find(request.match_info["id"]), _path(request)
    keep_type = flag(request, "noOverwriteDirNonDir")
    with await spool(request, engine.data_root) as file:
        plain = compression.decompress(file)
        await asyncio.to_thread(files.put_archive, engine, container, path, plain, keep_type)
    return web.Response(status=200)


async def export(request: web.Request) -> web.StreamResponse:
    """GET /containers/{id}/export"""
    engine = engine_of(request)
    container = engine.find(request.match_info["id"])
    return await stream_from_thread(request, lambda out: files.export(engine, container, out))


async def changes(request: web.Request) -> web.Response:
    """GET /containers/{id}/changes"""
    engine = engine_of(request)
    rows = await asyncio.to_thread(files.changes, engine, engine.find(request.match_info["id"]))
    return web.json_response(rows or None)


_LISTS = {"CMD": "Cmd", "ENTRYPOINT": "Entrypoint"}


def parse_changes(lines: list[str]) -> dict[str, object]:
    """`--change` instructions as image configuration. Raises BadRequest for one that is not allowed."""
    import shlex

    config: dict[str, object] = {}
    for line in lines:
        word, _, rest = line.strip().partition(" ")
        word, rest = word.upper(), rest.strip()
        if word in _LISTS:
            try:
                config[_LISTS[word]] = json.loads(rest) if rest.startswith("[") else ["/bin/sh", "-c", rest]
            except ValueError as error:
                raise BadRequest(f"{line!r}: {error}") from error
        elif word in ("ENV", "LABEL"):
            pairs = shlex.split(rest) if "=" in rest.split(" ")[0] else [rest.replace(" ", "=", 1)]
            if word == "ENV":
                config["Env"] = [*config.get("Env", []), *pairs]  # type: ignore[misc]
            else:
                labels = dict(pair.partition("=")[::2] for pair in pairs)
                config["Labels"] = {**config.get("Labels", {}), **labels}  # type: ignore[dict-item]
        elif word in ("USER", "WORKDIR", "STOPSIGNAL"):
            config[{"USER": "User", "WORKDIR": "WorkingDir", "STOPSIGNAL": "StopSignal"}[word]] = rest
        elif word in ("EXPOSE", "VOLUME"):
            names = json.loads(rest) if rest.startswith("[") else rest.split()
            if word == "EXPOSE":
                names = [name if "/" in name else f"{name}/tcp" for name in names]
            config["ExposedPorts" if word == "EXPOSE" else "Volumes"] = {name: {} for name in names}
        else:
            raise BadRequest(f"{word} is not a valid change command")
    return config


async def commit(request: web.Request) -> web.Response:
    """POST /commit"""
    engine = engine_of(request)
    container = engine.find(request.query.get("container", ""))
    config = {**await body(request, optional=True), **parse_changes(request.query.getall("changes", []))}
    name = request.query.get("repo", "")
    if name and request.query.get("tag"):
        name += f":{request.query['tag']}"
    comment = request.query.get("comment", "")
    async with freezing.still(engine, container) if flag(request, "pause", True) else contextlib.nullcontext():
        image = await asyncio.to_thread(files.commit, engine, container, name, comment, config)
    return web.json_response({"Id": image.id}, status=201)
