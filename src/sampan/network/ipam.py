"""The subnets of networks: which are free, and which of their addresses. Pure functions."""

from __future__ import annotations

import ipaddress
import secrets
import socket
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from sampan.network.errors import NetworkConflict, NetworkError

Subnet = ipaddress.IPv4Network | ipaddress.IPv6Network

# Docker's default pools: /16 of 172.17 to 172.31, then /20 of 192.168.
_POOLS = (
    *(ipaddress.IPv4Network(f"172.{second}.0.0/16") for second in range(17, 32)),
    *ipaddress.IPv4Network("192.168.0.0/16").subnets(new_prefix=20),
)

_OWN = (*_POOLS, ipaddress.IPv4Network("192.168.0.0/16"))
_LOCAL6 = ipaddress.IPv6Network("fd00::/8")


class PoolRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A subnet as it is asked for (Docker's IPAMConfig). "" is "whichever is free"."""

    subnet: str = ""
    gateway: str = ""
    ip_range: str = ""
    auxiliary: Mapping[str, str] = {}

    def __bool__(self) -> bool:
        """Whether anything is asked for."""
        return bool(self.subnet or self.gateway or self.ip_range or self.auxiliary)


_IN_RECORDS = {"subnet": "Subnet", "gateway": "Gateway", "ip_range": "IPRange", "auxiliary": "AuxiliaryAddresses"}


class Pool(PoolRequest, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True, rename=_IN_RECORDS):
    """A subnet of a network, planned: a request in which all is given. Raises ValueError when it is made of what is no address."""

    subnet: str
    gateway: str  # the host's address
    ip_range: str = ""  # where the addresses are that nobody asks for by themselves; "": anywhere
    auxiliary: Mapping[str, str] = {}  # addresses, by name, that no container gets

    def __post_init__(self) -> None:
        ipaddress.ip_network(self.subnet)
        for text in (self.gateway, *self.auxiliary.values()):
            ipaddress.ip_address(text)
        if self.ip_range:
            ipaddress.ip_network(self.ip_range)

    @property
    def network(self) -> Subnet:
        """The subnet."""
        return ipaddress.ip_network(self.subnet)

    @property
    def version(self) -> int:
        """Of IP."""
        return 6 if ":" in self.subnet else 4


def is_ours(text: str) -> bool:
    """Whether a subnet is one that networks get by themselves: in the default pools, or unique local. Any other may be where the
    host's packets to somebody else go."""
    try:
        subnet = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    if isinstance(subnet, ipaddress.IPv6Network):
        return subnet.subnet_of(_LOCAL6)
    return any(subnet.subnet_of(pool) for pool in _OWN)


def free_subnet(taken: Iterable[Subnet]) -> ipaddress.IPv4Network:
    """The first default pool that overlaps nothing in `taken`. Raises NetworkConflict when none is left."""
    used = [network for network in taken if isinstance(network, ipaddress.IPv4Network) and network.prefixlen]
    for pool in _POOLS:
        if not any(pool.overlaps(network) for network in used):
            return pool
    raise NetworkConflict("all predefined address pools have been fully subnetted: give --subnet")


def free_subnet6() -> ipaddress.IPv6Network:
    """A random unique local /64 (RFC 4193)."""
    return ipaddress.IPv6Network((b"\xfd" + secrets.token_bytes(7) + bytes(8), 64))


def plan(asked: Sequence[PoolRequest], taken: Iterable[Subnet], ipv6: bool) -> list[Pool]:
    """The subnets of a new network: those asked for, checked, and defaults for what is missing.

    Raises NetworkError for an impossible one, NetworkConflict where subnets overlap.
    """
    taken = list(taken)
    if any(each and not each.subnet for each in asked):
        raise NetworkError("a gateway, an IP range or auxiliary addresses need a subnet")
    planned = [_pool(each) for each in asked if each.subnet]
    for index, pool in enumerate(planned):
        subnet = pool.network
        for other in (*taken, *(before.network for before in planned[:index])):
            if other.prefixlen and other.version == subnet.version and subnet.overlaps(other):
                raise NetworkConflict(
                    f"invalid pool request: Pool overlaps with other one on this address space: {subnet}"
                )
    if all(pool.version == 6 for pool in planned):
        planned.insert(0, _pool(PoolRequest(subnet=str(free_subnet(taken)))))
    if ipv6 and all(pool.version == 4 for pool in planned):
        planned.append(_pool(PoolRequest(subnet=str(free_subnet6()))))
    return planned


def _pool(asked: PoolRequest) -> Pool:
    subnet = _network(asked.subnet, "subnet")
    if not subnet.prefixlen or subnet.is_multicast or subnet.is_loopback:
        raise NetworkError(f"invalid subnet {subnet}: no hosts can be on it")
    gateway = str(_host(asked.gateway or str(next(subnet.hosts())), subnet, "gateway"))
    part = _network(asked.ip_range, "ip-range") if asked.ip_range else None
    if part is not None and (part.version != subnet.version or not part.subnet_of(subnet)):  # type: ignore[arg-type]
        raise NetworkError(f"ip-range {part} is not inside the subnet {subnet}")
    auxiliary = {name: str(_host(text, subnet, name)) for name, text in asked.auxiliary.items()}
    everybody = [gateway, *auxiliary.values()]
    if twice := next((text for text in everybody if everybody.count(text) > 1), ""):
        raise NetworkError(
            f"the address {twice} of the subnet {subnet} is given twice, to its gateway or auxiliary addresses"
        )
    return Pool(subnet=str(subnet), gateway=gateway, ip_range=str(part or ""), auxiliary=auxiliary)


def _network(text: str, what: str) -> Subnet:
    address, _, prefix = text.partition("/")
    try:
        found = ipaddress.ip_network(text, strict=False)
        given = ipaddress.ip_address(address)
    except ValueError:
        found = None
    if found is None or not prefix.isdecimal() or "%" in text:
        raise NetworkError(f"invalid {what} {text!r}: it should be like 10.0.0.0/24 or fd00::/64")
    if given != found.network_address:
        raise NetworkError(f"invalid {what} {text}: it should be {found}")
    return found


def _host(text: str, subnet: Subnet, what: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An address that a host on the subnet can have."""
    address = _inside(text, subnet, what)
    if subnet.version == 4 and subnet.prefixlen < 31 and address in (subnet.network_address, subnet.broadcast_address):
        raise NetworkError(f"{what} {address} is not a host's address on the subnet {subnet}")
    return address


def _inside(text: str, subnet: Subnet, what: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise NetworkError(f"invalid {what} {text!r}: it is no IP address") from None
    if address.version != subnet.version or address not in subnet or "%" in text:
        raise NetworkError(f"{what} {text} is not inside the subnet {subnet}")
    return address


def allocate(pool: Pool, used: Iterable[str], wanted: str = "") -> str:
    """A free address of the subnet, with prefix length: the lowest, or `wanted`.

    Raises NetworkConflict when it is taken or none is left, NetworkError when it is outside.
    """
    subnet = pool.network
    family = socket.AF_INET if subnet.version == 4 else socket.AF_INET6
    busy = {int.from_bytes(socket.inet_pton(family, text), "big") for text in used if text}
    busy.add(int(ipaddress.ip_address(pool.gateway)))
    busy.update(int(ipaddress.ip_address(text)) for text in pool.auxiliary.values())
    first, last = int(subnet.network_address), int(subnet.broadcast_address)
    if wanted:
        address = _inside(wanted, subnet, "address")
        if int(address) in busy or (subnet.version == 4 and subnet.prefixlen < 31 and int(address) in (first, last)):
            raise NetworkConflict(
                "Address already in use" if int(address) in busy else f"{address} is not a host address"
            )
        return f"{address}/{subnet.prefixlen}"
    part = ipaddress.ip_network(pool.ip_range or pool.subnet)
    for number in range(int(part.network_address), int(part.broadcast_address) + 1):
        edge = number in (first, last) and subnet.prefixlen < (31 if subnet.version == 4 else 127)
        if number not in busy and not edge:
            kind = ipaddress.IPv4Address if subnet.version == 4 else ipaddress.IPv6Address
            return f"{kind(number)}/{subnet.prefixlen}"
    raise NetworkConflict(f"no available IPv{subnet.version} addresses on this network's address pools: {part}")


def mac_of(ipv4: str) -> str:
    """Docker's MAC address of an IPv4 one: 02:42 and its four bytes; random without."""
    tail = ipaddress.IPv4Address(ipv4.partition("/")[0]).packed if ipv4 else secrets.token_bytes(4)
    return (b"\x02\x42" + tail).hex(":")


def link_local(mac: str) -> ipaddress.IPv6Address:
    """The link-local IPv6 address of an interface with this MAC address (RFC 4291, appendix A)."""
    raw = bytes.fromhex(mac.replace(":", ""))
    return ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + bytes([raw[0] ^ 2]) + raw[1:3] + b"\xff\xfe" + raw[3:6])
