"""The rules for what the host routes: its table of both IP versions, from the networks and the published ports.

A container's packets are looked at three times: at its port of the bridge (portfilter), here where they come to the host or go
through it, and by whatever other tables the host has. What those drop stays dropped.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass, replace

from sampan.linux import nfrules as nf
from sampan.linux.namespaces import initial_user_namespace
from sampan.linux.nftables import (
    DSTNAT,
    FILTER,
    FORWARD,
    INET,
    IPV4,
    IPV6,
    LOCAL_IN,
    LOCAL_OUT,
    MANGLE,
    NAME,
    POSTROUTING,
    PREROUTING,
    RAW,
    SRCNAT,
    Batch,
    Table,
)
from sampan.network.hostports import ANSWER_MARK
from sampan.network.model import Network

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Subnet = ipaddress.IPv4Network | ipaddress.IPv6Network

SETS = ("networks", "inside", "open", "others", "hosts4", "hosts6", "own4", "own6")
PROTOCOLS = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP, "sctp": 132}
_LOOPBACK = {4: ipaddress.ip_network("127.0.0.0/8"), 6: ipaddress.ip_network("::1/128")}
_ICMPV6, _NEIGHBOURS = 58, (b"\x87", b"\x88")  # neighbour solicitation and advertisement


@dataclass(frozen=True, slots=True)
class Published:
    """A container's port on an address of the host (None for all) by DNAT; with `last` a range, same ports inside."""

    protocol: str
    host_ip: Address | None
    host_port: int
    target: Address
    target_port: int
    last: int = 0

    def rule(self) -> list[bytes]:
        """The rule that redirects to the container."""
        where = nf.version(self.target.version)
        if self.host_ip is not None:
            where += nf.address("destination", self.host_ip)
        elif self.target.version == 6:  # has no route_localnet: a proxy serves it
            where += nf.address("destination", ipaddress.IPv6Address("::1"), different=True)
        where += nf.protocol(PROTOCOLS[self.protocol]) + nf.port(self.host_port, self.last)
        return [*where, *nf.redirect_to(self.target, 0 if self.last > self.host_port else self.target_port)]

    def follows(self, before: Published) -> bool:
        """Whether it is the port after `before`, both with the same number inside."""
        plain = self.host_port == self.target_port and before.host_port == before.target_port
        alike = (before.host_ip, before.protocol, before.target) == (self.host_ip, self.protocol, self.target)
        return plain and alike and max(before.last, before.host_port) + 1 == self.host_port


def merge(published: Iterable[Published]) -> list[Published]:
    """The same redirections in order, those of one address before those of all, neighbours as one range (P059)."""
    merged: list[Published] = []
    order = sorted(
        published,
        key=lambda i: (
            i.host_ip is None,
            i.host_ip.packed if i.host_ip else b"",
            i.protocol,
            i.target.packed,
            i.host_port,
            i.target_port,
        ),
    )
    for item in order:
        if merged and item.follows(merged[-1]):
            merged[-1] = replace(merged[-1], last=item.host_port)
        else:
            merged.append(item)
    return merged


DROP, ACCEPT = nf.verdict(nf.DROP), nf.verdict(nf.ACCEPT)


@dataclass(frozen=True, slots=True)
class Ports:
    """The bridges' ports: how their names begin, and those that engines without an id called otherwise."""

    prefix: str
    others: tuple[str, ...] = ()


def build(
    batch: Batch, name: str, flags: int, networks: Iterable[Network], published: Iterable[Published], ports: Ports
) -> None:
    """Replaces the table."""
    bridges = sorted((n for n in networks if n.driver == "bridge"), key=lambda n: n.bridge)
    table = batch.replace_table(INET, name, flags)
    _sets(table, bridges)
    _raw(table, ports)
    _nat(table, bridges, merge(published))
    _input(table)
    _forward(table)


def _sets(table: Table, bridges: list[Network]) -> None:
    table.add_set("networks", (NAME,), (nf.name_key(n.bridge) for n in bridges))
    table.add_set("inside", (NAME,), (nf.name_key(n.bridge) for n in bridges if n.internal))
    table.add_set("open", (NAME, NAME), (nf.name_key(n.bridge) * 2 for n in bridges if n.icc))
    for version, kind in ((4, IPV4), (6, IPV6)):
        mine = [(n, address.packed) for n in bridges for address in _of_host(n) if address.version == version]
        # The default network's gateway is the host for all of them: host-gateway.
        default = {address.packed for n in bridges if n.name == "bridge" for address in n.gateways}
        table.add_set(f"hosts{version}", (kind,), (packed for _, packed in mine if packed not in default))
        table.add_set(f"own{version}", (NAME, kind), (nf.name_key(n.bridge) + packed for n, packed in mine))


def _of_host(network: Network) -> list[Address]:
    """The addresses on a network at which the host answers: its own, and those of all (of all routers, with IPv6)."""
    edges: list[Address] = []
    for subnet in network.subnets:
        edges += [subnet.network_address] + ([subnet.broadcast_address] if subnet.version == 4 else [])
    return [*network.gateways, *edges]


def _raw(table: Table, ports: Ports) -> None:
    table.add_base_chain("raw", PREROUTING, RAW)
    # A port has no IP: what comes from it comes from its bridge, but for frames to the address of LLDP, which a bridge
    # leaves to the port's own stack and shows to no rule of its own (br_handle_frame in net/bridge/br_input.c).
    table.add_rule("raw", nf.from_prefix(ports.prefix), DROP)
    table.add_set("others", (NAME,), map(nf.name_key, ports.others))
    table.add_rule("raw", nf.from_any("others"), DROP)
    # route_localnet lets a DNAT to a container start from 127.0.0.1; nobody else may use it, or say that he is there (S043).
    for which in ("destination", "source"):
        table.add_rule("raw", nf.from_interface("lo", True), nf.version(4), nf.subnet(which, _LOOPBACK[4]), DROP)
    table.add_rule("raw", nf.from_any("networks"), nf.not_from_there(), DROP)
    if not initial_user_namespace():
        # What a container sends to the client that a proxy stands in for goes to the proxy: see hostports.
        table.add_base_chain("answers", PREROUTING, MANGLE)
        table.add_rule("answers", nf.to_transparent_socket(), nf.set_mark(ANSWER_MARK))


def _nat(table: Table, bridges: list[Network], published: list[Published]) -> None:
    table.add_chain("ports")
    for item in published:  # a port of one address before the same port of all
        table.add_rule("ports", item.rule())
    for name, hook in (("prerouting", PREROUTING), ("output", LOCAL_OUT)):
        table.add_base_chain(name, hook, DSTNAT, "nat")
        table.add_rule(name, nf.for_this_host(), nf.verdict(nf.JUMP, "ports"))
    table.add_base_chain("postrouting", POSTROUTING, SRCNAT, "nat")
    for network in bridges:
        for subnet in network.subnets:
            _masquerade(table, network, subnet)


def _masquerade(table: Table, network: Network, subnet: Subnet) -> None:
    version, bridge = nf.version(subnet.version), network.bridge
    ours = version + nf.subnet("source", subnet)
    # To a container's published port from itself or a neighbour, and from the host's loopback: the
    # answer must come back through us.
    table.add_rule("postrouting", nf.to_interface(bridge), ours, nf.redirected(), nf.masquerade())
    loopback = nf.subnet("source", _LOOPBACK[subnet.version])
    table.add_rule("postrouting", nf.to_interface(bridge), version, loopback, nf.masquerade())
    if not network.internal and network.masquerades:
        table.add_rule("postrouting", nf.to_interface(bridge, True), ours, nf.masquerade())


def _input(table: Table) -> None:
    """To the host itself: nothing from internal networks, and from others not by what it is on another network."""
    table.add_chain("inside")
    for kind in _NEIGHBOURS:  # the host may still ask them something, for which they must know its address
        table.add_rule("inside", nf.version(6), nf.protocol(_ICMPV6), nf.field("transport", 0, kind), ACCEPT)
    table.add_rule("inside", DROP)
    table.add_base_chain("input", LOCAL_IN, FILTER)
    table.add_rule("input", nf.from_any("networks", inverted=True), ACCEPT)
    table.add_rule("input", nf.in_state(nf.ESTABLISHED | nf.RELATED), ACCEPT)
    table.add_rule("input", nf.from_any("inside"), nf.verdict(nf.GOTO, "inside"))
    for version in (4, 6):
        foreign = nf.interface_and_address("destination", version, f"own{version}", inverted=True)
        host = nf.address_in("destination", version, f"hosts{version}")
        table.add_rule("input", nf.version(version), host, foreign, DROP)


def _forward(table: Table) -> None:
    """Through the host: between two of our networks, out of one, into one. Everything else is not ours."""
    known = nf.in_state(nf.ESTABLISHED | nf.RELATED)
    table.add_chain("between")
    # The same bridge twice: what has come back by the port of a published address, what br_netfilter shows us, and
    # what was sent to the gateway's MAC to get around the bridge.
    table.add_rule("between", nf.between("open"), ACCEPT)
    table.add_rule("between", nf.from_any("inside"), DROP)
    table.add_rule("between", nf.to_any("inside"), DROP)
    table.add_rule("between", known, ACCEPT)
    table.add_rule("between", nf.redirected(), ACCEPT)
    table.add_rule("between", DROP)
    table.add_base_chain("forward", FORWARD, FILTER)
    table.add_rule("forward", nf.from_any("networks"), nf.to_any("networks"), nf.verdict(nf.GOTO, "between"))
    table.add_rule("forward", nf.from_any("inside"), DROP)
    table.add_rule("forward", nf.to_any("inside"), DROP)
    table.add_rule("forward", nf.to_any("networks"), known, ACCEPT)
    table.add_rule("forward", nf.to_any("networks"), nf.redirected(), ACCEPT)
    table.add_rule("forward", nf.to_any("networks"), DROP)
