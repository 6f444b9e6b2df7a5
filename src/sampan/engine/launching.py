"""What the keeper is asked to start: a container on the host's kernel, or a machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from sampan import sizes
from sampan.engine import mounts, spec
from sampan.engine.container import Container, shares_network
from sampan.engine.engine import Engine
from sampan.engine.errors import BadRequest, Conflict
from sampan.keeper.protocol import Descriptors, LogOptions
from sampan.runtime import init_program
from sampan.runtime.requests import Launch


async def prepare(engine: Engine, container: Container, given: list[int]) -> tuple[Launch, Descriptors]:
    """The keeper's request, and the descriptors that go with it; those in `given` then are the caller's to close.

    Raises RuntimeFailure, EngineError, NetworkError, VmError, OSError.
    """
    await engine.image_roots.ready(container)
    return await (_prepare_machine if container.own_kernel else _prepare_namespaces)(engine, container, given)


async def _prepare_namespaces(engine: Engine, container: Container, given: list[int]) -> tuple[Launch, Descriptors]:
    """The keeper's request of a container that shares the host's kernel, and what goes with it."""
    shared: Descriptors = {}

    def share(name: str, fd: int) -> None:
        given.append(fd)
        shared[name] = fd

    network = await engine.networking.prepare(container)
    if network:
        share("network", network[0])
    request = _request(engine, container, engine.containers.directory(container), given, share)
    if any("source_fd" in entry for entry in request["spec"]["mounts"]):
        share("sources", mounts.table())
    root = engine.roots.hand_over(container)
    if root >= 0:
        share("root", root)
    return request | {"sandbox": network[1] if network else ""}, shared


async def _prepare_machine(engine: Engine, container: Container, given: list[int]) -> tuple[Launch, Descriptors]:
    """The keeper's request of a container in a virtual machine, and what goes with it."""
    wiring = await engine.networking.prepare_machine(container)
    given.append(wiring.namespace)
    container.taps = [fd for _, fd in wiring.taps]
    if container.system:
        request, fds = await engine.system.request(container, wiring)
        given += [fds["disk"], fds["seed"]]
    else:
        request, fds = await engine.machines.request(container, wiring, given)
        given += [fds["root"], fds["disk"], fds["state"]]
    return cast(Launch, request), fds


def _request(
    engine: Engine, container: Container, directory: str, given: list[int], share: Callable[[str, int], None]
) -> Launch:
    host = container.host_config
    init = init_program.find() if host.init else None
    joins: dict[str, str] = {"cgroup": "host" if host.cgroup_namespace == "host" else ""}
    joins["uts"] = "host" if host.uts_mode == "host" or host.network_mode == "host" else ""
    modes = (("network", host.network_mode, "net"), ("pid", host.pid_mode, "pid"), ("ipc", host.ipc_mode, "ipc"))
    for kind, mode, file in modes:
        joins[kind] = "host" if mode == "host" else ""
        if kind == "network" and not shares_network(host):
            joins[kind] = "@network"  # the descriptor that goes along with the request
        if mode.startswith("container:"):
            other = engine.containers.find(mode[10:])
            refusal = Conflict(f"cannot join the {kind} namespace of a non running container: {other.name}")
            if not other.running:
                raise refusal
            try:
                share(kind, other.open_process(f"ns/{file}"))
                joins[kind] = f"@{kind}"
            except ProcessLookupError:
                raise refusal from None
    entries = mounts.specification(container, directory, engine.volumes, init, given, engine.gate.allowed(container))
    request = spec.build(container, entries, joins)
    if init:
        request["spec"]["process"]["args"] = ["/sbin/docker-init", "--", *request["spec"]["process"]["args"]]
    request["overlay"] = engine.image_roots.overlay(container)
    request["where"] = f"{directory}/rootfs"
    return request


def log_options(container: Container) -> LogOptions:
    """How the keeper keeps the container's output. Raises BadRequest."""
    config = container.host_config.log_config
    options = config.options
    if config.driver == "none":
        return LogOptions(1 << 20, 2)  # only what attached clients still have to read
    try:
        size = sizes.parse(options.get("max-size", "0"))
        return LogOptions(max(size, 0), max(int(options.get("max-file", "1")), 0))
    except ValueError as error:
        raise BadRequest(f"invalid log option: {error}") from error
