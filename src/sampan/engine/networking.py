"""Containers on networks: plans at create, wiring at start, names, published ports, connect and disconnect."""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import os
import sys
from typing import TYPE_CHECKING, Any

from sampan.engine.container import Container
from sampan.engine.errors import BadRequest, Forbidden, NotFound
from sampan.engine.sandboxes import Sandboxes
from sampan.linux import netns, nftables
from sampan.linux.files import read_or_empty
from sampan.network import bridge, dns, hostports, ports, slirp
from sampan.network.errors import NetworkError, NetworkNotFound
from sampan.network.firewall import Firewall, Published
from sampan.network.model import Endpoint, Network
from sampan.network.networks import Networks
from sampan.network.proxy import TcpProxy, UdpProxy

if TYPE_CHECKING:
    from sampan.engine.engine import Engine
    from sampan.network.hostports import HostPorts

_RESTORE_AFTER = 0.2


def shares(host: dict[str, Any]) -> bool:
    """Whether the container has no network of its own to be wired: none, host, or another container's."""
    mode = host.get("NetworkMode") or ""
    return mode in ("none", "host") or mode.startswith("container:")


class Networking:
    """The networks of an engine and what its running containers have on them.

    With `obey_host_firewall` published ports are listened on instead of redirected, so that the rules of
    the host's input chain decide who reaches them; the container then sees the host's address.
    """

    def __init__(self, engine: Engine, obey_host_firewall: bool, host_ports: HostPorts | None = None) -> None:
        self._engine = engine
        self._obey = obey_host_firewall
        self._host_ports = host_ports
        self.networks = Networks(engine.store)
        self.sandboxes = Sandboxes(engine)
        self._firewall = Firewall()
        self._mappings: dict[str, list[ports.Mapping]] = {}
        self._proxies: dict[str, list[TcpProxy | UdpProxy]] = {}
        self._servers: dict[str, dns.NameServer] = {}
        self._lock = asyncio.Lock()
        self._news: Any = None
        self._check: asyncio.TimerHandle | None = None

    # create

    def plan(
        self, host: dict[str, Any], wanted: dict[str, Any], mac: str
    ) -> tuple[dict[str, dict[str, Any]], list[str]]:
        """(settings by network name, warnings) of a new container; sets NetworkMode. Raises BadRequest, NotFound."""
        mode = host.get("NetworkMode") or "default"
        if mode == "default":
            mode = host["NetworkMode"] = "bridge"
        given = {("bridge" if name == "default" else name): settings or {} for name, settings in wanted.items()}
        if mode.startswith("container:"):
            host["NetworkMode"] = f"container:{self._engine.find(mode[10:]).id}"
        if shares(host):
            if [name for name in given if name != mode]:
                raise BadRequest(f"conflicting options: cannot attach to further networks with network mode {mode}")
            return {}, self._shared_warnings(host, mode)
        planned = {mode: given.pop(mode, {}), **given}
        for name, settings in planned.items():
            try:
                network = self.networks.find(name)
            except NetworkNotFound as error:
                raise NotFound(str(error)) from None
            if not network.has_names and (settings.get("Aliases") or []):
                raise BadRequest("network-scoped aliases are only supported for user-defined networks")
        if mac:
            planned[mode].setdefault("MacAddress", mac)
        return planned, []

    @staticmethod
    def _shared_warnings(host: dict[str, Any], mode: str) -> list[str]:
        if host.get("PortBindings") and mode == "host":
            return ["Published ports are discarded when using host network mode"]
        if host.get("PortBindings") and mode.startswith("container:"):
            raise BadRequest("conflicting options: port publishing and the container type network mode")
        return []

    # start and end

    async def prepare(self, container: Container) -> tuple[int, str] | None:
        """A wired network namespace for a container about to start and the name of its sandbox, if it has
        one; None when it needs none. The caller closes it. Raises NetworkError; then nothing is left.
        """
        if shares(container.host_config):
            return None
        namespace = -1
        sandbox = self.sandboxes.take(container)
        try:
            if sandbox is not None:
                namespace = sandbox.namespace
            places = self._allocate(container, sandbox.id if sandbox else "")
            if sandbox is not None:
                await asyncio.to_thread(bridge.complete, *places[0], namespace)
            else:
                namespace = await asyncio.to_thread(self._wire, places)
            await self._publish(container)
            self.write_files(container)
            await self._serve_names(container, namespace, sandbox.sockets if sandbox else None)
            return namespace, sandbox.id if sandbox else ""
        except BaseException:
            if namespace >= 0:
                os.close(namespace)
            self.release(container)
            raise

    def _allocate(self, container: Container, identifier: str) -> list[tuple[Network, Endpoint]]:
        for index, (name, settings) in enumerate(container.networks.items()):
            network = self.networks.find(name)
            self.networks.release(network, container.id)
            self.networks.allocate(network, container.id, container.name, f"eth{index}", settings, identifier,
                                   self._reserved(network, container))  # fmt: skip
        return self.networks.of(container.id)

    def _reserved(self, network: Network, container: Container) -> list[str]:
        """The addresses that other containers were given for good, also while they are stopped (P065)."""
        found: list[str] = []
        for other in self._engine.containers.values():
            settings = other.networks.get(network.name)
            if settings and other is not container:
                wanted = settings.get("IPAMConfig") or {}
                found += [wanted[key] for key in ("IPv4Address", "IPv6Address") if wanted.get(key)]
        return found

    def _wire(self, places: list[tuple[Network, Endpoint]]) -> int:
        namespace = netns.new()
        try:
            way_out = _way_out(places)
            for network, endpoint in places:
                bridge.plug(network, endpoint, namespace, default_route=(network, endpoint) == way_out)
        except BaseException:
            os.close(namespace)
            for _, endpoint in places:
                bridge.unplug(endpoint.id)
            raise
        return namespace

    async def _publish(self, container: Container) -> None:
        places = self.networks.of(container.id)
        bindings = _bindings(container)
        if bindings and any(network.driver == "bridge" and not network.internal for network, _ in places):
            ipv6 = self._host_ports is not None or bridge.has_ipv6()
            self._mappings[container.id] = ports.reserve_all(bindings, ipv6, self._binder)
        await self.apply_firewall()
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
        subnets = [ipaddress.ip_network(row["Subnet"]) for n in self.networks.all.values() for row in n.ipam]
        return not client.is_loopback and not any(client in subnet for subnet in subnets)

    def _target(self, container: str) -> Endpoint | None:
        """The endpoint that published ports lead to."""
        places = [(n, e) for n, e in self.networks.of(container) if n.driver == "bridge" and not n.internal]
        way_out = _way_out(places)
        return way_out[1] if way_out else None

    def release(self, container: Container) -> None:
        """Takes back what prepare() gave: ports, names, addresses. The interfaces end with the namespace."""
        server = self._servers.pop(container.id, None)
        if server is not None:
            server.close()
        for proxy in self._proxies.pop(container.id, []):
            proxy.close()
        mappings = self._mappings.pop(container.id, [])
        for mapping in mappings:
            mapping.release()
        for network, _ in self.networks.of(container.id):
            self.networks.release(network, container.id)
        if mappings:
            self._engine.background(self.apply_firewall())

    # firewall

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
                    found.append(Published(mapping.protocol, "" if everywhere else mapping.host_ip, mapping.host_port,
                                           address, mapping.container_port))  # fmt: skip
        return found

    async def apply_firewall(self) -> None:
        """Brings the kernel's table in line with networks and ports. Raises NetworkError."""
        async with self._lock:
            used = [n for n in self.networks.all.values() if n.driver == "bridge" and (not n.predefined or n.endpoints)]
            if not used and not self._firewall.applied:
                return
            try:
                await asyncio.to_thread(self._firewall.apply, used, self.published())
            except nftables.NftablesError as error:
                raise NetworkError(f"firewall: {error}") from error
            self._watch_firewall()

    def _watch_firewall(self) -> None:
        if self._news is None:
            self._news = nftables.news()
            asyncio.get_running_loop().add_reader(self._news.fileno(), self._firewall_changed)

    def _firewall_changed(self) -> None:
        self._news.drain()
        if self._check is None:
            self._check = asyncio.get_running_loop().call_later(_RESTORE_AFTER, self._start_check)

    def _start_check(self) -> None:
        self._check = None
        self._engine.background(self._restore_firewall())

    async def _restore_firewall(self) -> None:
        async with self._lock:
            try:
                if await asyncio.to_thread(self._firewall.restore):
                    print("sampand: somebody changed the nftables table inet sampan: restored", file=sys.stderr)
            except nftables.NftablesError as error:
                print(f"sampand: can't restore the firewall: {error}", file=sys.stderr)

    # names and files

    async def _serve_names(self, container: Container, namespace: int, sockets: dns.Sockets | None = None) -> None:
        """Starts the container's name server, if its resolv.conf says it has one."""
        if container.id in self._servers or not self._has_server(container):
            return
        internal = all(network.internal for network, _ in self.networks.of(container.id))
        servers = [] if internal else list(container.host_config.get("Dns") or []) or self._forwarders()
        server = dns.NameServer(
            lambda name: self._lookup(container.id, name), lambda text: self._reverse(container.id, text), servers
        )
        try:
            await server.start(namespace, sockets)
        except OSError as error:
            raise NetworkError(f"name server: {error}") from error
        self._servers[container.id] = server

    def _has_server(self, container: Container) -> bool:
        if any(network.has_names for network, _ in self.networks.of(container.id)):
            return True
        return not container.host_config.get("Dns") and not _reachable(self._forwarders())

    def _lookup(self, container: str, name: str) -> list[str] | None:
        found: list[str] = []
        for network, _ in self.networks.of(container):
            if not network.has_names:
                continue
            short = name.removesuffix(f".{network.name.lower()}")
            for endpoint in network.endpoints.values():
                names = (endpoint.name, endpoint.container[:12], *endpoint.aliases)
                if any(short == own.lower() for own in names):
                    found += endpoint.addresses
        return found or None

    def _reverse(self, container: str, text: str) -> str | None:
        for network, _ in self.networks.of(container):
            for endpoint in network.endpoints.values() if network.has_names else ():
                if text in endpoint.addresses:
                    return f"{endpoint.name}.{network.name}"
        return None

    def write_all_files(self, container: Container) -> None:
        """/etc/hostname, /etc/hosts and /etc/resolv.conf, bound into the container."""
        write_text(f"{self._engine.directory(container)}/hostname", f"{container.config.get('Hostname', '')}\n")
        self.write_files(container)

    def write_files(self, container: Container) -> None:
        """/etc/hosts and /etc/resolv.conf, in place: they may be bound into a running container."""
        directory = self._engine.directory(container)
        for name, text in (("hosts", self.hosts(container)), ("resolv.conf", self.resolv_conf(container))):
            if container.written.get(name) == text:
                continue
            write_text(f"{directory}/{name}", text)
            container.written[name] = text

    def _forwarders(self) -> list[str]:
        return [slirp.NAME_SERVER] if self._host_ports is not None else dns.host_servers(_host_resolv_conf())

    def hosts(self, container: Container) -> str:
        """The container's /etc/hosts."""
        host, config = container.host_config, container.config
        if host.get("NetworkMode") == "host":
            lines = [read_or_empty("/etc/hosts").rstrip("\n")]
        else:
            lines = ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback", "fe00::\tip6-localnet",
                     "ff00::\tip6-mcastprefix", "ff02::1\tip6-allnodes", "ff02::2\tip6-allrouters"]  # fmt: skip
        for entry in host.get("ExtraHosts") or []:
            name, _, address = entry.partition("=" if "=" in entry else ":")
            address = address.strip("[]")
            lines.append(f"{self._host_gateway() if address == 'host-gateway' else address}\t{name}")
        names = str(config.get("Hostname") or "")
        if config.get("Domainname"):
            names = f"{names}.{config['Domainname']} {names}"
        for _, endpoint in self.networks.of(container.id):
            lines += [f"{text}\t{names}" for text in endpoint.addresses]
        return "\n".join(lines) + "\n"

    def _host_gateway(self) -> str:
        row = self.networks.find("bridge").row(4)
        return str(row["Gateway"]) if row else ""

    def resolv_conf(self, container: Container) -> str:
        """The container's /etc/resolv.conf."""
        host = container.host_config
        text = _host_resolv_conf()
        if host.get("NetworkMode") == "host" and not (
            host.get("Dns") or host.get("DnsSearch") or host.get("DnsOptions")
        ):
            return text
        servers = list(host.get("Dns") or []) or _reachable(self._forwarders())
        if not shares(host) and self._has_server(container):
            servers = [dns.ADDRESS]
        search = [item for item in host.get("DnsSearch") or [] if item != "."]
        if not host.get("DnsSearch"):
            search = next((line.split()[1:] for line in text.splitlines() if line.startswith("search ")), [])
        options = list(host.get("DnsOptions") or []) or _host_options(text, servers == [dns.ADDRESS])
        if servers == [dns.ADDRESS] and not any(option.startswith("ndots:") for option in options):
            options.append("ndots:0")
        lines = [f"nameserver {server}" for server in servers]
        lines += [f"search {' '.join(search)}"] if search else []
        lines += [f"options {' '.join(options)}"] if options else []
        return "\n".join(lines) + "\n" if lines and host.get("NetworkMode") != "none" else ""

    # connect and disconnect

    async def connect(self, container: Container, network: Network, settings: dict[str, Any]) -> None:
        """Puts a container on a further network, now if it runs. Raises Forbidden, NetworkError."""
        if shares(container.host_config):
            raise Forbidden(
                f"container sharing network namespace with another container or host cannot be connected to any other network: {container.name}"
            )
        if network.driver in ("host", "null"):
            raise Forbidden(f"container cannot be connected to {network.name} network")
        if network.name in container.networks:
            raise Forbidden(f"endpoint with name {container.name} already exists in network {network.name}")
        if container.running:
            await self._plug(container, network, settings)
        container.networks[network.name] = settings
        self._engine.save(container)
        self.announce(network, container, "connect")

    async def _plug(self, container: Container, network: Network, settings: dict[str, Any]) -> None:
        used = {endpoint.interface for _, endpoint in self.networks.of(container.id)}
        interface = next(f"eth{number}" for number in range(1000) if f"eth{number}" not in used)
        endpoint = self.networks.allocate(network, container.id, container.name, interface, settings,
                                          reserved=self._reserved(network, container))  # fmt: skip
        namespace = netns.open_of(container.state["Pid"])
        try:
            first = len(used) == 0
            await asyncio.to_thread(bridge.plug, network, endpoint, namespace, first)
            await self.apply_firewall()
            self.write_files(container)
            await self._serve_names(container, namespace)
        except BaseException:
            self.networks.release(network, container.id)
            raise
        finally:
            os.close(namespace)

    async def disconnect(self, container: Container, network: Network, force: bool = False) -> None:
        """Takes a container off a network. Raises Forbidden when it is not on it."""
        if network.name not in container.networks and container.id not in network.endpoints:
            if force:
                return
            raise Forbidden(f"container {container.id} is not connected to network {network.name}")
        endpoint = self.networks.release(network, container.id)
        container.networks.pop(network.name, None)
        if endpoint is not None and container.running:
            namespace = netns.open_of(container.state["Pid"])
            try:
                await asyncio.to_thread(bridge.unplug, endpoint.id, namespace, endpoint.interface)
                left = _way_out(self.networks.of(container.id))
                if left is not None:
                    await asyncio.to_thread(bridge.move_default_route, *left, namespace)
            finally:
                os.close(namespace)
            self.write_files(container)
            await self.apply_firewall()
        self._engine.save(container)
        self.announce(network, container, "disconnect")

    def announce(self, network: Network, container: Container | None, action: str) -> None:
        """Publishes a network event."""
        attributes = {"name": network.name, "type": network.driver}
        if container is not None:
            attributes["container"] = container.id
        self._engine.events.publish("network", action, network.id, attributes)

    # the daemon's start

    async def open(self) -> None:
        """After a start of the daemon: everything as the running containers need it, and nothing else."""
        running = {c.id: c for c in self._engine.containers.values() if c.running}
        for network in self.networks.all.values():
            for identifier in [key for key in network.endpoints if key not in running]:
                self.networks.release(network, identifier)
        for network in self.networks.all.values():
            if network.driver == "bridge" and (network.endpoints or not network.predefined):
                try:
                    bridge.ensure(network)
                except NetworkError as error:
                    print(f"sampand: {error}", file=sys.stderr)
        if self._host_ports is not None:
            hostports.route_answers()
        bridge.sweep(list(self.networks.all.values()))
        for container in running.values():
            if self.networks.of(container.id):
                await self._take_up(container)
        await self.apply_firewall()

    async def _take_up(self, container: Container) -> None:
        """Ports and names of a container that went on running without us."""
        try:
            if container.ports:
                self._mappings[container.id] = [ports.again(**row, binder=self._binder) for row in container.ports]
                await self._start_proxies(container)
            namespace = netns.open_of(container.state["Pid"])
            try:
                await self._serve_names(container, namespace)
            finally:
                os.close(namespace)
        except (NetworkError, OSError) as error:
            print(f"sampand: network of container {container.name}: {error}", file=sys.stderr)

    def port_records(self, container: Container) -> list[dict[str, Any]]:
        """The container's mappings, to be saved and shown."""
        return [{"protocol": m.protocol, "container_port": m.container_port, "host_ip": m.host_ip, "host_port": m.host_port}
                for m in self._mappings.get(container.id, [])]  # fmt: skip

    async def create(self, name: str, **options: Any) -> Network:
        """Makes a network. Raises NetworkError."""
        network = await asyncio.to_thread(lambda: self.networks.create(name, **options))
        await self.apply_firewall()
        self.announce(network, None, "create")
        return network

    async def remove(self, network: Network) -> None:
        """Deletes a network that no container is on. Raises NetworkForbidden."""
        await self.sandboxes.drop(network.name)
        await asyncio.to_thread(self.networks.remove, network)
        await self.apply_firewall()
        self.announce(network, None, "destroy")

    def close(self) -> None:
        """Ends our part; what is in the kernel stays."""
        self.sandboxes.close()
        if self._news is not None:
            asyncio.get_running_loop().remove_reader(self._news.fileno())
            self._news.close()


def _way_out(places: list[tuple[Network, Endpoint]]) -> tuple[Network, Endpoint] | None:
    """The place with the default route: the first that is not internal."""
    return next(((network, endpoint) for network, endpoint in places if not network.internal), None)


def _bindings(container: Container) -> dict[str, list[dict[str, Any]] | None]:
    bindings = dict(container.host_config.get("PortBindings") or {})
    if container.host_config.get("PublishAllPorts"):
        for port in container.config.get("ExposedPorts") or {}:
            bindings.setdefault(port if "/" in port else f"{port}/tcp", [{"HostIp": "", "HostPort": ""}])
    return {port: rows or [{"HostIp": "", "HostPort": ""}] for port, rows in bindings.items()}


def check_ports(config: dict[str, Any], host: dict[str, Any]) -> None:
    """Refuses ports that make no sense. Raises BadRequest."""
    try:
        for port, rows in (host.get("PortBindings") or {}).items():
            ports.parse_port(port)
            for row in rows or []:
                ports.host_range(row.get("HostPort") or "")
                if row.get("HostIp"):
                    ipaddress.ip_address(row["HostIp"])
        for port in config.get("ExposedPorts") or {}:
            ports.parse_port(port)
    except (NetworkError, ValueError) as error:
        raise BadRequest(str(error)) from None
    for server in host.get("Dns") or []:
        try:
            ipaddress.ip_address(server)
        except ValueError:
            raise BadRequest(f"invalid IP address {server!r} for --dns") from None


def write_text(path: str, text: str) -> None:
    """Writes a small file that everybody may read, keeping its inode."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _host_resolv_conf() -> str:
    """The host's resolv.conf, read again when it has changed."""
    try:
        info = os.stat("/etc/resolv.conf")
    except OSError:
        return ""
    return _resolv_conf_of(info.st_ino, info.st_mtime_ns)


@functools.lru_cache(maxsize=1)
def _resolv_conf_of(inode: int, changed: int) -> str:
    return read_or_empty("/etc/resolv.conf")


def _host_options(text: str, ours: bool) -> list[str]:
    """The options of the host's resolv.conf; with our own name server not its ndots (P061)."""
    found = [word for line in text.splitlines() if line.startswith("options ") for word in line.split()[1:]]
    return [word for word in found if not (ours and word.startswith("ndots:"))]


def _reachable(servers: list[str]) -> list[str]:
    """Those that a container can reach itself: not on the host's loopback."""
    return [server for server in servers if not ipaddress.ip_address(server).is_loopback]
