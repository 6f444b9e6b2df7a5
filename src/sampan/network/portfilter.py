"""The rules at each container's port of a bridge: it is who it says, in every frame, and speaks ARP, IPv4 and IPv6 only.

A container has NET_RAW, and a machine's guest sends what it likes. So each frame that comes in by a port of ours is looked
at before the bridge learns from it or the host sees it: the MAC and IP addresses must be the port's own, in ARP's and neighbour
discovery's own fields as well. A port that nothing is known of may send nothing, so one that is made ahead is safe, and
a container more is a few elements of a set.

Dropped as well: what only routers say (advertisements, redirects), who asks for multicast memberships as a router
does, frames to the addresses that a bridge hands to its port's IP stack past all rules (01:80:C2:00:00:0x), and tagged ones, of
which those with the tag 0 are read like others.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from sampan.linux import nfrules as nf
from sampan.linux.nftables import BRIDGE, IPV4, IPV6, LOCAL_IN, MAC, NAME, PREROUTING, Batch, Table
from sampan.network import ipam
from sampan.network.model import Endpoint, Network

_PRIORITY = -400  # before everybody, br_netfilter included
_RESERVED, _RESERVED_MASK = bytes.fromhex("0180c2000000"), bytes.fromhex("fffffffffff0")
_ETHERNET_IPV4 = bytes.fromhex("000108000604")  # how an ARP packet begins
_ICMP, _IGMP, _ICMPV6 = 1, 2, 58
_ICMP_REDIRECT, _IGMP_QUERY = 5, 0x11
_ROUTERS = (130, 134, 137, 151, 153)  # MLD query, router advertisement, redirect, multicast router discovery (RFC 4286)
_ADVERTISEMENT = 136
DROP, ACCEPT = nf.verdict(nf.DROP), nf.verdict(nf.ACCEPT)

Keys = dict[str, list[bytes]]  # by set


def keys_of(network: Network, endpoint: Endpoint) -> Keys:
    """The elements that let an endpoint's port speak."""
    name = nf.name_key(endpoint.host_interface)
    if not network.antispoof:
        return {"free": [name]}
    port = name + nf.mac_key(endpoint.mac)
    found: Keys = {"senders4": [], "senders6": []}
    if endpoint.ipv4:
        found["senders4"].append(port + ipaddress.IPv4Address(endpoint.address(4)).packed)
    if endpoint.ipv6:
        own = ipaddress.IPv6Address(endpoint.address(6))
        # Before it has one it asks whether anybody has it, from nowhere.
        found["senders6"] += [port + ip.packed for ip in (own, ipam.link_local(endpoint.mac), ipaddress.IPv6Address(0))]
    return found


@dataclass(frozen=True, slots=True)
class Gateway:
    """What a bridge itself has, and no port of it."""

    mac: str
    addresses: tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, ...]


def gateway_of(network: Network) -> Gateway:
    """What is the host's own on a network."""
    return Gateway(network.mac, (*network.gateways, ipam.link_local(network.mac)))


SETS = ("others", "macs", "gateways4", "gateways6")
SENDERS = {"senders4": (NAME, MAC, IPV4), "senders6": (NAME, MAC, IPV6), "free": (NAME,)}  # what is in their keys


def build(
    batch: Batch, name: str, flags: int, prefix: str, gateways: Iterable[Gateway], ports: dict[str, Keys]
) -> None:
    """Replaces the table. `prefix`: how our interfaces' names begin; `ports`: keys of those that may speak, by name."""
    gateways = list(gateways)
    table = batch.replace_table(BRIDGE, name, flags)
    # Those of engines that had no id are not called like that.
    table.add_set("others", (NAME,), (nf.name_key(port) for port in ports if not port.startswith(prefix)))
    for group, fields in SENDERS.items():
        table.add_set(group, fields, [key for keys in ports.values() for key in keys.get(group, [])])
    table.add_set("macs", (MAC,), (nf.mac_key(gateway.mac)[:6] for gateway in gateways))
    for version, kind in ((4, IPV4), (6, IPV6)):
        there = (address.packed for gateway in gateways for address in gateway.addresses if address.version == version)
        table.add_set(f"gateways{version}", (kind,), there)
    for chain in ("free4", "free6", "freearp", "advertised", "ip4", "ip6", "arp", "port"):
        table.add_chain(chain)
    _add_ip4(table)
    _add_ip6(table)
    _add_arp(table)
    table.add_rule("port", nf.masked("link", 0, _RESERVED, _RESERVED_MASK), DROP)
    # By the frame's bytes: the kernel's idea of the protocol is that inside of a tag.
    for protocol, chain in ((b"\x08\x00", "ip4"), (b"\x86\xdd", "ip6"), (b"\x08\x06", "arp")):
        table.add_rule("port", nf.field("link", 12, protocol), nf.verdict(nf.GOTO, chain))
    table.add_rule("port", DROP)
    for chain, hook in (("prerouting", PREROUTING), ("input", LOCAL_IN)):
        table.add_base_chain(chain, hook, _PRIORITY)
        table.add_rule(chain, nf.from_prefix(prefix), nf.verdict(nf.GOTO, "port"))
        table.add_rule(chain, nf.from_any("others"), nf.verdict(nf.GOTO, "port"))


def _add_ip4(table: Table) -> None:
    for protocol, kind in ((_ICMP, _ICMP_REDIRECT), (_IGMP, _IGMP_QUERY)):
        table.add_rule("ip4", nf.protocol(protocol), nf.field("transport", 0, bytes([kind])), DROP)
    table.add_rule("ip4", nf.sender("senders4", ("link", 6), ("network", 12, 4)), ACCEPT)
    table.add_rule("ip4", nf.verdict(nf.GOTO, "free4"))
    _add_free(table, "free4", ("network", 12, 4), "gateways4")


def _add_ip6(table: Table) -> None:
    icmp, source = nf.protocol(_ICMPV6), ("network", 8, 16)
    for kind in _ROUTERS:
        table.add_rule("ip6", icmp, nf.field("transport", 0, bytes([kind])), DROP)
    nowhere = nf.address("source", ipaddress.IPv6Address(0))
    table.add_rule("ip6", nowhere, nf.protocol(_ICMPV6, different=True), DROP)
    said = nf.field("transport", 0, bytes([_ADVERTISEMENT]))
    table.add_rule("ip6", icmp, said, nf.verdict(nf.JUMP, "advertised"))
    table.add_rule("ip6", nf.sender("senders6", ("link", 6), source), ACCEPT)
    table.add_rule("ip6", nf.verdict(nf.GOTO, "free6"))
    _add_free(table, "free6", source, "gateways6")
    target = ("transport", 8, 16)
    table.add_rule("advertised", nf.sender("senders6", ("link", 6), target), nf.verdict(nf.RETURN))
    others = nf.field_in(*target, "gateways6", inverted=True)
    table.add_rule("advertised", nf.from_any("free"), others, nf.verdict(nf.RETURN))
    table.add_rule("advertised", DROP)


def _add_arp(table: Table) -> None:
    table.add_rule("arp", nf.field("network", 0, _ETHERNET_IPV4, different=True), DROP)
    said = ("network", 14, 4)
    own = nf.sender("senders4", ("link", 6), said) + nf.sender("senders4", ("network", 8), said)
    table.add_rule("arp", own, ACCEPT)
    table.add_rule("arp", nf.field_in("network", 8, 6, "macs"), DROP)
    table.add_rule("arp", nf.verdict(nf.GOTO, "freearp"))
    _add_free(table, "freearp", said, "gateways4")


def _add_free(table: Table, chain: str, source: tuple[str, int, int], gateways: str) -> None:
    """Ports of networks where anything goes but to be the gateway."""
    mac = nf.field_in("link", 6, 6, "macs", inverted=True)
    table.add_rule(chain, nf.from_any("free"), mac, nf.field_in(*source, gateways, inverted=True), ACCEPT)
    table.add_rule(chain, DROP)
