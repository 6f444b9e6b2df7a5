"""A build: stages that run side by side, each step by step, with a cache by content."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import hashlib
import json
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from sampan.build import configuring, dockerfile, fetching, files, running, steps, writable
from sampan.build.cache import BuildCache
from sampan.build.dockerfile import Dockerfile, Instruction
from sampan.build.errors import BuildError, DockerfileError
from sampan.build.file_tree import Tree
from sampan.build.model import (
    DEFAULT_PATH,
    MOST_SETTINGS,
    Command,
    LayerRef,
    Options,
    Output,
    Runner,
    Sources,
    State,
)
from sampan.build.plan import Plan, Stage, declared
from sampan.images.config import Execution, History, ImageConfig, members
from sampan.images.errors import ImageError
from sampan.images.image import Image
from sampan.images.store import ImageStore
from sampan.linux import filetree, mount
from sampan.oci import manifest as oci
from sampan.oci.runtime_spec import Mount

_SCRATCH, _PATH = "scratch", f"PATH={DEFAULT_PATH}"


class Build:
    """One build of one Dockerfile. `run` gives the target stage's state."""

    def __init__(
        self, store: ImageStore, cache: BuildCache, runner: Runner, parsed: Dockerfile, sources: Sources, options: Options,
        output: Output, work: str, caches: str,
    ) -> None:  # fmt: skip
        self._store, self._cache, self._runner = store, cache, runner
        self._parsed, self._sources, self._options = parsed, sources, options
        self._output, self._work, self._caches = output, work, caches
        self._current: dict[int, str] = {}  # the step each stage is at
        self._cached_steps: set[str] = set()
        self._plan = Plan(parsed, options)
        self._consumed: set[str] = set(self._plan.names)
        self._tasks: dict[int, asyncio.Task[State]] = {}
        self._trees: dict[str, asyncio.Task[Tree]] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._done, self._total = 0, 0
        self._count = 0

    async def run(self) -> State:
        """Builds the target and what it needs, nothing else. Raises BuildError, ImageError."""
        target = self._plan.target()
        needed = self._plan.needs(target, set())
        self._total = sum(1 + len(self._plan.stages[number].instructions) for number in needed)
        for name in self._options.cache_from:
            await self._import_cache(name)
        try:
            for number in sorted(needed):
                self._start(self._plan.stages[number])
            state = await self._tasks[target.number]
        finally:
            tasks: list[asyncio.Task[Any]] = [*self._tasks.values(), *self._trees.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for tree in self._trees.values():
                if not tree.cancelled() and tree.exception() is None:
                    os.close(tree.result().rootfd)
        unused = (
            set(self._options.build_args)
            - self._consumed
            - running.PROXIES
            - set(self._plan.builtin)
            - {"SOURCE_DATE_EPOCH", "BUILDKIT_INLINE_CACHE"}
        )
        if unused:
            self._output.say(f"[Warning] One or more build-args [{' '.join(sorted(unused))}] were not consumed")
        return state

    async def _import_cache(self, name: str) -> None:
        """Takes over what an image says of the steps it was made by. Only an image that the user names is believed (S028)."""
        try:
            image = await self._runner.base_image(name, self._options.platform, False, lambda _: None)
        except ImageError as error:
            self._output.say(f"[Warning] --cache-from {name}: {error}")
            return
        await asyncio.to_thread(self._cache.take_over, image, self._store.lower_directories(image))

    def _start(self, stage: Stage) -> asyncio.Task[State]:
        task = self._tasks.get(stage.number)
        if task is None:
            task = self._tasks[stage.number] = asyncio.get_running_loop().create_task(self._stage(stage))
        return task

    async def _stage(self, stage: Stage) -> State:
        state = await self._base(stage)
        triggers = [dockerfile.trigger(text) for text in state.config.on_build]
        state.configure(on_build=())
        if triggers:
            self._output.say(f"# Executing {len(triggers)} build trigger{'s' if len(triggers) > 1 else ''}")
            self._total += len(triggers)
        for instruction in [*triggers, *stage.instructions]:
            key = self._step(stage, f"{instruction.name} {steps.shown(instruction)}")
            try:
                state = await self._instruction(stage, state, instruction)
                self._output.end(key, key in self._cached_steps, "")
            except BuildError as error:
                self._output.end(key, False, str(error))
                if isinstance(error, DockerfileError) or "dockerfile line" in str(error):
                    raise
                failed = BuildError(
                    f"{error} (dockerfile line {instruction.line}: {instruction.name} {steps.shown(instruction)[:200]})"
                )
                failed.code = error.code
                raise failed from None
        return state

    def _step(self, stage: Stage, text: str) -> str:
        self._done += 1
        key = self._current[stage.number] = str(self._done)
        self._output.begin(key, self._done, max(self._total, self._done), text)
        return key

    async def _base(self, stage: Stage) -> State:
        key = self._step(stage, f"FROM {stage.origin.text}")
        try:
            state = await self._base_state(stage)
        except ImageError as error:
            self._output.end(key, False, str(error))
            raise
        self._output.end(key, False, "")
        return state

    async def _base_state(self, stage: Stage) -> State:
        before = self._plan.find(stage.base, stage.number)
        if before is not None:
            state = copy.deepcopy(await asyncio.shield(self._start(before)))
            return replace(state, args={}, cmd_set=False)
        if stage.base == _SCRATCH:
            return State("scratch", [], Execution(env=(_PATH,)), ImageConfig(), [], stage.platform, created=steps.now())
        image = await self._image(stage.base, stage.platform)
        config = image.config
        layers = [LayerRef(directory, 0, layer) for directory, layer in
                  zip(reversed(self._store.lower_directories(image)), image.layers, strict=False)]  # fmt: skip
        state = State(f"image {image.id}", layers, config.execution, config.inherited, list(config.history), stage.platform,
                      created=steps.moment_of(config.created))  # fmt: skip
        if not any(item.startswith("PATH=") for item in config.execution.env):
            state.configure(env=(_PATH, *config.execution.env))
        return state

    async def _image(self, name: str, platform: oci.Platform) -> Image:
        named = self._options.contexts.get(name, "")
        if named and not named.startswith("docker-image://"):
            raise BuildError(f"named context {name}={named}: only docker-image://IMAGE is supported")
        name = named.removeprefix("docker-image://") or name
        return await self._runner.base_image(name, platform, self._options.pull, self._output.say)

    async def _instruction(self, stage: Stage, state: State, instruction: Instruction) -> State:
        state = replace(state, history=list(state.history), args=dict(state.args))
        escape = self._parsed.escape
        if instruction.name == "ARG":
            return self._arg(state, instruction)
        if instruction.name in configuring.CONFIGURE:
            configuring.CONFIGURE[instruction.name](instruction, state, escape)
            return self._configured(state, instruction)
        if instruction.name == "WORKDIR":
            return await self._workdir(stage, state, instruction)
        if instruction.name == "RUN":
            return await self._run(stage, state, instruction)
        if instruction.name in ("COPY", "ADD"):
            return await self._copy(stage, state, instruction)
        raise instruction.error(f"{instruction.name} is not allowed here")

    def _arg(self, state: State, instruction: Instruction) -> State:
        for name, default in declared(instruction, state.variables, self._parsed.escape):
            self._consumed.add(name)
            value = self._options.build_args.get(name, default)
            if value is None:
                value = self._plan.arguments.get(name)
            if value is not None:
                state.args[name] = value
        return self._configured(state, instruction)

    def _configured(self, state: State, instruction: Instruction) -> State:
        settings = json.dumps([members(state.config), state.args], sort_keys=True)
        if len(settings) > MOST_SETTINGS:
            raise instruction.error(f"the image's settings have more than {MOST_SETTINGS} characters")
        state.key = steps.key_of(state.key, "config", settings)
        state.history.append(self._history(state, f"{instruction.name} {steps.shown(instruction)}", empty=True))
        return state

    def _history(self, state: State, created_by: str, empty: bool) -> History:
        made = steps.created(self._options, state)
        return History(created=made, created_by=created_by, comment="sampan", empty_layer=empty)

    # steps that change files

    async def _cached(
        self, stage: Stage, state: State, key: str, created_by: str, make: Callable[[], Awaitable[int]]
    ) -> State:
        """The state after a step with that key: from the cache, or made now."""
        fresh = self._options.no_cache or stage.name in self._options.no_cache_filter
        found = None if fresh else await asyncio.to_thread(self._cache.find, key)
        if found is not None:
            self._cached_steps.add(self._current[stage.number])
            number, moment = found.layer, found.created
        else:
            async with self._locks.setdefault(key, asyncio.Lock()):
                number = await make()
                _, size = (
                    await asyncio.to_thread(filetree.measure, self._store.layers.directory(number))
                    if number
                    else (0, 0)
                )
                moment = await asyncio.to_thread(self._cache.put, key, number, created_by, size)
        layers = list(state.layers)
        if number:
            layers.append(LayerRef(self._store.layers.directory(number), number))
        state = replace(state, key=key, layers=layers, created=moment, steps=[*state.steps, (key, bool(number))])
        return replace(state, history=[*state.history, self._history(state, created_by, empty=not number)])

    async def _workdir(self, stage: Stage, state: State, instruction: Instruction) -> State:
        path = configuring.workdir(instruction, state, self._parsed.escape)
        state.configure(working_dir=path)
        with writable.root_of(self._store.layers, state.layers) as rootfd:
            exists = files.workdir_exists(rootfd, path)
        if exists:
            return self._configured(state, instruction)
        key = steps.key_of(state.key, "WORKDIR", path)

        async def make() -> int:
            return await asyncio.to_thread(writable.change, self._store.layers, state, files.make_workdir(path))

        return await self._cached(stage, state, key, f"WORKDIR {path}", make)

    async def _copy(self, stage: Stage, state: State, instruction: Instruction) -> State:
        paths, target = files.arguments(instruction, state, self._parsed.escape)
        origin = configuring.expand(instruction, instruction.flag("from"), state, self._parsed.escape)
        tree = await self._tree(origin, stage) if origin else self._sources.context
        documents = {doc.name for doc in instruction.heredocs}
        plain = [path for path in paths if path.lstrip("<-").strip("'\"") not in documents or not path.startswith("<<")]
        fetched = [
            path for path in plain if instruction.name == "ADD" and (fetching.is_url(path) or fetching.is_git(path))
        ]
        if instruction.flag("checksum") and len(fetched) != 1:
            raise BuildError("checksum can't be specified for files of the context: it needs one URL or git source")
        with contextlib.ExitStack() as stack:
            plan = await asyncio.to_thread(files.prepare, instruction, state, self._parsed.escape, tree,
                                           [path for path in plain if path not in fetched], target, bool(origin))  # fmt: skip
            plan.sources += files.heredoc_sources(instruction, state)
            if instruction.name == "ADD":
                for source in plan.sources:
                    source.unpack = source.is_path and instruction.on("unpack", True)
            for url in fetched:
                await self._fetch(url, instruction, plan, stack)
            digest = await asyncio.to_thread(plan.digest)
            key = steps.key_of(state.key, instruction.name, digest, state.workdir, str(stage.platform))

            async def make() -> int:
                return await asyncio.to_thread(
                    writable.change, self._store.layers, state, lambda rootfd: files.perform(plan, state, rootfd)
                )

            return await self._cached(stage, state, key, f"{instruction.name} {steps.shown(instruction)}", make)

    async def _fetch(self, url: str, instruction: Instruction, plan: files.Copy, stack: contextlib.ExitStack) -> None:
        """A source of an ADD that is elsewhere: a URL becomes a file (0600), a repository a directory."""
        checksum = instruction.flag("checksum")
        if fetching.is_url(url):
            got = await fetching.download(url, checksum, self._store.temporary)
            stack.callback(got.file.close)
            plan.sources.append(
                files.Source(file=got.file, name=got.name, mode=0o600, mtime=got.mtime, unpack=instruction.on("unpack"))
            )
            return
        source = fetching.parse_git(url)
        directory = stack.enter_context(running.directory(self._private()))
        commit = await fetching.clone(source, directory, instruction.on("keep-git-dir"))
        if checksum and commit != checksum:
            raise BuildError(f"digest mismatch: {url} is at {commit}, not at {checksum}")
        rootfd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, rootfd)
        tree = Tree(rootfd, hashes=self._sources.hashes, name=url)
        path, info = tree.resolve(source.subdir)
        plan.tree = tree
        if len(plan.sources) > 0:
            raise BuildError("a git source has to be the only one of its ADD")
        plan.sources.append(files.Source(path, info))

    def _private(self) -> str:
        self._count += 1
        return f"{self._work}/{self._count}"

    async def _tree(self, name: str, stage: Stage) -> Tree:
        """The files of a stage or an image, for COPY --from and mounts."""
        task = self._trees.get(name.lower())
        if task is None:
            task = self._trees[name.lower()] = asyncio.get_running_loop().create_task(self._open_tree(name, stage))
        return await asyncio.shield(task)

    async def _open_tree(self, name: str, stage: Stage) -> Tree:
        before = self._plan.find(name, stage.number)
        if before is not None:
            layers = writable.lower((await asyncio.shield(self._start(before))).layers)
        else:
            layers = self._store.lower_directories(await self._image(name, stage.platform))
        layers = [*layers, self._store.layers.mountpoints_directory()]
        return Tree(mount.overlay(layers, None, None), hashes=self._sources.hashes, name=name, layers=layers)

    async def _run(self, stage: Stage, state: State, instruction: Instruction) -> State:
        options = self._options
        mounts = running.parse_mounts(instruction, state, self._parsed.escape)
        args, script = running.script(instruction, state)
        network, insecure = running.check_security(instruction, options)
        env = running.environment(state, options)

        async def find(name: str) -> Tree:
            return await self._tree(name, stage)

        context = self._sources.context
        shown_args = [f"{name}={value}" for name, value in state.args.items()]
        kept_env = [
            item
            for item in env
            if item.partition("=")[0] not in running.PROXIES or item.partition("=")[0] in state.args
        ]
        key = steps.key_of(state.key, "RUN", json.dumps([args, kept_env, network, insecure, state.config.user or None, state.workdir]),
                   hashlib.sha256(script or b"").hexdigest(), await running.digest(mounts, find, context), str(stage.platform))  # fmt: skip
        created_by = (
            " ".join([f"RUN |{len(shown_args)}", *shown_args] if shown_args else ["RUN"]) + f" {' '.join(args)}"
        )

        async def make() -> int:
            private = self._private()
            os.makedirs(private, 0o700)
            maker = running.MountMaker(private, self._caches, options, find, context)
            try:
                made = await maker.make(mounts)
                if script is not None:
                    maker.script(script, made)
                async with contextlib.AsyncExitStack() as stack:
                    for name in sorted(made.locks):
                        await stack.enter_async_context(_CACHE_LOCKS.setdefault(name, asyncio.Lock()))
                    return await self._execute(
                        state, args, [*env, *made.env], made.entries, network, insecure, self._current[stage.number]
                    )
            finally:
                maker.close()

        return await self._cached(stage, state, key, created_by, make)

    async def _execute(
        self,
        state: State,
        args: list[str],
        env: list[str],
        mounts: list[Mount],
        network: str,
        insecure: bool,
        key: str,
    ) -> int:
        directory = await asyncio.to_thread(self._store.layers.new_stage)
        try:
            os.mkdir(f"{directory}/work", 0o700)
            private = self._private()
            below = await asyncio.to_thread(running.targets, f"{private}/targets", mounts)
            lower = [*writable.lower(state.layers), below, self._store.layers.mountpoints_directory()]
            command = Command(private, lower, f"{directory}/fs", f"{directory}/work", args, env, state.workdir,
                              state.config.user, mounts, network, insecure, self._options.host)  # fmt: skip
            code = await self._runner.run(command, lambda data: self._output.log(key, data))
            if code:
                failed = BuildError(f"The command '{' '.join(args)}' returned a non-zero code: {code}")
                failed.code = code
                raise failed
            await asyncio.to_thread(filetree.remove, private, True)
            return await asyncio.to_thread(writable.finish, self._store.layers, directory)
        except BaseException:
            await asyncio.to_thread(filetree.remove, directory, True)
            raise


_CACHE_LOCKS: dict[str, asyncio.Lock] = {}
