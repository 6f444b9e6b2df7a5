"""What a container finds names with: its name server, /etc/hosts, /etc/resolv.conf."""

from __future__ import annotations

import functools
import ipaddress
import os
import re
from collections.abc import Callable

from sampan.engine.container import Container, shares_network
from sampan.engine.containers import Containers
from sampan.engine.errors import BadRequest
from sampan.linux.files import is_strange, read_or_empty
from sampan.network import dns, settings, slirp
from sampan.network.errors import NetworkError
from sampan.network.networks import Networks

_WORD = re.compile(r"[^\s\x00-\x20\x7f#]{1,255}")


class Resolver:
    """The name servers of an engine's running containers, and the files bound into them."""

    def __init__(
        self,
        networks: Networks,
        containers: Containers,
        changed: Callable[[Container], None],
        behind_slirp: bool,
    ) -> None:
        """`changed` is told when the files of a running container have new contents: a guest has copies."""
        self._networks = networks
        self._containers = containers
        self._changed = changed
        self._behind_slirp = behind_slirp
        self._servers: dict[str, dns.NameServer] = {}

    async def serve(self, container: Container, namespace: int, sockets: dns.Sockets | None = None) -> None:
        """Starts the container's name server, if its resolv.conf says it has one."""
        if not self.needs_server(container):
            return
        internal = all(network.internal for network, _ in self._networks.of(container.id))
        servers = [] if internal else list(container.host_config.dns) or self._forwarders()
        server = dns.NameServer(
            lambda name: self._lookup(container.id, name), lambda text: self._reverse(container.id, text), servers
        )
        try:
            await server.start(namespace, sockets)
        except OSError as error:
            raise NetworkError(f"name server: {error}") from error
        self._servers[container.id] = server

    def serves(self, container: Container) -> bool:
        """Whether a name server of the container's runs."""
        return container.id in self._servers

    def needs_server(self, container: Container) -> bool:
        """Whether it is to have one and has none yet."""
        return container.id not in self._servers and self._has_server(container)

    def _has_server(self, container: Container) -> bool:
        if any(network.has_names for network, _ in self._networks.of(container.id)):
            return True
        return not container.host_config.dns and not _reachable(self._forwarders())

    def _links(self, container: Container | None) -> list[tuple[Container, str]]:
        """The containers that this one has names of its own for."""
        texts = container.host_config.links if container else []
        found = [(self._containers.get(text.partition(":")[0]), text.partition(":")[2]) for text in texts]
        return [(target, alias) for target, alias in found if target is not None]

    def tell_linked(self, container: Container) -> None:
        """Writes its name and addresses where containers that run link to it."""
        for other in self._containers.values():
            if other.host_config.links and other.running and container in [to for to, _ in self._links(other)]:
                self.write_files(other)

    def _lookup(self, container: str, name: str) -> list[str] | None:
        found: list[str] = []
        links = self._links(self._containers.get(container))
        for network, _ in self._networks.of(container):
            if not network.has_names:
                continue
            short = name.removesuffix(f".{network.name.lower()}")
            for endpoint in network.endpoints.values():
                linked = [alias for target, alias in links if target.id == endpoint.container]
                names = (endpoint.name, endpoint.container[:12], *endpoint.aliases, *linked)
                if any(short == own.lower() for own in names):
                    found += endpoint.addresses
        return found or None

    def _reverse(self, container: str, text: str) -> str | None:
        for network, _ in self._networks.of(container):
            for endpoint in network.endpoints.values() if network.has_names else ():
                if text in endpoint.addresses:
                    return f"{endpoint.name}.{network.name}"
        return None

    def release(self, container: Container) -> None:
        """Ends the container's name server."""
        server = self._servers.pop(container.id, None)
        if server is not None:
            server.close()

    def write_all_files(self, container: Container) -> None:
        """/etc/hostname, /etc/hosts and /etc/resolv.conf, bound into the container."""
        write_text(f"{self._containers.directory(container)}/hostname", f"{container.config.hostname}\n")
        self.write_files(container)

    def write_files(self, container: Container) -> None:
        """/etc/hosts and /etc/resolv.conf, in place: they may be bound into a running container."""
        directory = self._containers.directory(container)
        for name, text in (("hosts", self.hosts(container)), ("resolv.conf", self.resolv_conf(container))):
            if container.written.get(name) == text:
                continue
            write_text(f"{directory}/{name}", text)
            container.written[name] = text
            if container.running:
                self._changed(container)

    @property
    def forwarders(self) -> list[str]:
        """The name servers of the host that can be reached from its networks."""
        return _reachable(self._forwarders())

    def _forwarders(self) -> list[str]:
        return [slirp.NAME_SERVER] if self._behind_slirp else dns.host_servers(_host_resolv_conf())

    def hosts(self, container: Container) -> str:
        """The container's /etc/hosts."""
        host, config = container.host_config, container.config
        if host.network_mode == "host":
            lines = [read_or_empty("/etc/hosts").rstrip("\n")]
        else:
            lines = ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback", "fe00::\tip6-localnet",
                     "ff00::\tip6-mcastprefix", "ff02::1\tip6-allnodes", "ff02::2\tip6-allrouters"]  # fmt: skip
        for entry in host.extra_hosts:
            name, _, address = entry.partition("=" if "=" in entry else ":")
            address = address.strip("[]")
            if address == "host-gateway":
                address = self._host_gateway()
            lines.append(f"{_address(address, entry)}\t{_word(name, 'ExtraHosts')}")
        names = _word(str(config.hostname or "-"), "Hostname").removeprefix("-")
        if config.domainname:
            names = f"{names}.{_word(config.domainname, 'Domainname')} {names}"
        for network, endpoint in self._networks.of(container.id):
            lines += [f"{text}\t{names}" for text in endpoint.addresses]
            for target, alias in () if network.has_names else self._links(container):
                there = network.endpoints.get(target.id)
                also = f"{_word(alias, 'Links')} {target.id[:12]} {target.name}"
                lines += [f"{text}\t{also}" for text in there.addresses] if there else []
        return "\n".join(lines) + "\n"

    def _host_gateway(self) -> str:
        pool = self._networks.find("bridge").pool(4)
        return pool.gateway if pool else ""

    def resolv_conf(self, container: Container) -> str:
        """The container's /etc/resolv.conf."""
        host = container.host_config
        text = _host_resolv_conf()
        if host.network_mode == "host" and not (host.dns or host.dns_search or host.dns_options):
            return text
        servers = list(host.dns) or _reachable(self._forwarders())
        if not shares_network(host) and self._has_server(container):
            servers = [dns.ADDRESS]
        search = [item for item in host.dns_search if item != "."]
        if not host.dns_search:
            search = next((line.split()[1:] for line in text.splitlines() if line.startswith("search ")), [])
        options = list(host.dns_options) or _host_options(text, servers == [dns.ADDRESS])
        if servers == [dns.ADDRESS] and not any(option.startswith("ndots:") for option in options):
            options.append("ndots:0")
        for key, words in (("DnsSearch", search), ("DnsOptions", options)):
            for word in words:
                _word(word, key)
        lines = [f"nameserver {server}" for server in servers]
        lines += [f"search {' '.join(search)}"] if search else []
        lines += [f"options {' '.join(options)}"] if options else []
        return "\n".join(lines) + "\n" if lines and host.network_mode != "none" else ""


def _word(text: str, what: str) -> str:
    """One word of a line of /etc/hosts or /etc/resolv.conf, and no more than that. Raises BadRequest."""
    if not _WORD.fullmatch(text):
        raise BadRequest(f"invalid {what} {text!r}: it is one word, without spaces and control characters")
    return text


def _address(text: str, entry: str) -> str:
    try:
        return str(settings.address(text, "ExtraHosts"))
    except NetworkError:
        raise BadRequest(f"invalid IP address in add-host: {text!r} in {entry!r}") from None


def write_text(path: str, text: str) -> None:
    """Writes a small file that everybody may read, keeping its inode; what stands there and is no file makes way."""
    if is_strange(path):
        os.rename(path, f"{path}.damaged")
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
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
