"""The steps of builds: their base images, and their commands as containers that nobody else sees."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
from collections.abc import Callable, Iterable

import msgspec

from sampan.build.errors import BuildError
from sampan.build.model import Command
from sampan.engine import mounts
from sampan.engine.container import Container, StepFiles
from sampan.engine.errors import BadRequest, Conflict
from sampan.engine.finding import Finding
from sampan.engine.logs import Logs
from sampan.engine.model import Config, HostConfig
from sampan.engine.network.networking import Networking
from sampan.engine.policy import facts as facts_of
from sampan.engine.policy.caller import Caller
from sampan.engine.policy.gate import Gate
from sampan.engine.policy.model import Facts
from sampan.engine.policy.operation import Verb
from sampan.engine.process import Process
from sampan.engine.registries import Registries
from sampan.engine.starting import Starting
from sampan.engine.tasks import Tasks
from sampan.images.errors import ImageNotFound
from sampan.images.image import Image
from sampan.images.registry.auth import Credentials
from sampan.keeper.client import KeeperGone
from sampan.linux.cgroup import Cgroup
from sampan.linux.pidfd import exit_code
from sampan.network.errors import NetworkError
from sampan.oci import reference
from sampan.oci.manifest import Platform
from sampan.runtime.errors import RuntimeFailure
from sampan.runtime.requests import Overlay

replace = msgspec.structs.replace


class BuildSteps:
    """Runs the steps of builds. `group` is the control group that theirs are in."""

    def __init__(
        self,
        group: str,
        gate: Gate,
        finding: Finding,
        registries: Registries,
        networking: Networking,
        starting: Starting,
        logs: Logs,
        tasks: Tasks,
    ) -> None:
        self.group, self.gate, self.finding = group, gate, finding
        self.registries, self.networking, self.starting, self.logs = registries, networking, starting, logs
        self.tasks = tasks

    def of_build(
        self, who: Caller, identifier: str, host: HostConfig, credentials: dict[str, Credentials]
    ) -> StepRunner:
        """The runner of one build; `credentials` are by registry."""
        return StepRunner(self, who, identifier, host, credentials)


class StepRunner:
    """What one build asks of the engine: its base images, and its steps in containers."""

    def __init__(
        self, steps: BuildSteps, who: Caller, identifier: str, host: HostConfig, credentials: dict[str, Credentials]
    ) -> None:
        self._steps, self._credentials = steps, credentials
        self._who, self._identifier, self._host = who, identifier, host
        self._images: dict[str, Image] = {}  # all that it has used so far

    def _check(self, host: HostConfig) -> None:
        """Asks the gate about a step, of any of the images that the build has. Raises Forbidden."""
        gate = self._steps.gate
        for image in self._images.values():
            facts = step_facts(self._who, host, image.id, False, gate.names(self._who, image), gate.signers(image))
            gate.check_step(self._who, self._identifier, facts)
        if not self._images:
            gate.check_step(self._who, self._identifier, step_facts(self._who, host, "", False, []))

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
                image = self._steps.finding.image(self._who, name, Verb.USE, usable=True)
                own = image.config.os or platform.os, image.config.architecture or platform.architecture
                if own == (platform.os, platform.architecture):
                    return image
            except ImageNotFound:
                pass
        credentials = self._credentials.get(ref.registry, Credentials())
        async for message in self._steps.registries.pull(self._who, ref, str(platform), credentials):
            if message.get("id") is None or message["status"] in ("Pull complete", "Already exists"):
                say(str(message["status"]))
        return self._steps.finding.image(self._who, str(ref), Verb.USE, usable=True)

    async def run(self, command: Command, output: Callable[[bytes], None]) -> int:
        """Runs a step in a container that nobody else sees."""
        steps = self._steps
        container = _container(command, steps.group)
        container.place = command.directory
        overlay: Overlay = {"lower": command.lower, "upper": command.upper, "work": command.work}
        container.step = StepFiles(overlay, command.mounts)
        if command.network.startswith("container:"):
            other = steps.finding.container(self._who, command.network.partition(":")[2], Verb.SHARE)
            container.host_config = replace(container.host_config, network_mode=f"container:{other.id}")
        mode, planned, _ = steps.networking.plan(self._who, container.host_config, {}, "")
        container.host_config = replace(container.host_config, network_mode=mode)
        self._check(container.host_config)
        container.networks = planned
        os.makedirs(f"{command.directory}/rootfs", 0o700)
        os.makedirs(f"{command.directory}/log", 0o700)
        steps.networking.resolver.write_all_files(container)
        begun = asyncio.ensure_future(self._begin(container))
        try:
            try:
                process = await asyncio.shield(begun)
            except asyncio.CancelledError:  # whoever wanted it has gone: it ends as soon as it is there
                await _kill(await begun)
                raise
            try:
                await _relay(steps.logs, container, process, output)
            except BaseException:
                await _kill(process)
                raise
            steps.networking.prewarm.started(container)
            return exit_code((await process.wait()).status)
        except (RuntimeFailure, BadRequest, Conflict, NetworkError) as error:
            raise BuildError(str(error)) from None
        except KeeperGone:
            raise BuildError("the process that runs containers has died: build again") from None
        finally:
            steps.networking.release(container)
            await asyncio.to_thread(_remove_group, container)

    async def _begin(self, container: Container) -> Process:
        """Starts a step. Raises RuntimeFailure, EngineError, NetworkError, KeeperGone."""
        process = await self._steps.starting.start_step(container)
        for fd in process.take().values():
            os.close(fd)
        self._steps.tasks.beside(_forget(process))
        return process


async def _forget(process: Process) -> None:
    """What a step has ended with is recorded nowhere: the keeper need not keep it."""
    await process.wait()
    process.close()
    process.acknowledge()


async def _kill(process: Process) -> None:
    """Ends a step."""
    process.signal(signal.SIGKILL)
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(process.wait(), 10)


def _remove_group(container: Container) -> None:
    with contextlib.suppress(OSError):
        Cgroup(container.cgroup).end()
        Cgroup(container.cgroup).remove()


async def _relay(logs: Logs, container: Container, process: Process, output: Callable[[bytes], None]) -> None:
    """Passes on what a step writes, until it has ended."""
    log = logs.open(container, follows=True)
    ended = asyncio.ensure_future(process.wait())
    try:
        async for frame in logs.follow_step(log, ended):
            output(frame.data)
    finally:
        ended.cancel()
        log.close()


def step_facts(
    who: Caller, host: HostConfig, image: str, insecure: bool, tags: list[str], signers: Iterable[str] = ()
) -> Facts:
    """What the gate is asked about a step: what it would be asked about a container of the same options."""
    wanted = replace(host, privileged=True) if insecure else host
    return facts_of.make(who.owner, image, tags, signers, {}, wanted, (), (), "")


def host_config(given: object) -> HostConfig:
    """The limits and extra hosts of a build's options, which the builder hands through."""
    return given if isinstance(given, HostConfig) else HostConfig()


def _container(command: Command, group: str) -> Container:
    identifier = secrets.token_hex(32)
    given = host_config(command.host)
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
