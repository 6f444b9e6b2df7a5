"""Creating a container: names, defaults from the image, checks, its directory and files."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import time
from dataclasses import dataclass

import msgspec

from sampan.engine import container_record, image_config, limits, machine_shape, mounts, spec
from sampan.engine.container import Container
from sampan.engine.engine import Engine
from sampan.engine.errors import BadRequest, Forbidden, NotFound
from sampan.engine.model import Asked, Config, CreateRequest, EndpointSettings, HostConfig, Isolation, Mount, MountType
from sampan.engine.policy import facts as facts_of
from sampan.engine.policy.caller import Caller, Owner
from sampan.engine.policy.decide import Decision
from sampan.engine.policy.model import Facts
from sampan.engine.policy.operation import Verb
from sampan.engine.publishing import check_ports
from sampan.images.errors import ImageNotFound
from sampan.images.image import Image
from sampan.linux import filetree
from sampan.oci import manifest as oci
from sampan.runtime import init_program

replace = msgspec.structs.replace
_RUNTIMES = ("sampan", "runc", "io.containerd.runc.v2")  # names that clients of Docker have for the one there is


async def create(
    engine: Engine, who: Caller, request: CreateRequest, name: str, platform: str = ""
) -> tuple[Container, list[str]]:
    """Makes a container for somebody. Returns it and the warnings for the user.

    Raises BadRequest, NotFound (image), Conflict (name).
    """
    wanted = request.config.image
    if not wanted:
        raise BadRequest("config cannot be empty in order to create a container")
    try:
        image = engine.finding.image(who, wanted, Verb.USE, usable=True)
        with engine.images.using(image.id):  # it is not removed before the container is there
            return await _create(engine, who, request, image, name, platform)
    except ImageNotFound:
        raise NotFound(f"No such image: {wanted}") from None


async def _create(
    engine: Engine, who: Caller, request: CreateRequest, image: Image, name: str, platform: str
) -> tuple[Container, list[str]]:
    if platform:
        _check_platform(request.config.image, image, platform)
    identifier = secrets.token_hex(32)
    wanted = normalise(engine, who, request, image)
    facts, host = wanted.facts, wanted.host_config
    with claim_name(engine, name, identifier, who) as name, engine.gate.admitted(who, identifier, facts) as decision:
        isolation = decision.isolation if decision.isolation == Isolation.VM else facts.asked
        warnings = limits.check(host)
        if host.limits.memory_swap > 0 and not host.limits.memory:
            raise BadRequest("You should always set the Memory limit when using Memoryswap limit, see usage")
        config, host = _with_defaults(identifier, wanted.config, replace(host, isolation=isolation))
        _check_against(decision, facts, config, host)
        asked = Asked(labels=request.config.labels, names=tuple(engine.gate.names(who, image)))
        container = Container(identifier, name, time.time_ns(), image.id, config.image, config, host, networks=wanted.networks,
                              owner=facts.user, claim=facts.claim, decision=decision.reasons, group=engine.identity.group,
                              asked=asked)  # fmt: skip
        await _make(engine, container, image, wanted.mounts)
    return container, warnings + wanted.warnings


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a container is to be, with every name in it resolved: what the gate decides on and what is made are these values."""

    config: Config
    host_config: HostConfig
    facts: Facts
    networks: dict[str, EndpointSettings]
    mounts: list[mounts.Planned]
    warnings: list[str]


def normalise(engine: Engine, who: Caller, request: CreateRequest, image: Image) -> Wanted:
    """Resolves what a request names: containers by the ids of such as the caller may share, networks by their names, mounts to
    what they show; and has the image fill in what it leaves out. Raises BadRequest, NotFound, Forbidden."""
    config = image_config.merged(request.config, image_config.read(image.config.get("config") or {}))
    host, finding = request.host_config, engine.finding
    lent = [text.partition(":") for text in host.volumes_from]
    lenders = [(finding.container(who, name, Verb.SHARE), mode) for name, _, mode in lent]
    links = [text.partition(":") for text in host.links]
    host = replace(
        host,
        pid_mode=_shared(engine, who, "PidMode", host.pid_mode),
        ipc_mode=_shared(engine, who, "IpcMode", host.ipc_mode),
        network_mode=_shared(engine, who, "NetworkMode", host.network_mode),
        links=tuple(f"{finding.container(who, at, Verb.SHARE).id}:{alias or at}" for at, _, alias in links),
    )
    mode, planned, warnings = engine.networking.plan(who, host, request.endpoints, config.mac_address)
    host = replace(host, network_mode=mode)
    rows = mounts.plan(config, host, lenders)
    for row in rows:
        if row.mount.kind is MountType.VOLUME:
            finding.check_volume(who, row.mount.name, Verb.USE)
    labels = request.config.labels
    owner, names = Owner(who.user, facts_of.claim(labels)), engine.gate.names(who, image)
    facts = facts_of.make(owner, image.id, names, engine.gate.signers(image), labels, host, planned, [row.mount for row in rows],
                          facts_of.isolation(host, engine.isolation))  # fmt: skip
    return Wanted(config, host, facts, planned, rows, warnings)


def _shared(engine: Engine, who: Caller, key: str, mode: str) -> str:
    """A namespace's mode, with a container by its id. Raises BadRequest, NotFound, Forbidden."""
    if mode.startswith("container:"):
        return f"container:{engine.finding.container(who, mode[10:], Verb.SHARE).id}"
    if key != "NetworkMode" and mode not in ("", "host", "private", "shareable", "none"):
        raise BadRequest(f"invalid {key}: {mode}")
    return mode


def explained(engine: Engine, who: Caller, request: CreateRequest, image: Image) -> Facts:
    """What would be decided on if somebody asked for this container; nothing is made. Raises what create raises."""
    return normalise(engine, who, request, image).facts


def _check_against(decision: Decision, facts: Facts, config: Config, host: HostConfig) -> None:
    """Raises BadRequest, or Forbidden where the policy wants what the request makes impossible."""
    try:
        _check(config, host)
    except BadRequest as error:
        if host.isolation == Isolation.VM and facts.asked != Isolation.VM and "--isolation vm" in str(error):
            raise Forbidden(f"denied by the isolation policy: {'; '.join(decision.reasons)}; but {error}") from None
        raise
    check_ports(config, host)


async def _make(engine: Engine, container: Container, image: Image, rows: list[mounts.Planned]) -> None:
    """The container's mounts, directory and files; with them it is there. Raises BadRequest."""
    spec.build(container, [], {})  # every complaint about the configuration comes now, not at start
    container.mounts = await _mounts(engine, Owner(container.owner, container.claim), rows)
    try:
        text = container_record.checked(container)
    except container_record.Unreadable as error:
        raise BadRequest(f"invalid value: {error}") from None
    directory = engine.containers.directory(container)
    try:
        engine.containers.save(container, text)
        engine.containers.begin_flush()  # while its files are made
        engine.containers.make_directory(container)
        engine.networking.names.write_all_files(container)
        await _make_working_directory(engine, container)
        if any(row.kind is MountType.VOLUME for row in container.mounts):
            await asyncio.to_thread(_copy_up, engine, container, image)
    except BaseException:
        engine.containers.undo(container)
        filetree.remove(directory, ignore_errors=True)
        raise
    engine.containers.add(container)
    engine.events.announce(container, "create")
    if not container.virtual:
        engine.background(engine.roots.mount_ahead(container))


async def _make_working_directory(engine: Engine, container: Container) -> None:
    """It is there before the first start, so that files can be copied into it; in a virtual machine when somebody looks. Raises BadRequest."""
    path = container.config.working_dir or "/"
    if container.virtual or os.path.normpath(path) == "/":
        return
    try:
        await engine.roots.make_directory(container, path)
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG):
            raise BadRequest(f"the working directory can't be made: {path}: {os.strerror(error.errno)}") from None
        raise


async def _mounts(engine: Engine, owner: Owner, rows: list[mounts.Planned]) -> list[Mount]:
    """The rows as the container keeps them, with what they need made; new volumes are their maker's before they are there."""
    if all(row.mount.kind is MountType.TMPFS for row in rows):
        return mounts.make(rows, engine.volumes)
    async with engine.finding.making_volumes(
        [row.mount.name for row in rows if row.mount.kind is MountType.VOLUME], owner
    ):
        return await asyncio.to_thread(mounts.make, rows, engine.volumes)  # a new volume waits for the disk


def _check_platform(name: str, image: Image, wanted: str) -> None:
    """Refuses an image of another platform than was asked for; what an image does not say, fits. Raises NotFound (P027)."""
    try:
        asked = oci.parse_platform(wanted)
    except oci.BadManifest as error:
        raise BadRequest(str(error)) from None
    own = oci.Platform(
        str(image.config.get("os") or asked.os), str(image.config.get("architecture") or asked.architecture)
    )
    if (own.os, own.architecture) != (asked.os, asked.architecture):
        raise NotFound(
            f"No such image: {name}: it was found but does not match the specified platform: wanted {asked}, actual: {own}"
        )


def claim_name(engine: Engine, name: str, identifier: str, who: Caller) -> contextlib.AbstractContextManager[str]:
    """A free name for somebody while they make or rename a container. Raises BadRequest, Conflict."""
    sees = engine.finding.sees(who)

    def shown(holder: Container | None) -> bool:
        return sees(holder) if holder is not None else not engine.gate.active

    return engine.containers.claim_name(name, identifier, shown)


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
    check_restart(host)
    if host.log_config.driver not in ("json-file", "local", "none"):
        raise BadRequest(f"logger: no log driver named '{host.log_config.driver}' is registered")
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
    for request in host.device_requests:
        kinds = " ".join(f"[{' '.join(kind)}]" for kind in request.capabilities)
        raise BadRequest(
            f'could not select device driver "{request.driver}" with capabilities: [{kinds}];'
            " give device nodes with --device"
        )
    spec.security_options(host)


def check_restart(host: HostConfig) -> None:
    """What is to happen after its end. Raises BadRequest."""
    policy = host.restart_policy.name or "no"
    if policy not in ("no", "always", "on-failure", "unless-stopped"):
        raise BadRequest(f"invalid restart policy: unknown policy '{policy}'")
    if host.auto_remove and policy != "no":
        raise BadRequest("can't create 'AutoRemove' container with restart policy")
    if host.restart_policy.max_retries and policy != "on-failure":
        raise BadRequest("invalid restart policy: maximum retry count can only be used with 'on-failure'")


def _copy_up(engine: Engine, container: Container, image: Image) -> None:
    rootfd = engine.image_roots.open(image)
    try:
        mounts.copy_up(container, rootfd, engine.volumes)
    finally:
        os.close(rootfd)
