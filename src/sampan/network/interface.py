"""A container's interface, inside its network: addresses, up, the way out. On the host and in a guest."""

from __future__ import annotations

import ipaddress

from sampan.linux import netns
from sampan.linux import rtnetlink as rt
from sampan.linux.netlink import Netlink


def configure(name: str, addresses: list[str], gateways: list[str], ipv6: bool, mac: str = "") -> None:
    """Gives the interface its addresses ("172.17.0.2/16") and MAC where given, and makes `gateways` the way out.

    A gateway may be "link4" or "link6": the network is on the link itself. `ipv6`: whether the network has it.
    Works on the calling thread's network namespace. Raises OSError.
    """
    if not ipv6:
        netns.write_sysctl(f"ipv6/conf/{name}/disable_ipv6", "1")
    with Netlink() as netlink:
        found = rt.link(netlink, name)
        if found is None:
            raise OSError(19, f"interface {name} is gone")
        for text in addresses:
            rt.add_address(netlink, found.index, ipaddress.ip_interface(text))
        rt.set_link(netlink, found.index, up=True, address=mac)
        add_gateways(netlink, found.index, gateways)


def add_gateways(netlink: Netlink, index: int, gateways: list[str]) -> None:
    """Makes an interface the way out. Raises OSError."""
    for gateway in gateways:
        if gateway.startswith("link"):
            everything = ipaddress.ip_network("0.0.0.0/0" if gateway == "link4" else "::/0")
            rt.add_route(netlink, index, None, everything)
        else:
            rt.add_route(netlink, index, ipaddress.ip_address(gateway))
