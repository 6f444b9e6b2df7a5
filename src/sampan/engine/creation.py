"""Creating a container: names, defaults from the image, checks, its directory and files."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import time
from dataclasses import dataclass
from typing import Any

from sampan.engine import container_record, limits, machine_shape, mounts, spec
from sampan.engine.container import Container
from sampan.engine.engine import Engine
from sampan.engine.errors import BadRequest, Forbidden, NotFound
from sampan.engine.policy import facts as facts_of
from sampan.engine.policy.caller import Caller, Owner
from sampan.engine.policy.decide import Decision
from sampan.engine.policy.model import Facts
from sampan.engine.policy.operation import Verb
from sampan.engine.publishing import check_ports
from sampan.images.errors import ImageNotFound
from sampan.images.store import Image
from sampan.linux import filetree
from sampan.oci import manifest as oci
from sampan.runtime import init_program

_APART = ("HostConfig", "NetworkingConfig")  # what of a request is not the container's configuration
_RUNTIMES = ("sampan", "runc", "io.containerd.runc.v2")  # names that clients of Docker have for the one there is


async def create(
    engine: Engine, who: Caller, body: dict[str, Any], name: str, platform: str = ""
) -> tuple[Container, list[str]]:
    """Makes a container for somebody from the API's request. Returns it and the warnings for the user.

    Raises BadRequest, NotFound (image), Conflict (name).
    """
    host: dict[str, Any] = dict(body.get("HostConfig") or {})
    config = {key: value for key, value in body.items() if key not in _APART}
    if not config.get("Image"):
        raise BadRequest("config cannot be empty in order to create a container")
    try:
        image = engine.finding.image(who, config["Image"], Verb.USE, usable=True)
        with engine.images.using(image.id):  # it is not removed before the container is there
            return await _create(engine, who, body, config, host, image, name, platform)
    except ImageNotFound:
        raise NotFound(f"No such image: {config['Image']}") from None


async def _create(
    engine: Engine,
    who: Caller,
    body: dict[str, Any],
    config: dict[str, Any],
    host: dict[str, Any],
    image: Image,
    name: str,
    platform: str,
) -> tuple[Container, list[str]]:
    if platform:
        _check_platform(config["Image"], image, platform)
    identifier = secrets.token_hex(32)
    labels = dict(config.get("Labels") or {})
    _merge_image(config, image)
    wanted = normalise(engine, who, body, config, host, image, labels)
    facts = wanted.facts
    with claim_name(engine, name, identifier, who) as name, engine.gate.admitted(who, identifier, facts) as decision:
        host["Isolation"] = decision.isolation if decision.isolation == "vm" else facts.asked
        warnings = limits.check(host)
        if (host.get("MemorySwap") or 0) > 0 and not host.get("Memory"):
            raise BadRequest("You should always set the Memory limit when using Memoryswap limit, see usage")
        _defaults(identifier, config, host)
        _check_against(decision, facts, config, host)
        container = Container(identifier, name, time.time_ns(), image.id, body["Image"], config, host, networks=wanted.networks,
                              owner=facts.user, claim=facts.claim, decision=decision.reasons, group=engine.identity.group,
                              asked={"labels": labels, "names": engine.gate.names(who, image)})  # fmt: skip
        await _make(engine, container, image, wanted.mounts)
    return container, warnings + wanted.warnings


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a container is to be, with every name in it resolved: what the gate decides on and what is made are these values."""

    facts: Facts
    networks: dict[str, dict[str, Any]]
    mounts: list[dict[str, Any]]
    warnings: list[str]


def normalise(
    engine: Engine, who: Caller, body: dict[str, Any], config: dict[str, Any], host: dict[str, Any], image: Image,
    labels: dict[str, str],
) -> Wanted:  # fmt: skip
    """Resolves what a request names: containers by the ids of such as the caller may share, networks by their names, mounts to
    rows. `config` and `host` are what is kept of it, and are changed. Raises BadRequest, NotFound, Forbidden."""
    for key in ("PidMode", "IpcMode", "NetworkMode"):
        mode = host.get(key) or ""
        if mode.startswith("container:"):
            host[key] = f"container:{engine.finding.container(who, mode[10:], Verb.SHARE).id}"
        elif key != "NetworkMode" and mode not in ("", "host", "private", "shareable", "none"):
            raise BadRequest(f"invalid {key}: {mode}")
    lent = [text.partition(":") for text in host.get("VolumesFrom") or []]
    lenders = [(engine.finding.container(who, name, Verb.SHARE), mode) for name, _, mode in lent]
    links = [text.partition(":") for text in host.get("Links") or []]
    host["Links"] = [f"{engine.finding.container(who, at, Verb.SHARE).id}:{alias or at}" for at, _, alias in links]
    endpoints = (body.get("NetworkingConfig") or {}).get("EndpointsConfig") or {}
    planned, warnings = engine.networking.plan(who, host, endpoints, config.get("MacAddress") or "")
    rows = mounts.parse(config, host, lenders)
    for row in rows:
        if row["Type"] == "volume":
            engine.finding.check_volume(who, row["Name"], Verb.USE)
    owner, names = Owner(who.user, facts_of.claim(labels)), engine.gate.names(who, image)
    facts = facts_of.make(owner, image.id, names, engine.gate.signers(image), labels, host, planned, rows,
                          facts_of.isolation(host, engine.isolation))  # fmt: skip
    return Wanted(facts, planned, rows, warnings)


def explained(engine: Engine, who: Caller, body: dict[str, Any], image: Image) -> Facts:
    """What would be decided on if somebody asked for this container; nothing is made. Raises what create raises."""
    host, config = dict(body.get("HostConfig") or {}), {k: v for k, v in body.items() if k not in _APART}
    labels = dict(config.get("Labels") or {})
    _merge_image(config, image)
    return normalise(engine, who, body, config, host, image, labels).facts


def _check_against(decision: Decision, facts: Facts, config: dict[str, Any], host: dict[str, Any]) -> None:
    """Raises BadRequest, or Forbidden where the policy wants what the request makes impossible."""
    try:
        _check(config, host)
    except BadRequest as error:
        if host["Isolation"] == "vm" and facts.asked != "vm" and "--isolation vm" in str(error):
            raise Forbidden(f"denied by the isolation policy: {'; '.join(decision.reasons)}; but {error}") from None
        raise
    check_ports(config, host)


async def _make(engine: Engine, container: Container, image: Image, rows: list[dict[str, Any]]) -> None:
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
        if any(row["Type"] == "volume" for row in container.mounts):
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
    path = container.config.get("WorkingDir") or "/"
    if container.virtual or os.path.normpath(path) == "/":
        return
    try:
        await engine.roots.make_directory(container, path)
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG):
            raise BadRequest(f"the working directory can't be made: {path}: {os.strerror(error.errno)}") from None
        raise


async def _mounts(engine: Engine, owner: Owner, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows as the container keeps them, with what they need made; new volumes are their maker's before they are there."""
    if all(row["Type"] == "tmpfs" for row in rows):
        return mounts.make(rows, engine.volumes)
    async with engine.finding.making_volumes([row["Name"] for row in rows if row["Type"] == "volume"], owner):
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


def _merge_image(config: dict[str, Any], image: Image) -> None:
    base = image.config.get("config") or {}
    if config.get("Entrypoint") is None or config.get("Entrypoint") == []:
        if not config.get("Cmd"):
            config["Cmd"] = base.get("Cmd")
        if config.get("Entrypoint") is None:
            config["Entrypoint"] = base.get("Entrypoint")
    elif config["Entrypoint"] == [""]:
        config["Entrypoint"] = None
    for key in ("Cmd", "Entrypoint"):
        if isinstance(config.get(key), str):
            config[key] = [config[key]]
    for key in ("User", "WorkingDir", "StopSignal", "Shell", "Healthcheck"):
        if not config.get(key) and base.get(key):
            config[key] = base[key]
    given = {item.partition("=")[0] for item in config.get("Env") or []}
    inherited = [item for item in base.get("Env") or [] if item.partition("=")[0] not in given]
    config["Env"] = inherited + list(config.get("Env") or [])
    for key in ("Labels", "ExposedPorts", "Volumes"):
        config[key] = {**(base.get(key) or {}), **(config.get(key) or {})}


def _defaults(identifier: str, config: dict[str, Any], host: dict[str, Any]) -> None:
    if not config.get("Hostname") and host.get("NetworkMode") != "host":
        config["Hostname"] = identifier[:12]
    elif host.get("NetworkMode") == "host" and not config.get("Hostname"):
        config["Hostname"] = os.uname().nodename
    host.setdefault("RestartPolicy", {"Name": "no", "MaximumRetryCount": 0})
    host["LogConfig"] = host.get("LogConfig") or {"Type": "", "Config": {}}
    host["LogConfig"]["Type"] = host["LogConfig"].get("Type") or "json-file"
    host["ShmSize"] = host.get("ShmSize") or mounts.DEFAULT_SHM
    config.setdefault("OpenStdin", False)
    config.setdefault("Tty", False)


def _check(config: dict[str, Any], host: dict[str, Any]) -> None:
    check_restart(host)
    if host["LogConfig"]["Type"] not in ("json-file", "local", "none"):
        raise BadRequest(f"logger: no log driver named '{host['LogConfig']['Type']}' is registered")
    if host["Isolation"] == "vm":
        machine_shape.check(host)
    elif host.get("StorageOpt"):
        raise BadRequest("--storage-opt needs --isolation vm: a container's files are on the host's file system")
    if host.get("Init") and init_program.find() is None:
        raise BadRequest("--init needs a static init program on the host: apt-get install tini")
    if config.get("WorkingDir") and not config["WorkingDir"].startswith("/"):
        raise BadRequest(f"the working directory '{config['WorkingDir']}' is invalid, it needs to be an absolute path")
    if host.get("Runtime") and host["Runtime"] not in _RUNTIMES:
        raise BadRequest(f"unknown or invalid runtime name: {host['Runtime']}")
    for request in host.get("DeviceRequests") or []:
        kinds = " ".join(f"[{' '.join(kind)}]" for kind in request.get("Capabilities") or [])
        raise BadRequest(
            f'could not select device driver "{request.get("Driver") or ""}" with capabilities: [{kinds}];'
            " give device nodes with --device"
        )
    spec.security_options(host)


def check_restart(host: dict[str, Any]) -> None:
    """What is to happen after its end. Raises BadRequest."""
    policy = (host.get("RestartPolicy") or {}).get("Name") or "no"
    if policy not in ("no", "always", "on-failure", "unless-stopped"):
        raise BadRequest(f"invalid restart policy: unknown policy '{policy}'")
    if host.get("AutoRemove") and policy != "no":
        raise BadRequest("can't create 'AutoRemove' container with restart policy")
    if host["RestartPolicy"].get("MaximumRetryCount") and policy != "on-failure":
        raise BadRequest("invalid restart policy: maximum retry count can only be used with 'on-failure'")


def _copy_up(engine: Engine, container: Container, image: Image) -> None:
    rootfd = engine.image_roots.open(image)
    try:
        mounts.copy_up(container, rootfd, engine.volumes)
    finally:
        os.close(rootfd)
