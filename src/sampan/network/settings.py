"""What is asked of a container's place on a network: addresses that are some, inside its subnets. Pure functions."""

from __future__ import annotations

import ipaddress
import re

import msgspec

from sampan.network.attachment import EndpointSettings
from sampan.network.errors import NetworkError
from sampan.network.model import Network

_MAC = re.compile(r"[0-9a-f]{2}([:-][0-9a-f]{2}){5}", re.ASCII)
_INTERFACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}", re.ASCII)
_NOT_ONE = ("all", "default", "lo")  # names below /proc/sys/net that are of no interface, or of the host's own
_TRUE, _FALSE = ("1", "t", "true"), ("0", "f", "false")  # as Go's ParseBool
_INSTEAD = {  # what else there is
    "com.docker.network.endpoint.sysctls": "Use HostConfig.Sysctls (--sysctl net.ipv4.conf.eth0.NAME=VALUE): interfaces are eth0, eth1, ...",
    "com.docker.network.endpoint.ifname": "Interfaces are eth0, eth1, ... in the order of the networks",
}
replace = msgspec.structs.replace


def checked(network: Network, settings: EndpointSettings) -> EndpointSettings:
    """The settings with addresses as they are written. Raises NetworkError that names the field, also for what there is not."""
    for option in settings.driver_options:
        raise NetworkError(
            f"DriverOpts {option!r} is not implemented: no option of an endpoint is. {_INSTEAD.get(option, '')}".rstrip()
        )
    wanted = settings.addresses
    if wanted is not None:
        if wanted.link_local:
            raise NetworkError(
                "LinkLocalIPs are not implemented: a container has IPv4Address, IPv6Address and what its kernel gives it"
            )
        wanted = replace(
            wanted,
            ipv4=_address(network, wanted.ipv4, "IPv4Address", 4) if wanted.ipv4 else "",
            ipv6=_address(network, wanted.ipv6, "IPv6Address", 6) if wanted.ipv6 else "",
        )
    return replace(settings, addresses=wanted, mac=mac(settings.mac) if settings.mac else "")


def mac(text: str) -> str:
    """A MAC address that an interface can have. Raises NetworkError."""
    lower = text.lower()
    if not _MAC.fullmatch(lower):
        raise NetworkError(f"invalid MacAddress {text!r}: six bytes like 02:42:ac:11:00:02")
    value = bytes.fromhex(lower.replace(":", "").replace("-", ""))
    if value[0] & 1 or not any(value):
        raise NetworkError(f"invalid MacAddress {text!r}: it is a group's, or of zeros, and no interface can have it")
    return value.hex(":")


def address(text: str, what: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An IP address, without a zone. Raises NetworkError."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        raise NetworkError(f"invalid {what}: {text!r} is no IP address") from None
    if "%" in text:
        raise NetworkError(f"invalid {what}: {text!r} has a zone")
    return found


def interface(text: str, what: str) -> str:
    """The name of an interface: it becomes part of paths and rules. Raises NetworkError."""
    if not _INTERFACE.fullmatch(text) or text in _NOT_ONE:
        raise NetworkError(
            f"invalid {what} {text!r}: 1 to 15 of [a-zA-Z0-9_.-], not beginning with . or -, and not {', '.join(_NOT_ONE)}"
        )
    return text


def flag(text: str, what: str) -> bool:
    """A switch of a network's options. Raises NetworkError."""
    if text.lower() not in _TRUE + _FALSE:
        raise NetworkError(f"invalid {what} {text!r}: true or false")
    return text.lower() in _TRUE


def _address(network: Network, text: str, key: str, version: int) -> str:
    found = address(text, f"{key[:4]} address: {key}")
    if found.version != version:
        raise NetworkError(f"invalid {key[:4]} address: {key}: {text!r}")
    pool = network.pool(version)
    if pool is None:
        raise NetworkError(f"invalid {key}: network {network.name} has no IPv{version} subnet")
    subnet = pool.network
    if found not in subnet:
        raise NetworkError(
            f"invalid {key}: no configured subnet of network {network.name} contains the IP address {text}"
        )
    edges = (subnet.network_address, subnet.broadcast_address)
    if version == 4 and subnet.prefixlen < 31 and found in edges:
        raise NetworkError(f"invalid {key}: {text} is not a host's address on network {network.name}")
    return str(found)
