"""Pulls and pushes as the engine does them: shared by those who want the same, ended when nobody listens."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import msgspec

from sampan.engine.arrivals import Arrivals
from sampan.engine.errors import BadRequest, NotFound
from sampan.engine.finding import Finding
from sampan.engine.policy.caller import Caller
from sampan.engine.policy.gate import Gate
from sampan.engine.policy.operation import Verb
from sampan.engine.tasks import Tasks
from sampan.images.errors import ImageNotFound
from sampan.images.image import Image
from sampan.images.registry.auth import Credentials
from sampan.images.registry.client import Registry
from sampan.images.registry.errors import RegistryError
from sampan.images.registry.hosts import Hosts
from sampan.images.registry.progress import Message, Progress
from sampan.images.registry.pull import Found, Pull, pull_scope, resolve
from sampan.images.registry.push import Push
from sampan.images.store import ImageStore
from sampan.oci import documents, reference
from sampan.oci import manifest as oci
from sampan.oci.manifest import Platform
from sampan.oci.reference import DEFAULT_REGISTRY, Reference

_PAGE = 1000
_MOST_PAGES = 100


@dataclass(slots=True)
class _Running:
    """A pull that goes on, and how many listen to it."""

    progress: Progress
    task: asyncio.Task[object]
    listeners: int = 0


class SearchResult(msgspec.Struct, frozen=True):
    """An image that a search has found, as Docker Hub tells of it."""

    name: str
    description: str | None = ""
    star_count: int = 0
    is_official: bool = False
    is_automated: bool = False


class Registries:
    """The registries an engine talks to."""

    def __init__(
        self, hosts: Hosts, images: ImageStore, arrivals: Arrivals, finding: Finding, gate: Gate, tasks: Tasks
    ) -> None:
        self._hosts, self._images, self._arrivals, self._finding, self._gate = hosts, images, arrivals, finding, gate
        self._tasks = tasks
        self._running: dict[tuple[Any, ...], _Running] = {}

    def _registry(self, name: str, credentials: Credentials, push: bool = False) -> Registry:
        return Registry(self._hosts, name, credentials, push)

    async def pull(
        self, who: Caller, ref: Reference, platform: str, credentials: Credentials
    ) -> AsyncIterator[Message]:
        """Pulls one reference for somebody; yields Docker's messages. Raises RegistryError, ImageError, BadRequest."""
        wanted = platform_of(platform)
        key = (who.owner, ref, wanted, credentials)
        running = self._running.get(key)
        if running is None:
            progress = Progress()
            task = self._tasks.beside(self._pull(who, ref, wanted, credentials, progress))
            running = self._running[key] = _Running(progress, task)

            def ended(_: asyncio.Task[object]) -> None:
                self._running.pop(key, None)
                progress.end()

            task.add_done_callback(ended)
        async for message in self._listen(running):
            yield message

    async def _listen(self, running: _Running) -> AsyncIterator[Message]:
        queue = running.progress.listen()
        running.listeners += 1
        try:
            while not running.task.done() or not queue.empty():
                message = await queue.get()
                if message is None:
                    break
                yield message
            await running.task
        finally:
            running.progress.forget(queue)
            running.listeners -= 1
            if not running.listeners:
                running.task.cancel()  # nobody is there to want it any more (P115)

    async def _pull(
        self, who: Caller, ref: Reference, platform: Platform, credentials: Credentials, progress: Progress
    ) -> None:
        try:
            before = self._images.index.find(str(ref)).id
        except ImageNotFound:
            before = ""
        coming = self._arrivals.of(who)
        async with self._registry(ref.registry, credentials) as registry:
            signed = self._gate.wants_signatures
            image = await Pull(self._images, registry, ref, platform, progress, signed, coming.check).run()
        news = "Image is up to date" if image.id == before else "Downloaded newer image"
        progress.say(f"Status: {news} for {ref.familiar}")
        coming.announce("pull", image, ref.familiar, ref.familiar_name)

    async def tags(self, ref: Reference, credentials: Credentials) -> list[str]:
        """All tags of a repository (`pull --all-tags`)."""
        async with self._registry(ref.registry, credentials) as registry:
            path = f"v2/{ref.repository}/tags/list?n={_PAGE}"
            return await _listed(registry, path, pull_scope(ref.repository), "tags")

    async def push(self, who: Caller, ref: Reference, credentials: Credentials) -> AsyncIterator[Message]:
        """Pushes one reference. Raises NotFound when there is no such image, RegistryError."""
        try:
            image = self._finding.image(who, str(ref), Verb.PUSH)
        except ImageNotFound:
            raise NotFound(f"An image does not exist locally with the tag: {ref.familiar_name}") from None
        progress = Progress()
        task = self._tasks.beside(self._push(ref, credentials, image, progress))
        task.add_done_callback(lambda _: progress.end())
        async for message in self._listen(_Running(progress, task)):
            yield message
        digest, size = task.result()
        yield {"progressDetail": {}, "aux": {"Tag": ref.tag, "Digest": digest, "Size": size}}

    async def _push(
        self, ref: Reference, credentials: Credentials, image: Image, progress: Progress
    ) -> tuple[str, int]:
        async with self._registry(ref.registry, credentials, push=True) as registry:
            return await Push(self._images, registry, ref, progress).run(image)

    async def login(self, server: str, credentials: Credentials) -> None:
        """Tries credentials on a registry. Raises Unauthorized, RegistryError."""
        name = server_name(server)
        if not reference.names_host(name):
            raise BadRequest(f"invalid server address {server[:255]!r}: HOST[:PORT] is wanted")
        async with self._registry(name, credentials, push=True) as registry:
            await registry.small("GET", "v2/", ())

    async def inspect(self, ref: Reference, credentials: Credentials) -> Found:
        """What a reference is in its registry, without pulling it."""
        async with self._registry(ref.registry, credentials) as registry:
            return await resolve(registry, ref.repository, ref.digest or ref.tag)

    async def made_for(self, ref: Reference, found: Found, credentials: Credentials) -> Platform:
        """What platform a manifest's image is made for, as its configuration says; nothing for an index. Raises RegistryError."""
        if not isinstance(found.document, oci.Manifest):
            return Platform()
        digest = found.document.config.digest
        async with self._registry(ref.registry, credentials) as registry:
            path = f"v2/{ref.repository}/blobs/{digest}"
            _, data = await registry.small("GET", path, pull_scope(ref.repository))
        if f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
            raise RegistryError(f"{ref.familiar}: its configuration is not what the manifest lists: refused")
        try:
            document = documents.loads(data)
            fields = [str(document.get(key) or "") for key in ("os", "architecture", "variant")]
        except (ValueError, AttributeError):  # an artifact's
            return Platform()
        return Platform(*fields)

    async def put_index(self, ref: Reference, data: bytes, credentials: Credentials) -> str:
        """Puts a list of manifests, which are in that repository, under a tag there. Returns its digest. Raises BadRequest, RegistryError."""
        try:
            document = oci.parse(data)
        except oci.BadManifest as error:
            raise BadRequest(str(error)) from None
        if not isinstance(document, oci.Index) or not ref.tag:
            raise BadRequest("a list of manifests is wanted, and a name with a tag for it")
        scopes = (f"repository:{ref.repository}:pull,push",)
        async with self._registry(ref.registry, credentials, push=True) as registry:
            path = f"v2/{ref.repository}/manifests/{ref.tag}"
            await registry.small("PUT", path, scopes, {"Content-Type": document.media_type}, data)
        return f"sha256:{hashlib.sha256(data).hexdigest()}"

    async def search(self, term: str, limit: int, credentials: Credentials) -> list[SearchResult]:
        """Images whose name contains the term: by Docker Hub's search, or in a registry's catalogue (HOST/TERM)."""
        host, slash, rest = term.partition("/")
        if slash and ("." in host or ":" in host or host == "localhost") and reference.names_host(host):
            async with self._registry(host, credentials) as registry:
                names = await _listed(registry, f"v2/_catalog?n={_PAGE}", ("registry:catalog:*",), "repositories")
            found = [name for name in names if rest.lower() in name.lower()]
            return [SearchResult(f"{host}/{name}") for name in found[:limit]]
        async with Registry(Hosts(), "index.docker.io", credentials) as registry:
            _, data = await registry.small("GET", f"v1/search?{urlencode({'q': term, 'n': limit})}", ())
        try:
            return msgspec.convert(documents.loads(data)["results"][:limit], list[SearchResult])
        except (ValueError, KeyError, TypeError) as error:
            raise RegistryError(f"the search's answer makes no sense: {str(error)[:200]}") from None


async def _listed(registry: Registry, path: str, scopes: tuple[str, ...], key: str) -> list[str]:
    """The names of a paged list; the next page is in the Link header (RFC 8288)."""
    found: list[str] = []
    for _ in range(_MOST_PAGES):
        headers, data = await registry.small("GET", path, scopes)
        try:
            found += [str(item)[:255] for item in documents.loads(data)[key] or []]
        except (ValueError, KeyError, TypeError) as error:
            raise RegistryError(f"{registry.name}: its list of {key} makes no sense: {str(error)[:200]}") from None
        if len(found) > documents.MOST:
            raise RegistryError(f"{registry.name}: its list of {key} has more than {documents.MOST} names")
        link = headers.get("link", "")
        if 'rel="next"' not in link or "<" not in link:
            break
        path = link.partition("<")[2].partition(">")[0].lstrip("/")
    return found


def platform_of(text: str) -> Platform:
    """The platform that a request names, or the host's. Raises BadRequest."""
    try:
        return oci.parse_platform(text) if text else oci.host_platform()
    except oci.BadManifest as error:
        raise BadRequest(str(error)) from None


def server_name(server: str) -> str:
    """The registry's name in a server address as `docker login` writes it."""
    name = server.partition("://")[2] if "://" in server else server
    name = name.partition("/")[0]
    return DEFAULT_REGISTRY if name in ("", "index.docker.io", DEFAULT_REGISTRY) else name


def complete(name: str, tag: str) -> Reference:
    """The reference of the API's fromImage and tag; the tag may be a digest. Raises BadReference."""
    joined = name if not tag else f"{name}@{tag}" if ":" in tag else f"{name}:{tag}"
    return reference.parse(joined)
