"""rtnetlink(7): links, addresses and routes of the network namespace that a Netlink socket belongs to."""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from dataclasses import dataclass

from sampan.linux.netlink import (
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Netlink,
    attribute,
    attributes,
)

_NEWLINK, _DELLINK, _GETLINK, _SETLINK = 16, 17, 18, 19
_NEWADDR, _DELADDR, _GETADDR = 20, 21, 22
_NEWROUTE, _GETROUTE, _NEWRULE = 24, 26, 32
_FRA_PRIORITY, _FRA_FWMARK, _FRA_TABLE = 6, 10, 15
_ADDRESS, _IFNAME, _MTU, _MASTER, _LINKINFO, _NET_NS_FD, _LINK = 1, 3, 4, 10, 18, 28, 5
_PROTINFO, _IFALIAS = 12, 20
_AF_BRIDGE, _BRPORT_MODE, _BRPORT_ISOLATED = 7, 4, 33
_INFO_KIND, _INFO_DATA = 1, 2
_VETH_PEER = 1
_IFF_UP = 1
_IFA_F_NODAD, _IFA_FLAGS = 2, 8

Address = ipaddress.IPv4Interface | ipaddress.IPv6Interface
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
IP = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface."""

    index: int
    name: str
    kind: str
    mtu: int
    master: int
    address: str
    up: bool
    alias: str = ""


def _ifinfo(index: int = 0, flags: int = 0, change: int = 0, family: int = 0) -> bytes:
    return struct.pack("=BxHiII", family, 0, index, flags, change)


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _common(name: str = "", mtu: int = 0, master: int = 0, address: str = "", netns: int = -1) -> list[bytes]:
    found = []
    if name:
        found.append(attribute(_IFNAME, name))
    if mtu:
        found.append(attribute(_MTU, mtu))
    if master:
        found.append(attribute(_MASTER, master))
    if address:
        found.append(attribute(_ADDRESS, _mac(address)))
    if netns >= 0:
        found.append(attribute(_NET_NS_FD, netns))
    return found


def links(netlink: Netlink) -> list[Link]:
    """All interfaces."""
    return [_link(payload) for kind, payload in netlink.request(_GETLINK, NLM_F_DUMP, _ifinfo()) if kind == _NEWLINK]


def link(netlink: Netlink, name: str) -> Link | None:
    """The interface of that name."""
    try:
        found = netlink.request(_GETLINK, 0, _ifinfo() + attribute(_IFNAME, name), f"interface {name}")
    except OSError:
        return None
    return _link(found[0][1])


def _link(payload: bytes) -> Link:
    _, _, index, flags, _ = struct.unpack_from("=BxHiII", payload)
    found = attributes(payload[16:])
    info = attributes(found.get(_LINKINFO, b""))

    def number(key: int) -> int:
        return int(struct.unpack("=I", found[key])[0]) if key in found else 0

    return Link(
        index,
        found.get(_IFNAME, b"").rstrip(b"\0").decode(),
        info.get(_INFO_KIND, b"").rstrip(b"\0").decode(),
        number(_MTU),
        number(_MASTER),
        found.get(_ADDRESS, b"").hex(":"),
        bool(flags & _IFF_UP),
        found.get(_IFALIAS, b"").rstrip(b"\0").decode(errors="replace"),
    )


def add_link(
    netlink: Netlink, name: str, kind: str, data: list[bytes] | None = None, *, parent: int = 0, up: bool = False,
    mtu: int = 0, address: str = "", netns: int = -1,
) -> None:  # fmt: skip
    """Makes an interface ("bridge", "dummy", "macvlan", ...). Raises FileExistsError, OSError."""
    info = [attribute(_INFO_KIND, kind)]
    if data:
        info.append(attribute(_INFO_DATA, data))
    payload = _ifinfo(flags=_IFF_UP if up else 0, change=_IFF_UP if up else 0)
    payload += b"".join([*_common(name, mtu, address=address, netns=netns), attribute(_LINKINFO, info)])
    if parent:
        payload += attribute(_LINK, parent)
    netlink.request(_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, payload, f"make {kind} {name}")


def add_veth(
    netlink: Netlink, name: str, *, master: int, mtu: int, peer: str, peer_address: str, netns: int, peer_mtu: int = 0
) -> None:
    """Makes a pair: `name` here, up and on the bridge `master`; `peer` in the namespace `netns`, down."""
    peer_info = _ifinfo() + b"".join(_common(peer, peer_mtu or mtu, address=peer_address, netns=netns))
    info = [attribute(_INFO_KIND, "veth"), attribute(_INFO_DATA, [attribute(_VETH_PEER, peer_info)])]
    payload = _ifinfo(flags=_IFF_UP, change=_IFF_UP)
    payload += b"".join([*_common(name, mtu, master), attribute(_LINKINFO, info)])
    netlink.request(_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, payload, f"make veth {name}")


def set_link(
    netlink: Netlink, index: int, *, up: bool | None = None, name: str = "", mtu: int = 0, master: int = 0,
    address: str = "", netns: int = -1,
) -> None:  # fmt: skip
    """Changes an interface."""
    flags = _ifinfo(index, _IFF_UP if up else 0, 0 if up is None else _IFF_UP)
    netlink.request(_SETLINK, 0, flags + b"".join(_common(name, mtu, master, address, netns)), f"set interface {index}")


def set_port(netlink: Netlink, index: int, *, hairpin: bool, isolated: bool) -> None:
    """A bridge's port: whether frames may leave by the port they came from, and whether it is kept from
    other isolated ports (IFLA_BRPORT_MODE and IFLA_BRPORT_ISOLATED in uapi/linux/if_link.h)."""
    flags = [attribute(_BRPORT_MODE, bytes([hairpin])), attribute(_BRPORT_ISOLATED, bytes([isolated]))]
    payload = _ifinfo(index, family=_AF_BRIDGE) + attribute(_PROTINFO, flags)
    netlink.request(_SETLINK, 0, payload, f"set bridge port {index}")


def delete_link(netlink: Netlink, index: int) -> None:
    """Deletes an interface; one that is gone is fine."""
    try:
        netlink.request(_DELLINK, 0, _ifinfo(index), f"delete interface {index}")
    except OSError as error:
        if error.errno != 19:  # ENODEV
            raise


def set_alias(netlink: Netlink, index: int, text: str) -> None:
    """Writes a line on an interface, for people and for whoever made it (ip-link(8), alias)."""
    netlink.request(_SETLINK, 0, _ifinfo(index) + attribute(_IFALIAS, text), f"set alias of interface {index}")


def _family(address: Address | Network | IP) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def add_address(netlink: Netlink, index: int, address: Address) -> None:
    """Gives an interface an address; IPv6 ones can be used at once (IFA_F_NODAD). One it has is fine."""
    payload = struct.pack("=BBBBI", _family(address), address.network.prefixlen, _IFA_F_NODAD, 0, index)
    packed = address.ip.packed
    payload += attribute(2, packed) + attribute(1, packed) + attribute(_IFA_FLAGS, _IFA_F_NODAD)
    if isinstance(address, ipaddress.IPv4Interface) and address.network.prefixlen < 31:
        payload += attribute(4, address.network.broadcast_address.packed)
    netlink.request(_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, payload, f"add address {address}")


def delete_address(netlink: Netlink, index: int, address: Address) -> None:
    """Takes an address off an interface; one that it has not is fine."""
    payload = struct.pack("=BBBBI", _family(address), address.network.prefixlen, 0, 0, index) + attribute(
        2, address.ip.packed
    )
    try:
        netlink.request(_DELADDR, 0, payload, f"delete address {address}")
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL:
            raise


def addresses(netlink: Netlink) -> list[tuple[int, Address]]:
    """(interface index, address) of all."""
    found: list[tuple[int, Address]] = []
    for kind, payload in netlink.request(_GETADDR, NLM_F_DUMP, struct.pack("=BBBBI", 0, 0, 0, 0, 0)):
        if kind == _NEWADDR:
            _, prefix, _, _, index = struct.unpack_from("=BBBBI", payload)
            values = attributes(payload[8:])
            raw = values.get(2) or values.get(1)
            if raw:
                found.append((index, ipaddress.ip_interface(f"{ipaddress.ip_address(raw)}/{prefix}")))
    return found


def add_route(netlink: Netlink, index: int, gateway: IP | None, destination: Network | None = None) -> None:
    """A route through an interface; without `destination` the default route."""
    family = _family(gateway or destination or ipaddress.IPv4Address(0))
    length = destination.prefixlen if destination else 0
    scope = 0 if gateway else 253
    payload = struct.pack("=BBBBBBBBI", family, length, 0, 0, 254, 3, scope, 1, 0)
    if destination:
        payload += attribute(1, destination.network_address.packed)
    if gateway:
        payload += attribute(5, gateway.packed)
    payload += attribute(4, index)
    netlink.request(_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, payload, f"add route by {gateway or index}")


def routes(netlink: Netlink) -> list[tuple[Network, int]]:
    """(destination, interface index) of the routes out that have both."""
    found: list[tuple[Network, int]] = []
    for kind, payload in netlink.request(_GETROUTE, NLM_F_DUMP, struct.pack("=BBBBBBBBI", *(0,) * 9)):
        if kind != _NEWROUTE:
            continue
        length, route = payload[1], payload[7]
        values = attributes(payload[12:])
        if route != 1 or 4 not in values:  # RTN_UNICAST
            continue
        zeros = bytes(4 if payload[0] == socket.AF_INET else 16)
        network = ipaddress.ip_network((values.get(1, zeros), length), strict=False)
        found.append((network, int(struct.unpack("=I", values[4])[0])))
    return found


def add_mark_rule(netlink: Netlink, family: int, mark: int, table: int) -> None:
    """Packets with a firewall mark are routed by `table` (ip-rule(8)). One that is there is fine."""
    payload = struct.pack("=BBBBBBBBI", family, 0, 0, 0, 0, 0, 0, 1, 0)  # FR_ACT_TO_TBL
    for key, value in ((_FRA_FWMARK, mark), (_FRA_TABLE, table), (_FRA_PRIORITY, 100)):
        payload += attribute(key, value)
    try:
        netlink.request(_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, payload, "add rule")
    except OSError as error:
        if error.errno != errno.EEXIST:
            raise


def add_local_default(netlink: Netlink, family: int, index: int, table: int) -> None:
    """In `table` every destination is this host: what TPROXY needs (networking/tproxy.rst)."""
    payload = struct.pack("=BBBBBBBBI", family, 0, 0, 0, 0, 3, 254, 2, 0)  # RT_SCOPE_HOST, RTN_LOCAL
    payload += attribute(4, index) + attribute(_FRA_TABLE, table)
    netlink.request(_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, payload, f"add local route to table {table}")
