"""POST /build as Docker's classic builder has it, our own /sampan/build for contexts on this machine, and the cache."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime
import os
import shlex
from collections.abc import AsyncIterator, Callable
from typing import Any

from aiohttp import web

from sampan.api import access, agents, conform, decode, peers, schema
from sampan.api.conform import Reader
from sampan.api.json import decode as json_of
from sampan.api.registries import credentials_of
from sampan.api.requests import body, engine_of, filters, flag, json_stream, number, spool
from sampan.build import exporting, sending
from sampan.build.cache import BuildCache, Space
from sampan.build.errors import BuildError
from sampan.build.model import Options, Output, TextOutput
from sampan.engine import hostpaths
from sampan.engine.builds import Builds, Request
from sampan.engine.errors import BadRequest
from sampan.engine.filters import cache as wanted
from sampan.engine.model import HostConfig, Limits
from sampan.engine.policy.caller import Caller
from sampan.engine.registries import platform_of, server_name
from sampan.images.registry.auth import Credentials, from_fields
from sampan.images.store import ImageStore
from sampan.linux.peer import Peer
from sampan.oci import reference
from sampan.runtime import borrowed

_OUTPUT = conform.struct({"Type": conform.text, "Attrs": conform.texts})


def _json(request: web.Request, name: str, shape: Reader) -> Any:
    """A query parameter that is JSON. Raises BadRequest."""
    return schema.check(_plain_json(request, name), shape, name)


def _plain_json(request: web.Request, name: str) -> object:
    text = request.query.get(name)
    return json_of(text, f"invalid {name}") if text else None


def _decoded(text: str, name: str) -> bytes:
    try:
        return base64.b64decode(text)
    except ValueError as error:
        raise BadRequest(f"invalid JSON: {name} is no base64: {error}") from None


def _epoch(args: dict[str, str]) -> int | None:
    text = args.get("SOURCE_DATE_EPOCH") or ""
    if text and not (text.isascii() and text.isdecimal() and len(text) < 12):
        raise BadRequest(f"invalid SOURCE_DATE_EPOCH: {text}")
    return int(text) if text else None


def _tags(tags: list[str]) -> list[str]:
    for tag in tags:
        if reference.parse(tag).digest:
            raise BadRequest(f"refusing to create a tag with a digest reference: {tag}")
    return tags


def _host_config(request: web.Request) -> HostConfig:
    """The limits and extra hosts of the steps."""

    def size(name: str) -> int:
        return number(request, name) or 0

    hosts = (item for text in request.query.getall("extrahosts", []) for item in text.split(",") if item)
    return HostConfig(
        extra_hosts=tuple(hosts),
        ulimits=decode.ulimits(_plain_json(request, "ulimits"), "ulimits"),
        shm_size=size("shmsize"),
        limits=Limits(
            memory=size("memory"), memory_swap=size("memswap"), cpu_shares=size("cpushares"), cpu_quota=size("cpuquota"),
            cpu_period=size("cpuperiod"), cpuset_cpus=request.query.get("cpusetcpus", ""),
            cpuset_mems=request.query.get("cpusetmems", ""),
        ),
    )  # fmt: skip


def _options(request: web.Request) -> Options:
    args = {key: value for key, value in _json(request, "buildargs", schema.BuildArgs).items() if value is not None}
    return Options(
        platform=platform_of(request.query.get("platform", "")),
        target=request.query.get("target", ""),
        build_args=args,
        labels=_json(request, "labels", conform.texts),
        tags=_tags([tag for tag in request.query.getall("t", []) if tag]),
        no_cache=flag(request, "nocache"),
        pull=flag(request, "pull"),
        network=request.query.get("networkmode", ""),
        host=_host_config(request),
        epoch=_epoch(args),
        squash=flag(request, "squash"),
        cache_from=_json(request, "cachefrom", conform.strings),
        inline_cache=args.get("BUILDKIT_INLINE_CACHE") == "1",
    )


def _credentials(request: web.Request) -> dict[str, Credentials]:
    """X-Registry-Config: AuthConfigs by server, JSON in base64url."""
    text = request.headers.get("X-Registry-Config")
    if not text:
        return {}
    try:
        found = json_of(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), "invalid X-Registry-Config header")
        servers = schema.check(found, schema.AuthConfigs, "X-Registry-Config")
        return {server_name(server): from_fields(fields) for server, fields in servers.items()}
    except ValueError as error:
        raise BadRequest(f"invalid X-Registry-Config header: {error}") from None


def _check(request: web.Request) -> None:
    """Refuses what Docker refuses, and what Docker's builder does and this one does not. Raises BadRequest."""
    query = request.query
    if query.get("version") not in (None, "", "1", "2"):
        raise BadRequest(f'invalid version "{query["version"]}"')
    if query.getall("securityopt", []):
        raise BadRequest("security options are not supported on linux")
    if query.get("isolation") not in (None, "", "default"):
        raise BadRequest(f'unsupported isolation: "{query["isolation"]}"')
    outputs = conform.conform(_plain_json(request, "outputs"), conform.each(_OUTPUT), "outputs")
    for output in outputs:
        if output.get("Type") not in (None, "", "moby", "image", "docker"):
            raise BadRequest(
                f"outputs: {output['Type']}: only images come of a build that is asked for so: use `docker buildx build`"
            )


async def build(request: web.Request) -> web.StreamResponse:
    """POST /build"""
    engine = engine_of(request)
    _check(request)
    if request.query.get("version") == "2":
        return await _build_in_session(request)
    asked = Request(access.who(request), _options(request), request.query.get("dockerfile") or "Dockerfile", remote=request.query.get("remote", ""),
                    credentials=_credentials(request))  # fmt: skip
    if not asked.remote:
        asked.archive = await spool(request, engine.data_root)
    quiet = flag(request, "q")
    try:
        return await json_stream(request, _image(engine.builds, asked, quiet))
    finally:
        if asked.archive is not None:
            asked.archive.close()


async def _build_in_session(request: web.Request) -> web.StreamResponse:
    from sampan.api.buildkit import classic  # gRPC and protobuf: 30 ms and 9 MB, for those who build with them

    engine, buildkit = engine_of(request), _buildkit(request)
    identifier = request.query.get("buildid", "")
    if identifier.startswith(f"{classic.UPLOAD}:"):
        # The context of another request, on standard input: kept until that one has ended.
        waiting = buildkit.upload(access.who(request), identifier.partition(":")[2])
        with await spool(request, engine.data_root) as file:
            waiting.ready.set_result(f"/proc/{os.getpid()}/fd/{file.fileno()}")
            await waiting.done.wait()
        return web.Response()
    upload = None
    waiting = (
        buildkit.upload(access.who(request), identifier) if request.query.get("remote") == classic.UPLOAD else None
    )
    try:
        if waiting is not None:
            upload = await asyncio.wait_for(asyncio.shield(waiting.ready), 60)
        return await json_stream(
            request, classic.messages(engine.builds, access.who(request), buildkit.sessions, request, upload)
        )
    finally:
        if waiting is not None:
            waiting.done.set()
            buildkit.uploads.pop((access.who(request).owner, identifier), None)


async def _image(builds: Builds, asked: Request, quiet: bool) -> AsyncIterator[dict[str, Any]]:
    async def made(out: Output) -> list[dict[str, Any]]:
        image = await builds.image(asked, out)
        tagged = [
            f"Successfully tagged {reference.parse(tag).with_default_tag().familiar}\n" for tag in asked.options.tags
        ]
        lines = [f"{image.id}\n"] if quiet else [f"Successfully built {image.id[7:19]}\n", *tagged]
        return [{"aux": {"ID": image.id}}, *({"stream": line} for line in lines)]

    async for message in _told(made, quiet):
        yield message


async def _told(make: Callable[[Output], Any], quiet: bool) -> AsyncIterator[dict[str, Any]]:
    """What a build says, as messages, then those it ends with."""
    queue: asyncio.Queue[str | None] = asyncio.Queue()
    task = asyncio.ensure_future(make(TextOutput(queue.put_nowait)))
    task.add_done_callback(lambda _: queue.put_nowait(None))
    try:
        while (text := await queue.get()) is not None:
            if not quiet:
                yield {"stream": text}
        for message in await task:
            yield message
    except BuildError as error:
        yield {
            "errorDetail": {"code": error.code, "message": str(error)} if error.code else {"message": str(error)},
            "error": str(error),
        }
    finally:
        task.cancel()  # the client is gone: its build ends (P115)
        await asyncio.gather(task, return_exceptions=True)


async def build_here(request: web.Request) -> web.StreamResponse:
    """POST /sampan/build: as /build, the options and the context's path in the body; also with secrets, ssh and other outputs."""
    engine, asked = engine_of(request), schema.check(await body(request), schema.Build)
    wanted = _request_of(access.who(request), asked)
    output = asked.get("output") or {"type": "image"}
    if output["type"] not in ("image", "local"):
        raise BadRequest(f"unknown output type {output['type']!r}")
    async with contextlib.AsyncExitStack() as stack:

        async def opened(path: str, kind: str) -> int:
            fd = await peers.opened(request, who, path, kind)
            stack.callback(os.close, fd)
            return fd

        target = -1
        if asked.get("context") or asked.get("ssh") or output["type"] == "local":
            who = await stack.enter_async_context(peers.client(request, "a path"))
            if asked.get("context"):
                _use(wanted, who, await opened(asked["context"], borrowed.DIRECTORY))
            sockets = {name: await opened(path, borrowed.SOCKET) for name, path in (asked.get("ssh") or {}).items()}
            wanted.options.ssh.update(await stack.enter_async_context(agents.relayed(sockets, engine.builds.work)))
            if output["type"] == "local":
                target = await opened(output["dest"], borrowed.DIRECTORY)
        if target < 0:
            return await json_stream(request, _image(engine.builds, wanted, bool(asked.get("quiet"))))
        return await json_stream(request, _files(engine.builds, engine.images, wanted, who, target))


def _use(wanted: Request, who: Peer, context: int) -> None:
    """Takes a context as it is where that gives its client nothing it has not, else a copy that is made as the client."""
    if who.every and hostpaths.here(context):
        wanted.directory = context
    else:
        wanted.bring = lambda target: sending.bring(who, context, target, wanted.dockerfile, wanted.ignore)


def _request_of(who: Caller, asked: dict[str, Any]) -> Request:
    args = dict(asked.get("buildargs") or {})
    options = Options(
        platform=platform_of(asked.get("platform") or ""),
        target=asked.get("target") or "",
        build_args=args,
        labels=dict(asked.get("labels") or {}),
        tags=_tags(list(asked.get("tags") or [])),
        no_cache=bool(asked.get("nocache")),
        no_cache_filter=list(asked.get("nocachefilter") or []),
        pull=bool(asked.get("pull")),
        network=asked.get("network") or "",
        secrets={name: _decoded(data, f"secrets.{name}") for name, data in (asked.get("secrets") or {}).items()},
        contexts=dict(asked.get("contexts") or {}),
        entitlements=set(asked.get("entitlements") or []),
        host=asked.get("host") or HostConfig(),
        epoch=_epoch(args),
        squash=bool(asked.get("squash")),
        cache_from=list(asked.get("cachefrom") or []),
        inline_cache=bool(asked.get("inlinecache")) or args.get("BUILDKIT_INLINE_CACHE") == "1",
    )
    encoded = {key: _decoded(asked[key], key) for key in ("text", "ignore") if asked.get(key) is not None}
    return Request(who, options, asked.get("dockerfile") or "Dockerfile", encoded.get("text"), encoded.get("ignore"),
                     remote=asked.get("remote") or "",
                     credentials={server_name(s): credentials_of(f) for s, f in (asked.get("auths") or {}).items()})  # fmt: skip


async def _files(
    builds: Builds, images: ImageStore, asked: Request, who: Peer, target: int
) -> AsyncIterator[dict[str, Any]]:
    async def made(out: Output) -> list[dict[str, Any]]:
        async with builds.state(asked, out) as state:
            if who.every:
                await asyncio.to_thread(exporting.export_directory, images, state, target)
            else:
                await asyncio.to_thread(
                    sending.put, who, target, lambda stream: exporting.export_tar(images, state, stream)
                )
        return []

    async for message in _told(made, False):
        yield message


BUILDKIT: web.AppKey[list[Any]] = web.AppKey("buildkit", list)


def _buildkit(request: web.Request) -> Any:
    """BuildKit's side of the engine. gRPC is loaded for those who use it."""
    from sampan.api.buildkit import routes  # gRPC: see _build_in_session

    holder = request.app[BUILDKIT]
    if not holder:
        engine = engine_of(request)
        holder.append(routes.BuildKit(engine.builds, engine.images, engine.registries, engine.gate))
    return holder[0]


async def grpc(request: web.Request) -> web.StreamResponse:
    """POST /grpc"""
    from sampan.api.buildkit import routes  # gRPC: see _build_in_session

    # Shielded: aiohttp ends its handlers when it sees the connection go, and it has given this one away.
    await asyncio.shield(engine_of(request).tasks.beside(routes.serve(_buildkit(request), request)))
    return web.Response()


async def session(request: web.Request) -> web.StreamResponse:
    """POST /session"""
    await asyncio.shield(engine_of(request).tasks.beside(_buildkit(request).sessions.serve(request)))
    return web.Response()


async def prune(request: web.Request) -> web.Response:
    """POST /build/prune: what no image has, unless it is to be `all`."""
    cache, passes = engine_of(request).builds.cache, wanted.pruned(filters(request))
    space = Space(
        number(request, "reserved-space") or number(request, "keep-storage") or 0,
        number(request, "max-used-space") or 0,
        number(request, "min-free-space") or 0,
    )
    keys, freed = await asyncio.to_thread(cache.prune, wanted.loose(passes, cache, flag(request, "all")), space)
    return web.json_response({"CachesDeleted": keys, "SpaceReclaimed": freed})


def cache_rows(cache: BuildCache) -> list[dict[str, object]]:
    """The build cache, as /system/df shows it."""

    def shown(seconds: float) -> str:
        return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    shared = cache.shared()
    return [
        {"ID": row.key[:25], "Type": "regular", "Description": shlex.join(row.description.split()), "InUse": False, "Shared": shared(row),
         "Size": row.size, "CreatedAt": shown(row.created), "LastUsedAt": shown(row.used), "UsageCount": 1}
        for row in cache.all()
    ]  # fmt: skip
