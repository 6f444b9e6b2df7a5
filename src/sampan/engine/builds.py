"""Builds as the engine does them: their context, their commands as containers, their result."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import IO, Any

import msgspec

from sampan.build import dockerfile, exporting, fetching
from sampan.build.build import Build
from sampan.build.cache import BuildCache
from sampan.build.errors import BuildError
from sampan.build.file_tree import Hashes, Tree
from sampan.build.files import unpack_stream
from sampan.build.model import Options, Output, Sources, State
from sampan.build.patterns import Ignore, parse_ignore
from sampan.engine import limits
from sampan.engine.arrivals import Arrivals
from sampan.engine.build_steps import BuildSteps, host_config, step_facts
from sampan.engine.policy.caller import Caller
from sampan.engine.policy.gate import Gate
from sampan.images.image import Image
from sampan.images.registry.auth import Credentials
from sampan.images.store import ImageStore
from sampan.linux import filetree, openat2
from sampan.oci import reference

replace = msgspec.structs.replace
_DOCKERFILE = "Dockerfile"


@dataclass(slots=True)
class Request:
    """A build as the API gets it. The context is a descriptor of a directory, what brings one, a stream, or a URL."""

    who: Caller
    options: Options
    dockerfile: str = _DOCKERFILE
    text: bytes | None = None  # the Dockerfile itself, when it does not come with the context
    ignore: bytes | None = None
    directory: int = -1
    archive: IO[bytes] | None = None
    bring: Callable[[int], None] | None = None  # puts the context in a directory
    remote: str = ""
    credentials: dict[str, Credentials] = field(default_factory=dict)  # by registry


class Builds:
    """The builder of an engine. `top` is the directory of its caches and of what builds work in."""

    def __init__(self, top: str, images: ImageStore, arrivals: Arrivals, gate: Gate, steps: BuildSteps) -> None:
        self._top, self._images, self._arrivals, self._gate, self._steps = top, images, arrivals, gate, steps
        self.work = f"{self._top}/work"  # directories of one build each
        for name in ("work", "caches"):
            if name == "work":
                filetree.remove(f"{self._top}/work", ignore_errors=True)
            os.makedirs(f"{self._top}/{name}", 0o700, exist_ok=True)
        self.cache = BuildCache(images, f"{self._top}/cache.db")
        self._hashes = Hashes()

    def cache_of(self, who: Caller) -> BuildCache:
        """The results of steps that somebody may get: the network, hosts and mounts of a step are not in its key, so that whoever
        shares a cache has to be trusted with what is in it."""
        return self.cache.of(self._gate.space(who))

    def _caches(self, who: Caller) -> str:
        """The directory of their cache mounts."""
        space = self._gate.space(who)
        if not space:
            return f"{self._top}/caches"
        path = f"{self._top}/caches/of-{hashlib.sha256(space.encode()).hexdigest()[:16]}"
        os.makedirs(path, 0o700, exist_ok=True)
        return path

    @contextlib.asynccontextmanager
    async def state(self, request: Request, out: Output) -> AsyncIterator[State]:
        """Builds; the result's layers are safe from garbage collection while this lasts.

        Raises BuildError, ImageError, Forbidden.
        """
        limits.check(host_config(request.options.host))
        identifier = secrets.token_hex(16)
        facts = step_facts(
            request.who, host_config(request.options.host), "", "security.insecure" in request.options.entitlements, []
        )
        with self._gate.building(request.who, identifier, facts):
            async with self._state(identifier, request, out) as state:
                yield state

    @contextlib.asynccontextmanager
    async def _state(self, identifier: str, request: Request, out: Output) -> AsyncIterator[State]:
        work = tempfile.mkdtemp(dir=f"{self._top}/work")
        opened: list[int] = []
        with self._images.hold():
            try:
                tree, text = await self._context(request, work, opened)
                parsed = await asyncio.to_thread(dockerfile.parse, text)
                for warning in parsed.warnings:
                    out.say(f"[Warning] {warning}")
                runner = self._steps.of_build(
                    request.who, identifier, host_config(request.options.host), request.credentials
                )
                cache, caches = self.cache_of(request.who), self._caches(request.who)
                build = Build(self._images, cache, runner, parsed, Sources(tree, self._hashes), request.options, out,
                              f"{work}/steps", caches)  # fmt: skip
                os.mkdir(f"{work}/steps")
                yield await build.run()
            finally:
                for fd in opened:
                    os.close(fd)
                await asyncio.to_thread(filetree.remove, work, True)

    async def image(self, request: Request, out: Output) -> Image:
        """Builds an image and gives it its tags."""
        async with self.state(request, out) as state:
            return await self.export(request, state)

    async def export(self, request: Request, state: State) -> Image:
        """Makes an image of a build's result, with the tags that the request says. Raises Forbidden for tags that are others'."""
        coming = self._arrivals.of(request.who)
        image = await asyncio.to_thread(
            exporting.export_image,
            self._images,
            self.cache_of(request.who),
            state,
            request.options,
            coming.check,
        )
        coming.announce("build", image, image.id, image.id)
        for tag in request.options.tags:
            coming.announce("tag", image, image.id, reference.parse(tag).familiar)
        return image

    async def _context(self, request: Request, work: str, opened: list[int]) -> tuple[Tree, bytes]:
        """The context's tree and the Dockerfile's text. Raises BuildError."""
        if request.directory >= 0:
            rootfd = request.directory
        else:
            os.mkdir(f"{work}/context")
            rootfd = os.open(f"{work}/context", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            opened.append(rootfd)
            text = await self._fill(request, rootfd, f"{work}/context")
            if text is not None:
                request.text = text
            if (
                request.remote
                and fetching.is_git(request.remote)
                and (subdir := fetching.parse_git(request.remote).subdir)
            ):
                rootfd = openat2.open_in_root(rootfd, subdir, os.O_RDONLY | os.O_DIRECTORY)
                opened.append(rootfd)
        whole = Tree(rootfd)
        found = request.text if request.text is not None else whole.read(request.dockerfile)
        if found is None:
            raise BuildError(f"failed to read dockerfile: open {request.dockerfile}: no such file or directory")
        ignore = request.ignore
        if ignore is None:
            ignore = whole.read(f"{request.dockerfile}.dockerignore")
        if ignore is None:
            ignore = whole.read(".dockerignore")
        return Tree(rootfd, parse_ignore(ignore) if ignore else Ignore([]), self._hashes), found

    async def _fill(self, request: Request, rootfd: int, path: str) -> bytes | None:
        """Puts a context that is no directory in one. A context that is only a Dockerfile is returned instead."""
        if request.remote and fetching.is_git(request.remote):
            await fetching.clone(fetching.parse_git(request.remote), path, keep_git_dir=False)
            return None
        if request.bring is not None:
            await asyncio.to_thread(request.bring, rootfd)
            return None
        archive: Any = request.archive
        if request.remote:
            archive = (await fetching.download(request.remote, "", path)).file
        if archive is None:
            return None
        if await asyncio.to_thread(unpack_stream, archive, rootfd, "/", None):
            return None
        archive.seek(0)
        data = archive.read(16 << 20)
        if not data and request.text is None:
            raise BuildError("the build context is empty")
        return data if data else None
