"""Containers on networks: plans at create, wiring at start, names, published ports, connect and disconnect."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import msgspec

from sampan.engine import vanishing
from sampan.engine.container import Container, is_shared, shares_network
from sampan.engine.containers import Containers
from sampan.engine.errors import BadRequest, DiskError, Forbidden, NotFound
from sampan.engine.events import Events
from sampan.engine.finding import Finding
from sampan.engine.keeper_link import KeeperLink
from sampan.engine.model import EndpointSettings, HostConfig
from sampan.engine.network.links import Links
from sampan.engine.network.port_mappings import PortMappings, default_gateway
from sampan.engine.network.prewarm import Prewarm
from sampan.engine.network.resolver import Resolver
from sampan.engine.policy.caller import Caller, Owner
from sampan.engine.policy.operation import Kind, Verb
from sampan.engine.records import Records
from sampan.engine.tasks import Tasks
from sampan.engine.wiring import Wiring, slot_of
from sampan.linux import netns
from sampan.network import bridge
from sampan.network import settings as endpoint_settings
from sampan.network.errors import NetworkNotFound
from sampan.network.model import Endpoint, Network, NetworkRequest
from sampan.network.networks import Networks

if TYPE_CHECKING:
    from sampan.network.hostports import HostPorts


replace = msgspec.structs.replace


class Networking:
    """The networks of an engine and what its running containers have on them."""

    def __init__(
        self,
        networks: Networks,
        containers: Containers,
        records: Records,
        finding: Finding,
        links: Callable[[Container], Links],
        keeper: KeeperLink,
        events: Events,
        tasks: Tasks,
        obey_host_firewall: bool,
        host_ports: HostPorts | None = None,
    ) -> None:
        self.networks = networks
        self._containers, self._records = containers, records
        self._finding, self._owners = finding, finding.owners
        self._links = links
        self._events, self._tasks = events, tasks
        self.host_ports = host_ports
        self._changing = asyncio.Lock()
        self.prewarm = Prewarm(networks, self.settle, keeper, tasks)
        self.port_mappings = PortMappings(networks, tasks, obey_host_firewall, host_ports)
        self.resolver = Resolver(
            networks, containers, lambda container: links(container).hosts_changed(container), host_ports is not None
        )

    # create

    def plan(
        self, who: Caller, host: HostConfig, wanted: Mapping[str, EndpointSettings], mac: str
    ) -> tuple[str, dict[str, EndpointSettings], list[str]]:
        """(network mode, settings by network name, warnings) of a new container. Networks may be named by their ids, and only
        such as `who` may use. Raises BadRequest, NotFound, Forbidden."""
        mode = host.network_mode or "default"
        if mode == "default":
            mode = "bridge"
        given = {("bridge" if name == "default" else name): settings for name, settings in wanted.items()}
        resolved = mode if is_shared(mode) else self._usable(who, mode).name  # an id may be that of the host's
        if is_shared(resolved):
            if [name for name in given if name not in (mode, resolved)]:
                raise BadRequest(f"conflicting options: cannot attach to further networks with network mode {mode}")
            return resolved, {}, self._shared_warnings(host, resolved)
        planned: dict[str, EndpointSettings] = {}
        for text, settings in {mode: given.pop(mode, EndpointSettings()), **given}.items():
            network = self._usable(who, text)
            if network.driver in ("host", "null"):
                raise BadRequest(
                    f"conflicting options: {network.name} is not a network to be attached to beside others"
                )
            if network.name in planned:
                settings = settings.over(planned[network.name])
            if not network.has_names and settings.aliases:
                raise BadRequest("network-scoped aliases are only supported for user-defined networks")
            if mac and not planned and not settings.mac:  # it is of the first
                settings = replace(settings, mac=mac)
            planned[network.name] = endpoint_settings.checked(network, settings)
        return next(iter(planned)), planned, []

    def _usable(self, who: Caller, text: str) -> Network:
        try:
            return self._finding.network(who, text, Verb.USE)
        except NetworkNotFound as error:
            raise NotFound(str(error)) from None

    @staticmethod
    def _shared_warnings(host: HostConfig, mode: str) -> list[str]:
        if host.port_bindings and mode == "host":
            return ["Published ports are discarded when using host network mode"]
        if host.port_bindings and mode.startswith("container:"):
            raise BadRequest("conflicting options: port publishing and the container type network mode")
        return []

    # start and end

    async def prepare(self, container: Container) -> tuple[int, str] | None:
        """A wired network namespace for a container about to start and the name of its sandbox, if it has
        one; None when it needs none. The caller closes it. Raises NetworkError; then nothing is left.
        """
        if shares_network(container.host_config):
            return None
        await self._settle(container)
        namespace = -1
        sandbox = self.prewarm.take(container)
        try:
            if sandbox is not None:
                namespace = sandbox.namespace
            endpoints = self._allocate(container, sandbox.id if sandbox else "")
            if sandbox is not None:
                await asyncio.to_thread(self._complete, endpoints, namespace)
            else:
                namespace = await asyncio.to_thread(self._wire, endpoints)
            await self.port_mappings.publish(container)
            self.resolver.write_files(container)
            self.resolver.tell_linked(container)
            await self.resolver.serve(container, namespace, sandbox.sockets if sandbox else None)
            return namespace, sandbox.id if sandbox else ""
        except BaseException:
            if namespace >= 0:
                os.close(namespace)
            self.release(container)
            raise

    async def prepare_machine(self, container: Container, slots: int) -> Wiring:
        """A virtual machine's network, published and with its name server; the caller closes it. It has room for `slots` interfaces.

        Raises NetworkError; then nothing is left.
        """
        if not shares_network(container.host_config):
            await self._settle(container)
        wiring = Wiring(await asyncio.to_thread(netns.new), [], [])
        try:
            endpoints = [] if shares_network(container.host_config) else self._allocate(container, "")
            await asyncio.to_thread(self.port_mappings.admit, endpoints)
            default = default_gateway(endpoints)
            for network, endpoint in endpoints:
                wiring.endpoints.append((network, endpoint, (network, endpoint) == default))
                slot = slot_of(endpoint.interface, slots)
                wiring.taps.append((slot, await asyncio.to_thread(bridge.plug_tap, network, endpoint)))
            if endpoints:
                await self.port_mappings.publish(container)
                self.resolver.write_files(container)
                self.resolver.tell_linked(container)
                await self.resolver.serve(container, wiring.namespace)
            return wiring
        except BaseException:
            wiring.close()
            self.release(container)
            raise

    async def _settle(self, container: Container) -> None:
        """Before the first container: what the default network has is nobody else's. Raises NetworkError."""
        for name in container.networks:
            network = self.networks.find(name)
            await self.settle(network)

    async def settle(self, network: Network) -> None:
        """Before a network is used: what the default one has is nobody else's. Raises NetworkError, DiskError."""
        if self.networks.unsettled(network) and await asyncio.to_thread(self.networks.settle, network):
            self.networks.save(network)

    def _allocate(self, container: Container, identifier: str) -> list[tuple[Network, Endpoint]]:
        for index, (name, settings) in enumerate(container.networks.items()):
            network = self.networks.find(name)
            self._give_back(network, container.id)
            self.networks.allocate(network, container.id, container.name, f"eth{index}", settings, identifier,
                                   self._reserved(network, container))  # fmt: skip
        return self.networks.of(container.id)

    def _reserved(self, network: Network, container: Container) -> list[str]:
        """The addresses that other containers were given for good, also while they are stopped (P065)."""
        found: list[str] = []
        for other in self._containers.values():
            settings = other.networks.get(network.name)
            wanted = settings.addresses if settings else None
            if wanted and other is not container:
                found += [address for address in (wanted.ipv4, wanted.ipv6) if address]
        return found

    def _complete(self, endpoints: list[tuple[Network, Endpoint]], namespace: int) -> None:
        self.port_mappings.admit(endpoints)
        bridge.complete(*endpoints[0], namespace)

    def _wire(self, endpoints: list[tuple[Network, Endpoint]]) -> int:
        namespace = netns.new()
        try:
            self.port_mappings.admit(endpoints)
            default = default_gateway(endpoints)
            for network, endpoint in endpoints:
                bridge.plug(network, endpoint, namespace, default_route=(network, endpoint) == default)
        except BaseException:
            os.close(namespace)
            for _, endpoint in endpoints:
                bridge.unplug(endpoint.host_interface)
            raise
        return namespace

    def release(self, container: Container) -> None:
        """Takes back what prepare() gave: ports, names, addresses. The interfaces end with the namespace."""
        self.resolver.release(container)
        had_ports = self.port_mappings.release(container)
        for network, _ in self.networks.of(container.id):
            self._give_back(network, container.id)
        if had_ports:
            self._tasks.beside(self.port_mappings.apply())

    def _give_back(self, network: Network, container: str) -> None:
        endpoint = self.networks.release(network, container)
        if endpoint is not None:
            self.port_mappings.dismiss(endpoint)

    # connect and disconnect

    async def connect(self, container: Container, network: Network, settings: EndpointSettings) -> None:
        """Puts a container on a further network, now if it runs; on disk when this returns. Raises Forbidden, NetworkError.

        The container's record is written last: until it names the network, a start of ours takes all of it back.
        """
        if shares_network(container.host_config):
            raise Forbidden(
                f"container sharing network namespace with another container or host cannot be connected to any other network: {container.name}"
            )
        if network.driver in ("host", "null"):
            raise Forbidden(f"container cannot be connected to {network.name} network")
        if network.name in container.networks:
            raise Forbidden(f"endpoint with name {container.name} already exists in network {network.name}")
        settings = endpoint_settings.checked(network, settings)
        if settings.links:
            raise BadRequest(
                "Links are not implemented for a container that exists: give it HostConfig.Links when it is made, or use Aliases"
            )
        if container.running:
            await self.settle(network)
            with vanishing.unless_ended(container):
                await self._plug(container, network, settings)
        container.networks[network.name] = settings
        try:
            self._containers.save(container)
            await self._records.flush()
        except DiskError:
            del container.networks[network.name]
            if network.endpoints.get(container.id):
                await self.unplug(container, network, network.endpoints[container.id])
            raise
        self.announce(network, container, "connect")

    async def _plug(self, container: Container, network: Network, settings: EndpointSettings) -> None:
        used = {endpoint.interface for _, endpoint in self.networks.of(container.id)}
        interface = next(f"eth{number}" for number in range(1000) if f"eth{number}" not in used)
        endpoint = self.networks.allocate(network, container.id, container.name, interface, settings,
                                          reserved=self._reserved(network, container))  # fmt: skip
        namespace, links = container.open_process("ns/net"), self._links(container)
        try:
            default = default_gateway(self.networks.of(container.id)) == (network, endpoint)
            await asyncio.to_thread(self.port_mappings.admit, [(network, endpoint)])
            await links.plug(container, network, endpoint, namespace)
            await self.port_mappings.apply()
            self.resolver.write_files(container)
            await self.resolver.serve(container, namespace)
            await links.plugged(container, network, endpoint, default, self.resolver.serves(container))
        except BaseException:
            self._give_back(network, container.id)
            await links.undo_plug(container, endpoint)
            raise
        finally:
            os.close(namespace)

    async def plug_again(self, container: Container, network: Network, endpoint: Endpoint) -> bool:
        """Gives a running container an interface that it has lost; whether that can be done. Raises NetworkError, OSError."""
        links = self._links(container)
        if not links.can_replug:
            return False
        namespace = container.open_process("ns/net")
        try:
            default = default_gateway(self.networks.of(container.id)) == (network, endpoint)
            await links.plug(container, network, endpoint, namespace)
            await links.plugged(container, network, endpoint, default, self.resolver.serves(container))
        finally:
            os.close(namespace)
        return True

    async def disconnect(self, container: Container, network: Network, force: bool = False) -> None:
        """Takes a container off a network; on disk when this returns. Raises Forbidden when it is not on it.

        The container's record is written first: from then on a start of ours does what is left to do.
        """
        if network.name not in container.networks and container.id not in network.endpoints:
            if force:
                return
            raise Forbidden(f"container {container.id} is not connected to the network {network.name}")
        left = {name: settings for name, settings in container.networks.items() if name != network.name}
        before, container.networks = container.networks, left
        try:
            self._containers.save(container)
        except DiskError:
            container.networks = before
            raise
        endpoint = network.endpoints.get(container.id)
        if endpoint is not None and container.running and not vanishing.ended(container):
            await self.unplug(container, network, endpoint)
            self.resolver.write_files(container)
            await self.port_mappings.apply()
        elif endpoint is not None:
            self._give_back(network, container.id)
        await self._records.flush()
        self.announce(network, container, "disconnect")

    async def unplug(self, container: Container, network: Network, endpoint: Endpoint) -> None:
        """Takes a running container's interface and its place on a network away."""
        namespace = container.open_process("ns/net")
        try:
            left = default_gateway([place for place in self.networks.of(container.id) if place[0] is not network])
            await self._links(container).unplug(container, endpoint, namespace, left)
        finally:
            os.close(namespace)
            self._give_back(network, container.id)

    def used(self, network: Network) -> bool:
        """Whether containers are on it or will be when they start, whosever they are."""
        return any(network.name in container.networks for container in self._containers.values())

    def announce(self, network: Network, container: Container | None, action: str) -> None:
        """Publishes a network event."""
        attributes = {"name": network.name, "type": network.driver}
        if container is not None:
            attributes["container"] = container.id
        owners = self._owners.of(Kind.NETWORK, network.id)
        if container is not None:
            owners = (Owner(container.owner, container.claim),)
        self._events.publish("network", action, network.id, attributes, owners)

    async def create(self, owner: Owner, asked: NetworkRequest) -> Network:
        """Makes a network of somebody's; it is on disk when this returns. Raises NetworkError."""
        async with self._changing:  # names, bridges and subnets are looked at before they are taken
            network = await asyncio.to_thread(self.networks.make, asked)
            try:
                self._owners.set(Kind.NETWORK, network.id, (owner,))
                self.networks.add(network)
                await self.port_mappings.apply()
                await self._records.flush()
            except BaseException:
                self.networks.drop(network)
                self._owners.forget(Kind.NETWORK, network.id)
                await asyncio.to_thread(bridge.remove, network, self.networks.owner)
                raise
        self.announce(network, None, "create")
        return network

    async def remove(self, network: Network) -> None:
        """Deletes a network that no container is on; it is gone from the disk when this returns. Raises NetworkForbidden."""
        await self.prewarm.drop(network.name)
        async with self._changing:
            self.networks.check_removable(network)
            self.networks.forget(network)
            await asyncio.to_thread(bridge.remove, network, self.networks.owner)
        await self.port_mappings.apply()
        await self._records.flush()
        self.announce(network, None, "destroy")
        self._owners.forget(Kind.NETWORK, network.id)

    def close(self) -> None:
        """Ends our part; what is in the kernel stays, unless nothing runs that needs it."""
        self.prewarm.close()
        keep = any(container.running for container in self._containers.values())
        self.port_mappings.close(keep)
        default = self.networks.named("bridge")
        if default is not None and not keep:
            bridge.remove(default, self.networks.owner)
