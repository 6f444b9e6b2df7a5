"""The one nftables table of ours: its text from the networks and published ports, and keeping it in place.

Nobody else's rules are read or changed. Other tables' base chains still see our packets: what a host
firewall drops stays dropped, as nftables wants it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, replace

from sampan.linux import nftables
from sampan.linux.namespaces import initial_user_namespace
from sampan.network.hostports import ANSWER_MARK
from sampan.network.model import Network

OLD_TABLE = "inet sampan"  # of engines without an id


@dataclass(frozen=True, slots=True)
class Published:
    """A container's port on an address of the host ("" for all) by DNAT; with `last` a range, same ports inside."""

    protocol: str
    host_ip: str
    host_port: int
    target: str
    target_port: int
    last: int = 0

    def rule(self) -> str:
        """The rule that redirects to the container."""
        family = "ip6" if ":" in self.target else "ip"
        if self.host_ip:
            where = f"{family} daddr {self.host_ip}"
        elif family == "ip6":
            where = "ip6 daddr != ::1"  # has no route_localnet: a proxy serves it
        else:
            where = "meta nfproto ipv4"
        if self.last > self.host_port:
            return f"{where} {self.protocol} dport {self.host_port}-{self.last} dnat {family} to {self.target}"
        target = f"[{self.target}]" if family == "ip6" else self.target
        return f"{where} {self.protocol} dport {self.host_port} dnat {family} to {target}:{self.target_port}"

    def follows(self, before: Published) -> bool:
        """Whether it is the port after `before`, both with the same number inside."""
        plain = self.host_port == self.target_port and before.host_port == before.target_port
        alike = (before.host_ip, before.protocol, before.target) == (self.host_ip, self.protocol, self.target)
        return plain and alike and max(before.last, before.host_port) + 1 == self.host_port


def merge(published: Iterable[Published]) -> list[Published]:
    """The same redirections in order, those of one address before those of all, neighbours as one range (P059)."""
    merged: list[Published] = []
    order = sorted(
        published, key=lambda i: (not i.host_ip, i.host_ip, i.protocol, i.target, i.host_port, i.target_port)
    )
    for item in order:
        if merged and item.follows(merged[-1]):
            merged[-1] = replace(merged[-1], last=item.host_port)
        else:
            merged.append(item)
    return merged


def ruleset(table: str, networks: Iterable[Network], published: Iterable[Published]) -> str:
    """The commands that replace our table, in one transaction."""
    bridges = sorted((n for n in networks if n.driver == "bridge"), key=lambda n: n.bridge)
    return "\n".join(
        [
            f"add table {table}",
            f"delete table {table}",
            f"table {table} {{",
            *_raw(),
            *_answers(),
            *_nat(bridges, list(published)),
            *_forward(bridges),
            "}",
        ]
    )


def _raw() -> list[str]:
    # route_localnet lets a DNAT to a container start from 127.0.0.1; nobody else may use it (S043).
    lines = ["  chain raw {", "    type filter hook prerouting priority raw; policy accept;"]
    lines.append('    iifname != "lo" ip daddr 127.0.0.0/8 drop')
    lines.append("  }")
    return lines


def _answers() -> list[str]:
    """What a container sends to the client that a proxy stands in for goes to the proxy: see hostports."""
    if initial_user_namespace():
        return []
    return [
        "  chain answers {",
        "    type filter hook prerouting priority mangle; policy accept;",
        f"    socket transparent 1 meta mark set {ANSWER_MARK}",
        "  }",
    ]


def _nat(bridges: list[Network], published: list[Published]) -> list[str]:
    lines = ["  chain ports {"]
    # A port of one address before the same port of all.
    for item in merge(published):
        lines.append(f"    {item.rule()}")
    lines += [
        "  }",
        "  chain prerouting {",
        "    type nat hook prerouting priority dstnat; policy accept;",
        "    fib daddr type local jump ports",
        "  }",
        "  chain output {",
        "    type nat hook output priority -100; policy accept;",
        "    fib daddr type local jump ports",
        "  }",
        "  chain postrouting {",
        "    type nat hook postrouting priority srcnat; policy accept;",
    ]
    for network in bridges:
        for row in network.ipam:
            lines += _masquerade(network, ipaddress.ip_network(row["Subnet"]))
    lines.append("  }")
    return lines


def _masquerade(network: Network, subnet: ipaddress.IPv4Network | ipaddress.IPv6Network) -> list[str]:
    family = "ip6" if subnet.version == 6 else "ip"
    loopback = "::1" if subnet.version == 6 else "127.0.0.0/8"
    name = network.bridge
    # To a container's published port from itself or a neighbour, and from the host's loopback: the
    # answer must come back through us.
    lines = [
        f'    oifname "{name}" {family} saddr {subnet} ct status dnat masquerade',
        f'    oifname "{name}" {family} saddr {loopback} masquerade',
    ]
    if not network.internal and network.options.get("com.docker.network.bridge.enable_ip_masquerade", "true") == "true":
        lines.append(f'    oifname != "{name}" {family} saddr {subnet} masquerade')
    return lines


def _forward(bridges: list[Network]) -> list[str]:
    lines = ["  chain forward {", "    type filter hook forward priority filter; policy accept;"]
    if not bridges:
        return [*lines, "  }"]
    names = ", ".join(f'"{n.bridge}"' for n in bridges)
    same = ", ".join(f'"{n.bridge}" . "{n.bridge}"' for n in bridges)
    inside = ", ".join(f'"{n.bridge}"' for n in bridges if n.internal)
    lines += [
        f"    oifname {{ {names} }} ct state established,related accept",
        f"    iifname {{ {names} }} ct state established,related accept",
    ]
    lines.append(f"    iifname . oifname {{ {same} }} accept")
    if inside:
        lines += [f"    iifname {{ {inside} }} drop", f"    oifname {{ {inside} }} drop"]
    lines += [
        f"    oifname {{ {names} }} ct status dnat accept",
        f"    oifname {{ {names} }} drop",
        f"    iifname {{ {names} }} accept",
        "  }",
    ]
    return lines


class Firewall:
    """Our table in the kernel, as it should be. `table`: its family and name, which nobody else has."""

    def __init__(self, table: str) -> None:
        self.table = table
        self._nftables = nftables.Nftables()
        self._listing = ""
        self._text = ""
        self._succeeded = False

    def apply(self, networks: Iterable[Network], published: Iterable[Published]) -> None:
        """Replaces the table. Raises NftablesError; then the old one stays."""
        networks = list(networks)
        text = ruleset(self.table, networks, published)
        if text == self._text:
            return
        self._nftables.run("\n".join([*self._succeed(networks), text]))
        self._text, self._listing = text, self._list(self.table)
        self._succeeded = True

    def _succeed(self, networks: list[Network]) -> list[str]:
        """Takes the table of an engine without an id along, if it is the one that we were: it speaks of our bridges."""
        if self._succeeded:
            return []
        listing = self._list(OLD_TABLE)
        ours = any(f'"{network.bridge}"' in listing for network in networks if network.bridge)
        return [f"delete table {OLD_TABLE}"] if ours else []

    @property
    def applied(self) -> bool:
        """Whether there is a table."""
        return bool(self._text)

    def _list(self, table: str) -> str:
        try:
            return self._nftables.run(f"list table {table}")
        except nftables.NftablesError:
            return ""

    def intact(self) -> bool:
        """Whether the kernel has what we put there."""
        return bool(self._listing) and self._list(self.table) == self._listing

    def restore(self) -> bool:
        """Puts the table back if somebody has changed or flushed it. Whether it was needed."""
        if not self._text or self.intact():
            return False
        self._nftables.run(self._text)
        self._listing = self._list(self.table)
        return True

    def remove(self) -> None:
        """Takes the table away, whoever of us has made it. Raises NftablesError."""
        self._text = self._listing = ""
        self._nftables.run(f"add table {self.table}\ndelete table {self.table}")
