"""Published ports of the running containers: reservations, redirections in the firewall, proxies where none is possible."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from sampan.engine.container import Container
from sampan.engine.errors import BadRequest
from sampan.engine.model import Config, HostConfig, PortBinding, PublishedPort
from sampan.engine.tasks import Tasks
from sampan.linux import nftables
from sampan.network import bridge, ports, settings
from sampan.network.errors import NetworkError
from sampan.network.firewall import Firewall
from sampan.network.model import Endpoint, Network
from sampan.network.networks import Networks
from sampan.network.proxy import TcpProxy, UdpProxy
from sampan.network.routed import Published

_log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from sampan.network.hostports import HostPorts

_RESTORE_AFTER = 0.2
_ANYWHERE = (PortBinding(),)


class PortMappings:
    """The ports of an engine's containers and the nftables tables that lead to them.

    With `obey_host_firewall` published ports are listened on instead of redirected, so that the rules of
    the host's input chain decide who reaches them; the container then sees the host's address.
    """

    def __init__(
        self, networks: Networks, tasks: Tasks, obey_host_firewall: bool, host_ports: HostPorts | None
    ) -> None:
        self._networks = networks
        self._tasks = tasks
        self._obey = obey_host_firewall
        self._host_ports = host_ports
        self._firewall = Firewall(networks.owner.table, networks.owner.port_prefix)
        self._mappings: dict[str, list[ports.Mapping]] = {}
        self._proxies: dict[str, list[TcpProxy | UdpProxy]] = {}
        self._lock = asyncio.Lock()
        self._news: Any = None
        self._check: asyncio.TimerHandle | None = None

    async def publish(self, container: Container) -> None:
        """Reserves what the container asks for and lets traffic through. Raises NetworkError."""
        endpoints = self._networks.of(container.id)
        bindings = _bindings(container)
        if bindings and any(network.driver == "bridge" and not network.internal for network, _ in endpoints):
            ipv6 = self._host_ports is not None or bridge.has_ipv6()
            self._mappings[container.id] = ports.reserve_all(bindings, ipv6, self._binder)
        await self.apply()
        await self._start_proxies(container)

    async def _start_proxies(self, container: Container) -> None:
        target = self._target(container.id)
        if target is None:
            return
        for mapping in self._mappings.get(container.id, []):
            redirected = ":" not in mapping.host_ip and not self._obey and self._host_ports is None
            if redirected or mapping.reservation is None or mapping.protocol == "sctp":
                continue
            address = target.address(6 if ":" in mapping.host_ip else 4) or target.address(4) or target.address(6)
            kind = TcpProxy if mapping.protocol == "tcp" else UdpProxy
            proxy = kind(mapping.reservation, (address, mapping.container_port), self._foreign)
            await proxy.start()
            self._proxies.setdefault(container.id, []).append(proxy)

    @property
    def _binder(self) -> ports.Bind | None:
        return None if self._host_ports is None else self._host_ports.bind

    def _foreign(self, address: str) -> bool:
        """Whether a container can answer to a client's address, since it is nowhere in its own networks (P068)."""
        if self._host_ports is None:
            return False
        client = ipaddress.ip_address(address)
        subnets = [subnet for network in self._networks.all.values() for subnet in network.subnets]
        return not client.is_loopback and not any(client in subnet for subnet in subnets)

    def _target(self, container: str) -> Endpoint | None:
        """The endpoint that published ports lead to."""
        endpoints = [(n, e) for n, e in self._networks.of(container) if n.driver == "bridge" and not n.internal]
        place = default_gateway(endpoints)
        return place[1] if place else None

    async def take_up(self, container: Container) -> None:
        """Serves the ports of a container that went on running without us. Raises NetworkError, OSError."""
        if container.ports:
            self._mappings[container.id] = [ports.again(row, self._binder) for row in container.ports]
            await self._start_proxies(container)

    def release(self, container: Container) -> bool:
        """Gives the container's ports back. Whether there were any: then the firewall is to be applied."""
        for proxy in self._proxies.pop(container.id, []):
            proxy.close()
        mappings = self._mappings.pop(container.id, [])
        for mapping in mappings:
            mapping.release()
        return bool(mappings)

    def admit(self, endpoints: Iterable[tuple[Network, Endpoint]]) -> None:
        """Lets the ports of these endpoints speak, before what is behind them runs. Blocks. Raises NetworkError."""
        try:
            for network, endpoint in endpoints:
                self._firewall.admit(network, endpoint)
        except (nftables.NftablesError, ValueError) as error:
            raise NetworkError(f"firewall: {error}") from error

    def dismiss(self, endpoint: Endpoint) -> None:
        """The endpoint is given up."""
        self._firewall.dismiss(endpoint)

    def records(self, container: Container) -> list[PublishedPort]:
        """The container's mappings, to be saved and shown."""
        return [
            PublishedPort(m.protocol, m.container_port, m.host_ip, m.host_port)
            for m in self._mappings.get(container.id, [])
        ]

    def published(self) -> list[Published]:
        """Every redirection there should be."""
        if self._obey:
            return []
        found = []
        for container, mappings in self._mappings.items():
            target = self._target(container)
            if target is None:
                continue
            for mapping in mappings:
                address = target.address(6 if ":" in mapping.host_ip else 4)
                if address:
                    everywhere = mapping.host_ip in ("0.0.0.0", "::") or self._host_ports is not None
                    where = None if everywhere else ipaddress.ip_address(mapping.host_ip)
                    found.append(Published(mapping.protocol, where, mapping.host_port, ipaddress.ip_address(address),
                                           mapping.container_port))  # fmt: skip
        return found

    async def begin(self) -> None:
        """After a start of the daemon: apply(), or away with a table that an earlier one has left and nobody needs."""
        try:
            await self.apply()
        except NetworkError as error:
            _log.error(str(error))
        if not self._firewall.applied:
            with contextlib.suppress(nftables.NftablesError):
                await asyncio.to_thread(self._firewall.remove)

    async def apply(self) -> None:
        """Brings the kernel's table in line with networks and ports. Raises NetworkError."""
        async with self._lock:
            used = [
                n for n in self._networks.all.values() if n.driver == "bridge" and (not n.predefined or n.endpoints)
            ]
            if not used and not self._firewall.applied:
                return
            try:
                await asyncio.to_thread(self._firewall.apply, used, self.published())
            except nftables.NftablesError as error:
                raise NetworkError(f"firewall: {error}") from error
            self._watch_firewall()

    def _watch_firewall(self) -> None:
        if self._news is None and not self._firewall.owned:
            self._news = nftables.news()
            asyncio.get_running_loop().add_reader(self._news.fileno(), self._firewall_changed)

    def _firewall_changed(self) -> None:
        self._news.drain()
        if self._check is None:
            self._check = asyncio.get_running_loop().call_later(_RESTORE_AFTER, self._start_check)

    def _start_check(self) -> None:
        self._check = None
        self._tasks.beside(self._restore_firewall())

    async def _restore_firewall(self) -> None:
        async with self._lock:
            try:
                if await asyncio.to_thread(self._firewall.restore):
                    _log.warning(f"somebody changed the nftables table {self._firewall.table}: restored")
            except nftables.NftablesError as error:
                _log.error(f"can't restore the firewall: {error}")

    def close(self, keep: bool) -> None:
        """Ends our part; with `keep` what is in the kernel stays."""
        if not keep and self._firewall.applied:
            with contextlib.suppress(nftables.NftablesError):
                self._firewall.remove()
        if self._news is not None:
            asyncio.get_running_loop().remove_reader(self._news.fileno())
            self._news.close()


def default_gateway(endpoints: list[tuple[Network, Endpoint]]) -> tuple[Network, Endpoint] | None:
    """The place with the default route: of those that are not internal the one with the highest priority, by name among equals (as Docker 28)."""
    leading = [(network, endpoint) for network, endpoint in endpoints if not network.internal]
    return min(leading, key=lambda place: (-place[1].priority, place[0].name), default=None)


def _bindings(container: Container) -> dict[str, tuple[PortBinding, ...]]:
    bindings = dict(container.host_config.port_bindings)
    if container.host_config.publish_all_ports:
        for port in container.config.exposed_ports:
            bindings.setdefault(port if "/" in port else f"{port}/tcp", _ANYWHERE)
    return {port: rows or _ANYWHERE for port, rows in bindings.items()}


def check_ports(config: Config, host: HostConfig) -> None:
    """Refuses ports that make no sense. Raises BadRequest."""
    try:
        for port, rows in host.port_bindings.items():
            ports.parse_port(port)
            for row in rows:
                ports.host_range(row.host_port)
                if row.host_ip:
                    settings.address(row.host_ip, "HostIp")
        for port in config.exposed_ports:
            ports.parse_port(port)
    except (NetworkError, ValueError) as error:
        raise BadRequest(str(error)) from None
    for server in host.dns:
        try:
            settings.address(server, "Dns")
        except NetworkError:
            raise BadRequest(f"invalid IP address {server!r} for --dns") from None
