"""The records: a network, the endpoint of a container on it, and what is asked for when one is made."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields

import msgspec

from sampan.network import ownership
from sampan.network.ipam import Pool, PoolRequest, Subnet, mac_of

ICC = "com.docker.network.bridge.enable_icc"
MASQUERADE = "com.docker.network.bridge.enable_ip_masquerade"
ANTISPOOF = "sampan.antispoof"
SWITCHES = (ICC, MASQUERADE, ANTISPOOF)  # options that are on unless they say otherwise
HOST_BINDING = "com.docker.network.bridge.host_binding_ipv4"
_MTU, _BRIDGE = "com.docker.network.driver.mtu", "com.docker.network.bridge.name"
OPTIONS = {  # of networks, by driver
    "bridge": (_BRIDGE, *SWITCHES, HOST_BINDING, _MTU),
    "macvlan": ("parent", "macvlan_mode", _MTU),
    "ipvlan": ("parent", "ipvlan_mode", _MTU),
}


class IpamRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The subnets that are asked for a network, and who is to give its addresses: there is only "default"."""

    driver: str = "default"
    pools: tuple[PoolRequest, ...] = ()


class NetworkRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A network as it is asked for."""

    name: str = ""
    driver: str = "bridge"
    ipam: IpamRequest = IpamRequest()
    ipv6: bool = False
    internal: bool = False
    attachable: bool = False
    options: Mapping[str, str] = {}
    labels: Mapping[str, str] = {}


@dataclass(slots=True)
class Endpoint:
    """A container's place on a network. Addresses are text, with the prefix's length ("172.17.0.2/16")."""

    id: str
    container: str
    name: str
    interface: str
    mac: str
    ipv4: str = ""
    ipv6: str = ""
    aliases: list[str] = field(default_factory=list)
    link: str = ""  # the host's end of it; not in records of engines without an id
    network: str = ""  # the network's id
    priority: int = 0  # the highest is the way out (Docker's GwPriority)

    @property
    def host_interface(self) -> str:
        """The end of the veth pair on the host; its name tells our interfaces from others'."""
        return self.link or ownership.old_veth(self.id)

    def record(self) -> dict[str, object]:
        """What is saved; a priority only where there is one, which an older engine could not read."""
        return {key: value for key, value in asdict(self).items() if key != "priority" or value}

    @property
    def addresses(self) -> list[str]:
        """The bare addresses that it has."""
        return [text for text in (self.address(4), self.address(6)) if text]

    def address(self, version: int) -> str:
        """The bare address, or "" without one."""
        return (self.ipv4 if version == 4 else self.ipv6).partition("/")[0]


@dataclass(slots=True)
class Network:
    """A network."""

    id: str
    name: str
    driver: str
    created: int  # nanoseconds since the epoch
    ipam: list[Pool] = field(default_factory=list)  # its subnets
    ipam_driver: str = "default"
    ipam_options: dict[str, str] = field(default_factory=dict)
    ipv6: bool = False
    internal: bool = False
    attachable: bool = False
    options: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    endpoints: dict[str, Endpoint] = field(default_factory=dict)  # by container id
    alias: str = ""  # what its bridge says of whose it is: not saved

    @property
    def bridge(self) -> str:
        """The name of its bridge on the host."""
        return self.options.get(_BRIDGE) or ownership.bridge_of(self.id)

    @property
    def mtu(self) -> int:
        """What the user asked for, or 0."""
        text = self.options.get(_MTU, "0")
        return int(text) if text.isdecimal() else 0

    @property
    def mac(self) -> str:
        """The MAC address of its bridge: fixed, as the kernel would change one that is not given with every port that comes
        or goes (br_stp_recalculate_bridge_id in net/bridge/br_stp_if.c), and connections of all who know it stand still."""
        pool = self.pool(4)
        return mac_of(pool.gateway) if pool else f"02:42:{bytes.fromhex(self.id[:8]).hex(':')}"

    @property
    def subnets(self) -> list[Subnet]:
        """Its subnets."""
        return [pool.network for pool in self.ipam]

    @property
    def gateways(self) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
        """The host's addresses on it."""
        return [ipaddress.ip_address(pool.gateway) for pool in self.ipam]

    def _switch(self, option: str) -> bool:
        return self.options.get(option, "true").lower() not in ("0", "f", "false")

    @property
    def icc(self) -> bool:
        """Whether its containers reach each other."""
        return self._switch(ICC)

    @property
    def masquerades(self) -> bool:
        """Whether its containers have the host's address outside."""
        return self._switch(MASQUERADE)

    @property
    def antispoof(self) -> bool:
        """Whether each container has to be who it is, in every frame."""
        return self._switch(ANTISPOOF)

    @property
    def predefined(self) -> bool:
        """Whether it is one of the three that are always there."""
        return self.name in ("bridge", "host", "none")

    @property
    def has_names(self) -> bool:
        """Whether its containers find each other by name: on all but the default bridge."""
        return self.driver in ("bridge", "macvlan", "ipvlan") and self.name != "bridge"

    def pool(self, version: int) -> Pool | None:
        """Its subnet of an IP version."""
        return next((pool for pool in self.ipam if pool.version == version), None)

    def record(self) -> dict[str, object]:
        """The part that is saved; endpoints have records of their own, so that one more costs the same as the first."""
        saved = [each.name for each in fields(self) if each.name not in ("endpoints", "alias")]
        found: dict[str, object] = msgspec.to_builtins({name: getattr(self, name) for name in saved})
        return found
