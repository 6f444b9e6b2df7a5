"""From the attributes of a `dockerfile.v0` solve to a build of ours."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import os
import tempfile
from collections.abc import AsyncIterator

from sampan.api.buildkit import agents, filesync
from sampan.api.buildkit.sessions import Session
from sampan.build import dockerfile, running
from sampan.build.errors import BuildError
from sampan.build.file_tree import Tree
from sampan.build.model import Options
from sampan.engine.builds import Request
from sampan.engine.model import HostConfig
from sampan.engine.policy.caller import Caller
from sampan.images.registry.auth import Credentials
from sampan.linux import filetree
from sampan.oci import manifest as oci
from sampan.oci import reference
from sampan.oci.reference import DEFAULT_REGISTRY

_UPLOAD = "http://buildkit-session/"


def _prefixed(attributes: dict[str, str], prefix: str) -> dict[str, str]:
    return {key[len(prefix) :]: value for key, value in attributes.items() if key.startswith(prefix)}


def _hosts(text: str) -> list[str]:
    rows = [item.partition("=") for item in next(csv.reader([text]), [])]
    return [f"{name}:{address}" for name, _, address in rows]


def options_of(attributes: dict[str, str], entitlements: list[str]) -> Options:
    """The options in a solve's attributes. Raises BuildError."""
    platforms = [item for item in attributes.get("platform", "").split(",") if item]
    if len(platforms) > 1:
        raise BuildError("multiple platforms are not supported in one build: build one --platform at a time")
    try:
        platform = oci.parse_platform(platforms[0]) if platforms else oci.host_platform()
    except oci.BadManifest as error:
        raise BuildError(str(error)) from None
    args = _prefixed(attributes, "build-arg:")
    epoch = args.get("SOURCE_DATE_EPOCH", "")
    if epoch and not epoch.isdecimal():
        raise BuildError(f"invalid SOURCE_DATE_EPOCH: {epoch}")
    filters = [item for item in attributes.get("no-cache", "").split(",") if item]
    size = attributes.get("shm-size", "")
    host = HostConfig(
        extra_hosts=tuple(_hosts(attributes.get("add-hosts", ""))), shm_size=int(size) if size.isdecimal() else 0
    )
    return Options(
        platform=platform,
        target=attributes.get("target", ""),
        build_args=args,
        labels=_prefixed(attributes, "label:"),
        no_cache="no-cache" in attributes and not filters,
        no_cache_filter=filters,
        pull=attributes.get("image-resolve-mode") == "pull",
        network=attributes.get("force-network-mode", ""),
        contexts=_prefixed(attributes, "context:"),
        entitlements=set(entitlements),
        host=host,
        epoch=int(epoch) if epoch else None,
        cache_from=[item for item in attributes.get("cache-from", "").split(",") if item],
        inline_cache=args.get("BUILDKIT_INLINE_CACHE") == "1",
    )


@contextlib.asynccontextmanager
async def prepared(
    directory: str,
    who: Caller,
    session: Session,
    attributes: dict[str, str],
    entitlements: list[str],
    upload: str | None = None,
) -> AsyncIterator[Request]:
    """A build request with its context, secrets, agents and credentials brought over from the client.

    `directory` is where it may work. `upload`: a file with the context's tar, when that has come another way.
    """
    rootfd = -1
    request = Request(who, options_of(attributes, entitlements), attributes.get("filename") or "Dockerfile")
    work = await asyncio.to_thread(tempfile.mkdtemp, dir=directory)
    try:
        os.mkdir(f"{work}/context")
        rootfd = os.open(f"{work}/context", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if upload is not None:
            request.archive = open(upload, "rb")
        else:
            await _bring(session, attributes, request, rootfd, work)
        async with _extras(session, request, work):
            yield request
    finally:
        if request.archive is not None:
            request.archive.close()
        if rootfd >= 0:
            os.close(rootfd)
        await asyncio.to_thread(filetree.remove, work, True)


async def _bring(session: Session, attributes: dict[str, str], request: Request, rootfd: int, work: str) -> None:
    """The Dockerfile and the context: directories of the client's, an upload, or a URL."""
    remote = attributes.get("context", "")
    name = request.dockerfile
    if remote.startswith(_UPLOAD):
        await filesync.fetch_upload(session, remote.removeprefix(_UPLOAD), f"{work}/upload")
        request.archive = open(f"{work}/upload", "rb")
        if "dockerfilekey" in attributes:
            request.text = await _dockerfile(session, attributes, name, work)
        return
    if remote:
        request.remote = remote
        if "dockerfilekey" in attributes:
            request.text = await _dockerfile(session, attributes, name, work)
        return
    request.text = await _dockerfile(session, attributes, name, work)
    key = attributes.get("contextkey") or "context"
    ignore = await _file(session, attributes.get("dockerfilekey") or "dockerfile", f"{name}.dockerignore", work)
    if ignore is None:
        ignore = await _file(session, key, ".dockerignore", work)
    exclude = []
    for line in (ignore or b"").decode("utf-8", "replace").splitlines():
        text = line.strip()
        if text and not text.startswith("#"):
            exclude.append(text)
    await filesync.receive(session, key, rootfd, exclude=exclude)
    request.ignore, request.directory = ignore or b"", rootfd


async def _dockerfile(session: Session, attributes: dict[str, str], name: str, work: str) -> bytes:
    found = await _file(session, attributes.get("dockerfilekey") or "dockerfile", name, work)
    if found is None:
        raise BuildError(f"failed to read dockerfile: open {name}: no such file or directory")
    return found


async def _file(session: Session, directory: str, name: str, work: str) -> bytes | None:
    """One file of a directory of the client's."""
    with running.directory(f"{work}/one") as path:
        rootfd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            await filesync.receive(session, directory, rootfd, include=[name])
            return Tree(rootfd).read(name)
        finally:
            os.close(rootfd)


@contextlib.asynccontextmanager
async def _extras(session: Session, request: Request, work: str) -> AsyncIterator[None]:
    """Secrets, agents and credentials that the Dockerfile will ask for."""
    secrets, ssh, images = _wanted(request)
    for name in secrets:
        data = await session.secret(name)
        if data is not None:
            request.options.secrets[name] = data
    for name in images:
        with contextlib.suppress(reference.BadReference):
            registry = reference.parse(name).registry
            host = "https://index.docker.io/v1/" if registry == DEFAULT_REGISTRY else registry
            found = await session.credentials(host)
            request.credentials[registry] = found if not found.anonymous else Credentials()
    async with agents.forwarded(session, ssh, work) as sockets:
        request.options.ssh.update(sockets)
        yield


def _wanted(request: Request) -> tuple[set[str], set[str], set[str]]:
    """(secrets, agents, images) that the Dockerfile names, as far as its text tells."""
    secrets: set[str] = set()
    ssh: set[str] = set()
    images: set[str] = set()
    if request.text is None:
        return secrets, ssh, images
    for instruction in dockerfile.parse(request.text).instructions:
        if instruction.name == "FROM":
            images.add(instruction.text.split()[0])
        images.update(instruction.flags.get("from", []))
        for text in instruction.flags.get("mount", []):
            fields = dict(item.partition("=")[::2] for item in next(csv.reader([text]), []))
            kind = fields.get("type", "bind")
            target = fields.get("target") or fields.get("dst") or fields.get("destination") or ""
            if kind == "secret":
                secrets.add(fields.get("id") or os.path.basename(target))
            elif kind == "ssh":
                ssh.add(fields.get("id") or "default")
            elif "from" in fields:
                images.add(fields["from"])
    return secrets, ssh, images
