"""Containers on the host's kernel: namespaces and control groups."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable, Collection

from sampan.engine import mounts, pools, spec, stats
from sampan.engine.backends import host_usage
from sampan.engine.backends.backend import ExitDetails, JoinRequest, RootFiles, StartRequest
from sampan.engine.container import Container, shares_network
from sampan.engine.containers import Containers
from sampan.engine.errors import Conflict
from sampan.engine.image_roots import ImageRoots
from sampan.engine.model import HostConfig
from sampan.engine.network.networking import Networking
from sampan.engine.policy.gate import Gate
from sampan.engine.process import Process
from sampan.engine.roots import Roots
from sampan.engine.tasks import Tasks
from sampan.keeper.protocol import Descriptors
from sampan.linux import durable, pidfd
from sampan.linux.cgroup import Cgroup, hierarchies
from sampan.linux.spec_types import Resources
from sampan.network import bridge
from sampan.network.model import Endpoint, Network
from sampan.oci.runtime_spec import Process as SpecProcess
from sampan.runtime.requests import Launch
from sampan.runtime.usage import Reading
from sampan.runtime.usage_types import Usage
from sampan.volumes.local import LocalVolumes

Share = Callable[[str, int], None]
_KILLS = 20  # times that the family of a killed process is looked for: it may fork meanwhile


class Namespaces:
    """The backend of containers that share the host's kernel."""

    def __init__(
        self, containers: Containers, image_roots: ImageRoots, roots: Roots, volumes: LocalVolumes, networking: Networking, gate: Gate,
        tasks: Tasks, files: RootFiles,
    ) -> None:  # fmt: skip
        self._containers, self._image_roots, self._roots = containers, image_roots, roots
        self._volumes, self._networking, self._gate = volumes, networking, gate
        self._tasks, self.files = tasks, files

    # before it runs

    async def make_directory(self, container: Container, path: str) -> None:
        """As Backend.make_directory."""
        await self._roots.make_directory(container, path)

    def created(self, container: Container) -> None:
        """Has its root mounted ahead."""
        self._tasks.beside(self._roots.mount_ahead(container))

    # a run

    async def prepare(self, container: Container, given: list[int]) -> StartRequest:
        """As Backend.prepare."""
        await self._image_roots.ready(container)
        shared: Descriptors = {}

        def share(name: str, fd: int) -> None:
            given.append(fd)
            shared[name] = fd

        network = await self._networking.prepare(container)
        if network:
            share("network", network[0])
        request = self.request(container, given, share)
        if any("source_fd" in entry for entry in request["spec"]["mounts"]):
            share("sources", mounts.table())
        root = self._roots.hand_over(container)
        if root >= 0:
            share("root", root)
        request["sandbox"] = network[1] if network else ""
        return StartRequest(request, shared)

    def request(self, container: Container, given: list[int], share: Share) -> Launch:
        """The keeper's request; `share` sends a descriptor along, by the name that the request has for it. Raises BadRequest, Conflict, Forbidden."""
        host, directory = container.host_config, self._containers.directory(container)
        joins = self._joins(host, share)
        entries = mounts.specification(container, directory, self._volumes, given, self._gate.allowed(container))
        further = container.step.mounts if container.step is not None else []
        request = spec.build(container, [*entries, *further], joins)
        request["overlay"] = self._image_roots.overlay(container)
        request["where"] = f"{directory}/rootfs"
        if request["spec"].get("hooks"):
            # What hooks look for: the bundle, with the configuration that says where the root is.
            durable.replace(f"{directory}/config.json", json.dumps(request["spec"]))
            request["state"] = {"ociVersion": "1.2.0", "id": container.id, "status": "creating", "bundle": directory}
        return request

    def _joins(self, host: HostConfig, share: Share) -> dict[str, str]:
        """The namespaces that it does not get of its own: "host", or "@NAME" for a descriptor that goes along."""
        joins: dict[str, str] = {"cgroup": "host" if host.cgroup_namespace == "host" else ""}
        joins["uts"] = "host" if host.uts_mode == "host" or host.network_mode == "host" else ""
        modes = (("network", host.network_mode, "net"), ("pid", host.pid_mode, "pid"), ("ipc", host.ipc_mode, "ipc"))
        for kind, mode, file in modes:
            joins[kind] = "host" if mode == "host" else ""
            if kind == "network" and not shares_network(host):
                joins[kind] = "@network"
            if mode.startswith("container:"):
                other = self._containers.find(mode[10:])
                refusal = Conflict(f"cannot join the {kind} namespace of a non running container: {other.name}")
                if not other.running:
                    raise refusal
                try:
                    share(kind, other.open_process(f"ns/{file}"))
                    joins[kind] = f"@{kind}"
                except ProcessLookupError:
                    raise refusal from None
        return joins

    def started(self, container: Container) -> None:
        """Prepares for another like it."""
        self._networking.prewarm.started(container)

    def exit_details(self, container: Container) -> ExitDetails:
        """As Backend.exit_details."""
        return ExitDetails(Cgroup(container.cgroup).oom_kills() > 0)

    def release(self, container: Container) -> None:
        """As Backend.release."""
        self._networking.release(container)

    # what runs

    async def freeze(self, container: Container, frozen: bool) -> None:
        """As Backend.freeze. Raises Conflict without control groups."""
        if not hierarchies().usable:
            raise Conflict("pausing needs control groups, which an engine without root doesn't have here")
        await asyncio.to_thread(Cgroup(container.cgroup).freeze, frozen)

    async def settle_pause(self, container: Container, paused: bool) -> bool:
        """As Backend.settle_pause."""
        if not hierarchies().usable:
            return paused
        frozen = Cgroup(container.cgroup).frozen()
        if frozen and not paused:
            await self.freeze(container, False)
        return paused and frozen

    def may_have_ended(self, container: Container) -> bool:
        """As Backend.may_have_ended."""
        return container.process is not None and container.process.ending

    async def kill_inside(self, container: Container) -> bool:
        """There is no inside: SIGKILL of its init is the end, and its files are the host's."""
        return False

    def check_update(self, container: Container, changes: Collection[str]) -> None:
        """All can."""

    async def update(self, container: Container, resources: Resources) -> list[str]:
        """As Backend.update."""
        group = Cgroup(container.cgroup)
        group.update(resources)
        return group.warnings

    # networks

    can_replug = True

    async def plug(self, container: Container, network: Network, endpoint: Endpoint, namespace: int) -> None:
        """As Links.plug: a veth pair."""
        await asyncio.to_thread(bridge.plug, network, endpoint, namespace, False)

    async def plugged(
        self, container: Container, network: Network, endpoint: Endpoint, default: bool, names: bool
    ) -> None:
        """As Links.plugged: the kernel takes the default route from any other interface."""
        if default:
            namespace = container.open_process("ns/net")
            try:
                await asyncio.to_thread(bridge.move_default_route, network, endpoint, namespace)
            finally:
                os.close(namespace)

    async def unplug(
        self, container: Container, endpoint: Endpoint, namespace: int, left: tuple[Network, Endpoint] | None
    ) -> None:
        """As Links.unplug."""
        await asyncio.to_thread(bridge.unplug, endpoint.host_interface, namespace, endpoint.interface)
        if left is not None:
            await asyncio.to_thread(bridge.move_default_route, *left, namespace)

    async def undo_plug(self, container: Container, endpoint: Endpoint) -> None:
        """As Links.undo_plug."""
        await asyncio.to_thread(bridge.unplug, endpoint.host_interface)

    def hosts_changed(self, container: Container) -> None:
        """They are bound into the container, which sees what was written."""

    # what it uses

    async def usage(self, container: Container) -> Usage:
        """As Backend.usage."""
        return host_usage.sample(container)

    async def readings(self, containers: list[Container]) -> dict[str, Reading]:
        """As Backend.readings."""
        return await host_usage.readings(containers)

    async def processes(self, container: Container, arguments: str) -> stats.Processes:
        """As Backend.processes."""
        return await pools.run("look", stats.top, container, arguments)

    def guest_memory(self, container: Container) -> int:
        """There is no guest."""
        return 0

    def shared_footprint(self, container: Container) -> dict[str, int]:
        """As Backend.shared_footprint: the layers of its image."""
        lower = self._image_roots.overlay(container)["lower"]
        return {"image": sum(host_usage.allocated(path) for path in lower[:-1])}

    # execs

    def exec_request(self, container: Container, process: SpecProcess, seccomp: str | None) -> JoinRequest:
        """As Backend.exec_request."""
        return JoinRequest(
            {
                "pid": container.state.pid,
                "start_time": container.start_time,
                "cgroup": container.cgroup,
                "process": process,
                "seccomp": seccomp,
            }
        )

    def signal_exec(self, container: Container, process: Process, number: int) -> None:
        """Descendants are found by parent and, when their parent has gone, by session (P041)."""
        for _ in range(_KILLS if number == signal.SIGKILL else 1):
            members = pidfd.signal_members(lambda: pidfd.family(process.pid, container.pids()), number)
            if not [member for member in members if pidfd.state(member) not in (None, "Z", "X")]:
                return
