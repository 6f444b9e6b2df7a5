"""Which subnets and addresses are free. Pure functions."""

from __future__ import annotations

import ipaddress
import secrets
import socket
from collections.abc import Iterable
from typing import Any

from sampan.network.errors import NetworkConflict, NetworkError

Subnet = ipaddress.IPv4Network | ipaddress.IPv6Network

# Docker's default pools: /16 of 172.17 to 172.31, then /20 of 192.168.
_POOLS = (
    *(ipaddress.IPv4Network(f"172.{second}.0.0/16") for second in range(17, 32)),
    *ipaddress.IPv4Network("192.168.0.0/16").subnets(new_prefix=20),
)

_OWN = (*_POOLS, ipaddress.IPv4Network("192.168.0.0/16"))
_LOCAL6 = ipaddress.IPv6Network("fd00::/8")


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


def plan(rows: list[dict[str, Any]], taken: Iterable[Subnet], ipv6: bool) -> list[dict[str, Any]]:
    """The `ipam` rows of a new network: those asked for, checked, and defaults for what is missing.

    Raises NetworkError for an impossible one, NetworkConflict where subnets overlap.
    """
    taken = list(taken)
    planned = [_row(row) for row in rows if row.get("Subnet")]
    for row in rows:
        if not row.get("Subnet") and any(row.get(key) for key in ("Gateway", "IPRange", "AuxiliaryAddresses")):
            raise NetworkError("a gateway, an IP range or auxiliary addresses need a subnet")
    for index, row in enumerate(planned):
        subnet = ipaddress.ip_network(row["Subnet"])
        others = [*taken, *(ipaddress.ip_network(other["Subnet"]) for other in planned[:index])]
        for other in others:
            if other.prefixlen and other.version == subnet.version and subnet.overlaps(other):
                raise NetworkConflict(
                    f"invalid pool request: Pool overlaps with other one on this address space: {subnet}"
                )
    if not any(":" not in row["Subnet"] for row in planned):
        planned.insert(0, _row({"Subnet": str(free_subnet(taken))}))
    if ipv6 and not any(":" in row["Subnet"] for row in planned):
        planned.append(_row({"Subnet": str(free_subnet6())}))
    return planned


def _row(row: dict[str, Any]) -> dict[str, Any]:
    subnet = _network(row["Subnet"], "subnet")
    if not subnet.prefixlen or subnet.is_multicast or subnet.is_loopback:
        raise NetworkError(f"invalid subnet {subnet}: no hosts can be on it")
    planned: dict[str, Any] = {"Subnet": str(subnet)}
    gateway = row.get("Gateway") or str(next(subnet.hosts()))
    planned["Gateway"] = str(_host(gateway, subnet, "gateway"))
    if row.get("IPRange"):
        part = _network(row["IPRange"], "ip-range")
        if part.version != subnet.version or not part.subnet_of(subnet):  # type: ignore[arg-type]
            raise NetworkError(f"ip-range {part} is not inside the subnet {subnet}")
        planned["IPRange"] = str(part)
    auxiliary = {name: str(_host(text, subnet, name)) for name, text in (row.get("AuxiliaryAddresses") or {}).items()}
    if auxiliary:
        planned["AuxiliaryAddresses"] = auxiliary
    everybody = [planned["Gateway"], *auxiliary.values()]
    if twice := next((text for text in everybody if everybody.count(text) > 1), ""):
        raise NetworkError(
            f"the address {twice} of the subnet {subnet} is given twice, to its gateway or auxiliary addresses"
        )
    return planned


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


def allocate(row: dict[str, Any], used: Iterable[str], wanted: str = "") -> str:
    """A free address of the row's subnet, with prefix length: the lowest, or `wanted`.

    Raises NetworkConflict when it is taken or none is left, NetworkError when it is outside.
    """
    subnet = ipaddress.ip_network(row["Subnet"])
    family = socket.AF_INET if subnet.version == 4 else socket.AF_INET6
    busy = {int.from_bytes(socket.inet_pton(family, text), "big") for text in used if text}
    busy.add(int(ipaddress.ip_address(row["Gateway"])))
    busy.update(int(ipaddress.ip_address(text)) for text in (row.get("AuxiliaryAddresses") or {}).values())
    first, last = int(subnet.network_address), int(subnet.broadcast_address)
    if wanted:
        address = _inside(wanted, subnet, "address")
        if int(address) in busy or (subnet.version == 4 and subnet.prefixlen < 31 and int(address) in (first, last)):
            raise NetworkConflict(
                "Address already in use" if int(address) in busy else f"{address} is not a host address"
            )
        return f"{address}/{subnet.prefixlen}"
    pool = ipaddress.ip_network(row.get("IPRange") or row["Subnet"])
    for number in range(int(pool.network_address), int(pool.broadcast_address) + 1):
        edge = number in (first, last) and subnet.prefixlen < (31 if subnet.version == 4 else 127)
        if number not in busy and not edge:
            kind = ipaddress.IPv4Address if subnet.version == 4 else ipaddress.IPv6Address
            return f"{kind(number)}/{subnet.prefixlen}"
    raise NetworkConflict(f"no available IPv{subnet.version} addresses on this network's address pools: {pool}")


def mac_of(ipv4: str) -> str:
    """Docker's MAC address of an IPv4 one: 02:42 and its four bytes; random without."""
    tail = ipaddress.IPv4Address(ipv4.partition("/")[0]).packed if ipv4 else secrets.token_bytes(4)
    return (b"\x02\x42" + tail).hex(":")


def link_local(mac: str) -> ipaddress.IPv6Address:
    """The link-local IPv6 address of an interface with this MAC address (RFC 4291, appendix A)."""
    raw = bytes.fromhex(mac.replace(":", ""))
    return ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + bytes([raw[0] ^ 2]) + raw[1:3] + b"\xff\xfe" + raw[3:6])
