"""Builds as the engine does them: their context, their commands as containers, their result."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

import msgspec

from sampan.build import dockerfile, exporting, fetching
from sampan.build.build import Build
from sampan.build.cache import BuildCache
from sampan.build.errors import BuildError
from sampan.build.file_tree import Hashes, Tree
from sampan.build.files import unpack_stream
from sampan.build.model import Command, Options, Output, Sources, State
from sampan.build.patterns import Ignore, parse_ignore
from sampan.engine import ends, limits, mounts, spec
from sampan.engine import output as streams
from sampan.engine.bringing import bringing
from sampan.engine.container import Container
from sampan.engine.errors import BadRequest
from sampan.engine.model import Config, HostConfig
from sampan.engine.policy import facts as facts_of
from sampan.engine.policy.caller import Caller
from sampan.engine.policy.model import Facts
from sampan.engine.policy.operation import Verb
from sampan.images.errors import ImageNotFound
from sampan.images.image import Image
from sampan.images.registry.auth import Credentials
from sampan.keeper.client import KeeperGone
from sampan.keeper.protocol import Descriptors, LogOptions, Start
from sampan.linux import filetree
from sampan.linux.pidfd import exit_code
from sampan.network.errors import NetworkError
from sampan.oci import reference
from sampan.oci.manifest import Platform
from sampan.runtime.errors import RuntimeFailure
from sampan.runtime.requests import Launch

if TYPE_CHECKING:
    from sampan.engine.engine import Engine

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
    """The builder of an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._top = f"{engine.data_root}/builds"
        self.work = f"{self._top}/work"  # directories of one build each
        for name in ("work", "caches"):
            if name == "work":
                filetree.remove(f"{self._top}/work", ignore_errors=True)
            os.makedirs(f"{self._top}/{name}", 0o700, exist_ok=True)
        self.cache = BuildCache(engine.images, f"{self._top}/cache.db")
        self._hashes = Hashes()
        self._waiting: dict[str, asyncio.Future[int]] = {}

    def cache_of(self, who: Caller) -> BuildCache:
        """The results of steps that somebody may get: the network, hosts and mounts of a step are not in its key, so that whoever
        shares a cache has to be trusted with what is in it."""
        return self.cache.of(self._engine.gate.space(who))

    def _caches(self, who: Caller) -> str:
        """The directory of their cache mounts."""
        space = self._engine.gate.space(who)
        if not space:
            return f"{self._top}/caches"
        path = f"{self._top}/caches/of-{hashlib.sha256(space.encode()).hexdigest()[:16]}"
        os.makedirs(path, 0o700, exist_ok=True)
        return path

    def exited(self, identifier: str, status: int) -> bool:
        """A process of the keeper's has ended; whether it was one of ours."""
        waiter = self._waiting.pop(identifier, None)
        if waiter is not None and not waiter.done():
            waiter.set_result(status)
        return waiter is not None

    def runs(self, identifier: str) -> bool:
        """Whether it is one of ours."""
        return identifier in self._waiting

    @contextlib.asynccontextmanager
    async def state(self, request: Request, out: Output) -> AsyncIterator[State]:
        """Builds; the result's layers are safe from garbage collection while this lasts.

        Raises BuildError, ImageError, Forbidden.
        """
        limits.check(_host_config(request.options.host))
        identifier = secrets.token_hex(16)
        facts = _facts(
            request.who, _host_config(request.options.host), "", "security.insecure" in request.options.entitlements, []
        )
        with self._engine.gate.building(request.who, identifier, facts):
            async with self._state(identifier, request, out) as state:
                yield state

    @contextlib.asynccontextmanager
    async def _state(self, identifier: str, request: Request, out: Output) -> AsyncIterator[State]:
        work = tempfile.mkdtemp(dir=f"{self._top}/work")
        opened: list[int] = []
        with self._engine.images.hold():
            try:
                tree, text = await self._context(request, work, opened)
                parsed = await asyncio.to_thread(dockerfile.parse, text)
                for warning in parsed.warnings:
                    out.say(f"[Warning] {warning}")
                runner = _Runner(self._engine, request, identifier, self._waiting)
                cache, caches = self.cache_of(request.who), self._caches(request.who)
                build = Build(self._engine.images, cache, runner, parsed, Sources(tree, self._hashes), request.options, out,
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
        async with bringing(self._engine, request.who) as coming:
            image = await asyncio.to_thread(
                exporting.export_image,
                self._engine.images,
                self.cache_of(request.who),
                state,
                request.options,
                coming.check,
            )
        coming.announce("build", image, image.id, image.id)
        for tag in request.options.tags:
            coming.announce("tag", image, image.id, tag)
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
                from sampan.linux import openat2

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


class _Runner:
    """What a build asks of the engine."""

    def __init__(
        self, engine: Engine, request: Request, identifier: str, waiting: dict[str, asyncio.Future[int]]
    ) -> None:
        self._engine, self._waiting, self._credentials = engine, waiting, request.credentials
        self._who, self._identifier, self._host = request.who, identifier, _host_config(request.options.host)
        self._images: dict[str, Image] = {}  # all that it has used so far

    def _check(self, host: HostConfig) -> None:
        """Asks the gate about a step, of any of the images that the build has. Raises Forbidden."""
        gate = self._engine.gate
        for image in self._images.values():
            facts = _facts(
                self._who, host, image.id, False, self._engine.gate.names(self._who, image), gate.signers(image)
            )
            gate.check_step(self._who, self._identifier, facts)
        if not self._images:
            gate.check_step(self._who, self._identifier, _facts(self._who, host, "", False, []))

    async def base_image(self, name: str, platform: Platform, pull: bool, say: Callable[[str], None]) -> Image:
        """An image, pulled when it is missing, for another platform, or wanted anew. Raises Forbidden, ImageError, BuildError."""
        image = await self._base_image(name, platform, pull, say)
        self._images[image.id] = image
        self._check(self._host)
        return image

    async def _base_image(self, name: str, platform: Platform, pull: bool, say: Callable[[str], None]) -> Image:
        try:
            ref = reference.parse(name).with_default_tag()
        except reference.BadReference as error:
            raise BuildError(f"failed to parse stage name {name!r}: {error}") from None
        if not pull:
            try:
                image = self._engine.finding.image(self._who, name, Verb.USE, usable=True)
                system, architecture = (
                    image.config.get("os") or platform.os,
                    image.config.get("architecture") or platform.architecture,
                )
                if (system, architecture) == (platform.os, platform.architecture):
                    return image
            except ImageNotFound:
                pass
        credentials = self._credentials.get(ref.registry, Credentials())
        async for message in self._engine.registries.pull(self._who, ref, str(platform), credentials):
            if message.get("id") is None or message["status"] in ("Pull complete", "Already exists"):
                say(str(message["status"]))
        return self._engine.finding.image(self._who, str(ref), Verb.USE, usable=True)

    async def run(self, command: Command, output: Callable[[bytes], None]) -> int:
        """Runs a step in a container that nobody else sees."""
        engine = self._engine
        container = _container(command, engine.identity.group)
        container.place = command.directory
        if command.network.startswith("container:"):
            other = engine.finding.container(self._who, command.network.partition(":")[2], Verb.SHARE)
            container.host_config = replace(container.host_config, network_mode=f"container:{other.id}")
        mode, planned, _ = engine.networking.plan(self._who, container.host_config, {}, "")
        container.host_config = replace(container.host_config, network_mode=mode)
        self._check(container.host_config)
        container.networks = planned
        os.makedirs(f"{command.directory}/rootfs", 0o700)
        os.makedirs(f"{command.directory}/log", 0o700)
        engine.networking.names.write_all_files(container)
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        begun = asyncio.ensure_future(self._begin(container, command, done))
        try:
            try:
                process = await asyncio.shield(begun)
            except asyncio.CancelledError:  # whoever wanted it has gone: it ends as soon as it is there
                await _kill(await begun, done)
                raise
            try:
                await _relay(engine, container, done, output)
            except BaseException:
                await _kill(process, done)
                raise
            os.close(process)
            engine.networking.sandboxes.started(container)
            return exit_code(done.result())
        except (RuntimeFailure, NetworkError) as error:
            raise BuildError(str(error)) from None
        except KeeperGone:
            raise BuildError("the process that runs containers has died: build again") from None
        finally:
            self._waiting.pop(container.id, None)
            engine.networking.release(container)
            await asyncio.to_thread(_remove_group, container)

    async def _begin(self, container: Container, command: Command, done: asyncio.Future[int]) -> int:
        """Starts a step; a pidfd of it, which is the caller's. Raises RuntimeFailure, NetworkError, KeeperGone."""
        engine = self._engine
        network = await engine.networking.prepare(container)
        shared: Descriptors = {} if network is None else {"network": network[0]}
        try:
            request = _request(engine, container, command)
            shared["sources"] = mounts.table()
            request |= {"sandbox": network[1] if network else ""}
            self._waiting[container.id] = done
            begin = Start(container.id, request, command.directory, False, LogOptions(), shared)
            fds = (await engine.keeper.call(begin)).descriptors
        finally:
            for fd in shared.values():
                os.close(fd)
        process = fds.pop("process")
        for fd in fds.values():
            os.close(fd)
        ends.watch(process, lambda status: None if done.done() else done.set_result(status))
        return process


async def _kill(process: int, done: asyncio.Future[int]) -> None:
    """Ends a step, of whose descriptor nobody needs more."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(process, signal.SIGKILL)
    os.close(process)
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(asyncio.shield(done), 10)


def _remove_group(container: Container) -> None:
    from sampan.linux.cgroup import Cgroup

    with contextlib.suppress(OSError):
        Cgroup(container.cgroup).end()
        Cgroup(container.cgroup).remove()


async def _relay(
    engine: Engine, container: Container, done: asyncio.Future[int], output: Callable[[bytes], None]
) -> None:
    """Passes on what a step writes, until it has ended."""
    log = streams.open_log(engine, container, follows=True)
    try:
        async for frame in streams.follow_step(engine, log, done):
            output(frame.data)
    finally:
        log.close()


def _facts(
    who: Caller, host: HostConfig, image: str, insecure: bool, tags: list[str], signers: Iterable[str] = ()
) -> Facts:
    """What the gate is asked about a step: what it would be asked about a container of the same options."""
    wanted = replace(host, privileged=True) if insecure else host
    return facts_of.make(who.owner, image, tags, signers, {}, wanted, (), (), "")


def _host_config(given: object) -> HostConfig:
    """The limits and extra hosts of a build's options, which the builder hands through."""
    return given if isinstance(given, HostConfig) else HostConfig()


def _container(command: Command, group: str) -> Container:
    identifier = secrets.token_hex(32)
    given = _host_config(command.host)
    host = replace(
        given,
        network_mode=command.network,
        privileged=command.insecure,
        shm_size=given.shm_size or mounts.DEFAULT_SHM,
    )
    config = Config(
        cmd=tuple(command.args),
        env=tuple(command.env),
        working_dir=command.cwd,
        user=command.user,
        hostname="buildkitsandbox",
    )
    return Container(identifier, f"build-{identifier[:12]}", 0, "", "", config, host, group=group)


def _request(engine: Engine, container: Container, command: Command) -> Launch:
    shared = "host" if container.host_config.network_mode == "host" else ""
    joins = {
        "cgroup": "",
        "uts": shared,
        "network": shared or ("" if container.host_config.network_mode == "none" else "@network"),
        "pid": "",
        "ipc": "",
    }
    entries = mounts.specification(
        container, command.directory, engine.volumes, None, [], engine.gate.allowed(container)
    )
    try:
        request = spec.build(container, [*entries, *command.mounts], joins)
    except BadRequest as error:
        raise BuildError(str(error)) from None
    request["overlay"] = {"lower": command.lower, "upper": command.upper, "work": command.work}
    request["where"] = f"{command.directory}/rootfs"
    return request
