"""Creating a container: defaults, checks, its record, its directory and files."""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import time

import msgspec

from sampan.engine import (
    container_record,
    copy_up,
    limits,
    log_options,
    log_sinks,
    machine_shape,
    mounts,
    restart_policy,
    rules,
    spec,
)
from sampan.engine.backends.backend import Backends
from sampan.engine.container import Container
from sampan.engine.containers import Containers
from sampan.engine.errors import BadRequest, Forbidden, NotFound
from sampan.engine.events import Events
from sampan.engine.finding import Finding
from sampan.engine.image_roots import ImageRoots
from sampan.engine.model import Asked, Config, CreateRequest, HostConfig, Isolation, Mount, MountType
from sampan.engine.name_claims import NameClaims
from sampan.engine.network.port_mappings import check_ports
from sampan.engine.network.resolver import Resolver
from sampan.engine.policy.caller import Caller, Owner
from sampan.engine.policy.decide import Decision
from sampan.engine.policy.gate import Gate
from sampan.engine.policy.model import Facts
from sampan.engine.policy.operation import Verb
from sampan.engine.requests import Requests
from sampan.engine.volume_service import VolumeService
from sampan.images.errors import ImageNotFound
from sampan.images.image import Image
from sampan.images.store import ImageStore
from sampan.linux import filetree
from sampan.oci import manifest as oci
from sampan.oci import reference
from sampan.runtime import init_program
from sampan.volumes.local import LocalVolumes

replace = msgspec.structs.replace
RUNTIME = "sampan"  # the one there is
_RUNTIMES = (RUNTIME, "runc", "io.containerd.runc.v2")  # names that clients of Docker have for the one there is


class Creation:
    """Makes containers of the API's requests."""

    def __init__(
        self, requests: Requests, finding: Finding, gate: Gate, names: NameClaims, images: ImageStore, maker: Maker, events: Events,
        group: str,
    ) -> None:  # fmt: skip
        self._requests, self._finding, self._gate, self._names = requests, finding, gate, names
        self._images, self._maker, self._events, self._group = images, maker, events, group

    async def create(
        self, who: Caller, request: CreateRequest, name: str, platform: str = ""
    ) -> tuple[Container, list[str]]:
        """Makes a container for somebody. Returns it and the warnings for the user.

        Raises BadRequest, NotFound (image), Conflict (name).
        """
        wanted = request.config.image
        if not wanted:
            raise BadRequest("config cannot be empty in order to create a container")
        try:
            image = self._finding.image(who, wanted, Verb.USE, usable=True)
            with self._images.using(image.id):  # it is not removed before the container is there
                return await self._create(who, request, image, name, platform)
        except ImageNotFound:
            raise NotFound(f"No such image: {reference.with_tag(wanted)}") from None

    async def _create(
        self, who: Caller, request: CreateRequest, image: Image, name: str, platform: str
    ) -> tuple[Container, list[str]]:
        if platform:
            _check_platform(request.config.image, image, platform)
        rules.check(request.config, request.host_config)
        rules.check_endpoints(request.host_config, request.endpoints)
        identifier = secrets.token_hex(32)
        wanted = self._requests.normalise(who, request, image)
        facts, host = wanted.facts, wanted.host_config
        with self._names.claim(who, name, identifier) as name, self._gate.admitted(who, identifier, facts) as decision:
            isolation = decision.isolation if decision.isolation == Isolation.VM else facts.asked
            warnings = limits.check(host)
            if host.limits.memory_swap > 0 and not host.limits.memory:
                raise BadRequest("You should always set the Memory limit when using Memoryswap limit, see usage")
            config, host = _with_defaults(identifier, wanted.config, replace(host, isolation=isolation))
            _check_against(decision, facts, config, host)
            asked = Asked(labels=request.config.labels, names=tuple(self._gate.names(who, image)))
            container = Container(identifier, name, time.time_ns(), image.id, config.image, config, host, networks=wanted.networks,
                                  owner=facts.user, claim=facts.claim, decision=decision.reasons, group=self._group,
                                  asked=asked)  # fmt: skip
            await self._maker.make(container, image, wanted.mounts)
            self._events.announce(container, "create")
        return container, warnings + wanted.warnings


class Maker:
    """Makes what a container consists of before it first starts: its record, its directory, its files and volumes."""

    def __init__(
        self, containers: Containers, resolver: Resolver, image_roots: ImageRoots, backends: Backends, volumes: LocalVolumes,
        volume_service: VolumeService,
    ) -> None:  # fmt: skip
        self._containers, self._resolver, self._volume_service = containers, resolver, volume_service
        self._image_roots, self._backends, self._volumes = image_roots, backends, volumes

    async def make(self, container: Container, image: Image, rows: list[mounts.Planned]) -> None:
        """The container's mounts, directory and files; with them it is there. Raises BadRequest."""
        spec.build(container, [], {})  # every complaint about the configuration comes now, not at start
        container.mounts = await self._mounts(Owner(container.owner, container.claim), rows)
        try:
            text = container_record.checked(container)
        except container_record.Unreadable as error:
            raise BadRequest(f"invalid value: {error}") from None
        directory = self._containers.directory(container)
        try:
            self._containers.save(container, text)
            self._containers.begin_flush()  # while its files are made
            self._containers.make_directory(container)
            self._resolver.write_all_files(container)
            if os.path.normpath(container.config.working_dir or "/") != "/":
                await self._make_working_directory(container)
            if any(row.kind is MountType.VOLUME for row in container.mounts):
                await asyncio.to_thread(self._copy_up, container, image)
        except BaseException:
            self._containers.undo(container)
            filetree.remove(directory, ignore_errors=True)
            raise
        self._containers.add(container)
        self._backends.of(container).created(container)

    async def _make_working_directory(self, container: Container) -> None:
        """It is there before the first start, so that files can be copied into it. Raises BadRequest."""
        path = container.config.working_dir
        try:
            await self._backends.of(container).make_directory(container, path)
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG):
                raise BadRequest(f"the working directory can't be made: {path}: {os.strerror(error.errno)}") from None
            raise

    async def _mounts(self, owner: Owner, rows: list[mounts.Planned]) -> list[Mount]:
        """The rows as the container keeps them, with what they need made; new volumes are their maker's before they are there."""
        if all(row.mount.kind is MountType.TMPFS for row in rows):
            return mounts.make(rows, self._volumes)
        async with self._volume_service.making(
            [row.mount.name for row in rows if row.mount.kind is MountType.VOLUME], owner
        ):
            return await asyncio.to_thread(mounts.make, rows, self._volumes)  # a new volume waits for the disk

    def _copy_up(self, container: Container, image: Image) -> None:
        rootfd = self._image_roots.open(image)
        try:
            copy_up.copy_up(container, rootfd, self._volumes)
        finally:
            os.close(rootfd)


def _check_against(decision: Decision, facts: Facts, config: Config, host: HostConfig) -> None:
    """Raises BadRequest, or Forbidden where the policy wants what the request makes impossible."""
    try:
        _check(config, host)
    except BadRequest as error:
        if host.isolation == Isolation.VM and facts.asked != Isolation.VM and "--isolation vm" in str(error):
            raise Forbidden(f"denied by the isolation policy: {'; '.join(decision.reasons)}; but {error}") from None
        raise
    check_ports(config, host)


def _check_platform(name: str, image: Image, wanted: str) -> None:
    """Refuses an image of another platform than was asked for; what an image does not say, fits. Raises NotFound (P027)."""
    try:
        asked = oci.parse_platform(wanted)
    except oci.BadManifest as error:
        raise BadRequest(str(error)) from None
    if not oci.fits(image.config.platform, asked):
        raise NotFound(
            f"No such image: {name}: it was found but does not match the specified platform: wanted {asked}, actual: {image.config.platform}"
        )


def _with_defaults(identifier: str, config: Config, host: HostConfig) -> tuple[Config, HostConfig]:
    """What is left out by the user and by the image."""
    policy, log = host.restart_policy, host.log_config
    name = config.hostname or (os.uname().nodename if host.network_mode == "host" else identifier[:12])
    return replace(config, hostname=name), replace(
        host,
        restart_policy=policy if policy.name else replace(policy, name="no"),
        log_config=log if log.driver else replace(log, driver="json-file"),
        shm_size=host.shm_size or mounts.DEFAULT_SHM,
    )


def _check(config: Config, host: HostConfig) -> None:
    restart_policy.check(host)
    log_options.check(host)
    log_sinks.check(host)
    if host.user_namespace not in ("", "host"):
        raise BadRequest(
            f'invalid userns mode: {host.user_namespace!r}: containers share the engine\'s, which is "host"'
        )
    if "" in host.annotations:
        raise BadRequest("invalid Annotations: the empty string is not permitted as an annotation key")
    limits.check_health(config.health_check)
    if host.health_on_failure not in ("", "kill", "restart", "stop"):
        raise BadRequest(f"invalid HealthOnFailure {host.health_on_failure!r}: kill, restart or stop")
    if host.isolation == Isolation.VM:
        machine_shape.check(host)
    elif host.storage_options:
        raise BadRequest("--storage-opt needs --isolation vm: a container's files are on the host's file system")
    if host.init and init_program.find() is None:
        raise BadRequest("--init needs a static init program on the host: apt-get install tini")
    if config.working_dir and not config.working_dir.startswith("/"):
        raise BadRequest(f"the working directory '{config.working_dir}' is invalid, it needs to be an absolute path")
    if host.runtime and host.runtime not in _RUNTIMES:
        raise BadRequest(f"unknown or invalid runtime name: {host.runtime}")
    spec.security_options(host)
