"""Networks and endpoints in the kernel: bridges, veth pairs, macvlan and ipvlan, addresses, routes."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
from collections.abc import Iterator

from sampan.linux import netns, tap
from sampan.linux import rtnetlink as rt
from sampan.linux.netlink import Netlink, attribute
from sampan.network import interface, ownership
from sampan.network.errors import NetworkConflict, NetworkError
from sampan.network.model import Endpoint, Network
from sampan.network.ownership import Owner

_log = logging.getLogger(__name__)

MACVLAN_MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}
IPVLAN_MODES = {"l2": 0, "l3": 1, "l3s": 2}


_ensured: set[tuple[str, int]] = set()  # networks, and their bridges' indexes, that are as they should be


def ensure(network: Network) -> None:
    """Makes the network's bridge with its gateways if it is not there, and lets the host forward.

    One that is there is used as it is: a user may have named one of the host's. Raises NetworkConflict when an
    interface of that name is something else, NetworkError.
    """
    if network.driver != "bridge":
        return
    with Netlink() as netlink:
        found = rt.link(netlink, network.bridge)
        if found is None:
            try:
                mtu = network.mtu or uplink_mtu(netlink)
                rt.add_link(netlink, network.bridge, "bridge", mtu=mtu, address=network.mac)
            except OSError as error:
                raise NetworkError(f"network {network.name}: {error.strerror}") from error
            found = rt.link(netlink, network.bridge)
            assert found is not None
            rt.set_alias(netlink, found.index, network.alias)
        elif found.kind != "bridge":
            raise NetworkConflict(f"network {network.name}: interface {network.bridge} exists and is no bridge")
        elif not found.address.startswith("02:42:"):  # an older engine's, or somebody else's that we were given
            rt.set_link(netlink, found.index, address=network.mac)
        if not found.alias and ownership.bridge_of(network.id) == network.bridge:
            rt.set_alias(netlink, found.index, network.alias)  # made by us before we had an id
        if found.alias in ("", network.alias):
            _protect(network)
        # Nobody else is on it: its link-local address can be used at once, not after a second of asking around.
        netns.write_sysctl(f"ipv6/conf/{network.bridge}/accept_dad", "0")
        for pool in network.ipam:
            if pool.version == 6 and not has_ipv6():
                _log.warning(f"network {network.name}: IPv6 is switched off on this host")
                continue
            address = ipaddress.ip_interface(f"{pool.gateway}/{pool.network.prefixlen}")
            rt.add_address(netlink, found.index, address)
        if not found.up:
            rt.set_link(netlink, found.index, up=True)
        _ensured.add((network.id, found.index))
    netns.write_sysctl("ipv4/ip_forward", "1")
    netns.write_sysctl(f"ipv4/conf/{network.bridge}/route_localnet", "1")
    if network.pool(6) and has_ipv6():
        netns.write_sysctl("ipv6/conf/all/forwarding", "1")


def _protect(network: Network) -> None:
    """What the host believes of those on a bridge of ours: nothing, by settings that need no firewall (S043)."""
    name = network.bridge
    netns.believe_no_router(name)
    # Sources are those that are routed there; who has an address elsewhere is not told here.
    for key, value in (("rp_filter", "1"), ("arp_ignore", "1"), ("send_redirects", "0")):
        netns.write_sysctl(f"ipv4/conf/{name}/{key}", value)
    if network.pool(6) is None:
        netns.write_sysctl(f"ipv6/conf/{name}/disable_ipv6", "1")


def uplink_mtu(netlink: Netlink) -> int:
    """The MTU of the interface with the default route, else 1500."""
    index = next((index for network, index in rt.routes(netlink) if network.prefixlen == 0), 0)
    return next((link.mtu for link in rt.links(netlink) if link.index == index), 1500)


def remove(network: Network, owner: Owner) -> None:
    """Deletes the network's interfaces on the host; a bridge that was there before the network stays."""
    with Netlink() as netlink:
        for name in (network.bridge, ownership.dummy_of(network.id)):
            found = rt.link(netlink, name)
            old = found is not None and not found.alias and name.endswith(f"-{network.id[:12]}")
            own = found is not None and (owner.has(found) or old)
            if found is not None and own and found.kind in ("bridge", "dummy"):
                rt.delete_link(netlink, found.index)


def is_free(network: Network, owner: Owner) -> bool:
    """Whether the network's bridge is ours, or can be, with its subnets used by nobody else."""
    with Netlink() as netlink:
        found = rt.link(netlink, network.bridge)
        if found is not None:
            gateways = {pool.gateway for pool in network.ipam}
            known = {str(address.ip) for index, address in rt.addresses(netlink) if index == found.index}
            # One without an alias that has our gateway was ours before we had an id.
            if not owner.has(found) and (found.alias or not gateways & known):
                return False
            if not found.alias:
                rt.set_alias(netlink, found.index, owner.alias)
        index = found.index if found is not None else 0
        others = [subnet for subnet, other in rt.routes(netlink) if other != index and subnet.prefixlen]
        return not any(
            one.version == other.version and one.overlaps(other) for one in network.subnets for other in others
        )


def exists(name: str) -> bool:
    """Whether there is an interface of that name."""
    with Netlink() as netlink:
        return rt.link(netlink, name) is not None


def taken_subnets() -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    """The destinations that the host has routes to."""
    with Netlink() as netlink:
        return [network for network, _ in rt.routes(netlink)]


def has_ipv6() -> bool:
    """Whether the host has IPv6 and has it switched on."""
    try:
        with open("/proc/sys/net/ipv6/conf/all/disable_ipv6", encoding="ascii") as file:
            return file.read().strip() == "0"
    except FileNotFoundError:
        return False


def plug(network: Network, endpoint: Endpoint, namespace: int, default_route: bool) -> None:
    """Gives the network namespace its interface on the network, configured and up. Raises NetworkError."""
    with _undone(network, endpoint.host_interface):
        with Netlink() as netlink:
            if network.driver == "bridge":
                _make_veth(netlink, network, endpoint.host_interface, endpoint.interface, endpoint.mac, namespace)
            else:
                _make_slave(netlink, network, endpoint, namespace)
        netns.inside(namespace, _configure, network, endpoint, default_route)


def plug_tap(network: Network, endpoint: Endpoint) -> int:
    """A machine's interface on the network's bridge, as the descriptor of a tap; it goes when that is closed.

    Raises NetworkError.
    """
    if network.driver != "bridge":
        raise NetworkError(
            f"network {network.name}: a virtual machine can only be on bridge networks, not {network.driver}"
        )
    try:
        fd = tap.new(endpoint.host_interface)
    except OSError as error:
        raise NetworkError(f"network {network.name}: tap: {error.strerror}") from error
    try:
        with Netlink() as netlink:
            _join_bridge(netlink, network, endpoint.host_interface)
    except OSError as error:
        os.close(fd)
        raise NetworkError(f"network {network.name}: {error.strerror}") from error
    return fd


def plug_slot(network: Network, endpoint: Endpoint, namespace: int, slot: int) -> None:
    """Takes a running machine's unused tap out of `namespace` to the network's bridge. Raises NetworkError."""
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def move() -> None:
        with Netlink() as netlink:
            found = rt.link(netlink, f"slot{slot}")
            if found is None:
                raise OSError(19, f"interface slot{slot} is gone")
            rt.set_link(netlink, found.index, name=endpoint.host_interface, netns=here)

    try:
        netns.inside(namespace, move)
        with Netlink() as netlink:
            _join_bridge(netlink, network, endpoint.host_interface)
    except OSError as error:
        raise NetworkError(f"network {network.name}: {error.strerror}") from error
    finally:
        os.close(here)


def unplug_slot(endpoint: Endpoint, namespace: int, slot: int) -> None:
    """Gives a running machine's tap back to `namespace`; gone is fine."""
    with Netlink() as netlink:
        found = rt.link(netlink, endpoint.host_interface)
        if found is not None:
            rt.set_link(netlink, found.index, up=False, name=f"slot{slot}", netns=namespace)


def _join_bridge(netlink: Netlink, network: Network, name: str) -> None:
    master, mtu = _master(netlink, network)
    port = rt.link(netlink, name)
    if port is None:
        raise OSError(19, f"interface {name} is gone")
    netns.write_sysctl(f"ipv6/conf/{name}/disable_ipv6", "1")  # it is a port; the address is the guest's
    rt.set_link(netlink, port.index, up=True, master=master, mtu=mtu)
    _set_port(netlink, network, name)


def plug_ahead(network: Network, link: str, namespace: int) -> None:
    """Makes the interface eth0 for an endpoint that has no address yet; `link` is the host's end. Raises NetworkError."""
    with _undone(network, link), Netlink() as netlink:
        _make_veth(netlink, network, link, "eth0", "", namespace)


def complete(network: Network, endpoint: Endpoint, namespace: int) -> None:
    """Configures what plug_ahead() has made. Raises NetworkError."""
    with _undone(network, endpoint.host_interface):
        netns.inside(namespace, _configure, network, endpoint, True, endpoint.mac)


@contextlib.contextmanager
def _undone(network: Network, link: str) -> Iterator[None]:
    """When the kernel refuses something: leaves no interface and names the network."""
    try:
        yield
    except OSError as error:
        unplug(link)
        raise NetworkError(f"network {network.name}: {error.strerror}") from error


def _make_veth(netlink: Netlink, network: Network, name: str, peer: str, mac: str, namespace: int) -> None:
    master, mtu = _master(netlink, network)
    rt.add_veth(netlink, name, master=master, mtu=mtu, peer=peer, peer_address=mac, netns=namespace)
    _set_port(netlink, network, name)


def _master(netlink: Netlink, network: Network) -> tuple[int, int]:
    """Index and MTU of the network's bridge, made if it is not there, and with our addresses if it was there before us."""
    master = rt.link(netlink, network.bridge)
    if master is None or (network.id, master.index) not in _ensured:
        ensure(network)
        master = rt.link(netlink, network.bridge)
        assert master is not None
    return master.index, network.mtu or master.mtu


def _set_port(netlink: Netlink, network: Network, name: str) -> None:
    port = rt.link(netlink, name)
    if port is not None:
        # Hairpin: with br_netfilter a container that asks its own published port comes back to its port.
        rt.set_port(netlink, port.index, hairpin=True, isolated=not network.icc)


def _make_slave(netlink: Netlink, network: Network, endpoint: Endpoint, namespace: int) -> None:
    parent = _parent(netlink, network)
    if network.driver == "macvlan":
        mode = MACVLAN_MODES[network.options.get("macvlan_mode", "bridge")]
        address = endpoint.mac
    else:
        mode = IPVLAN_MODES[network.options.get("ipvlan_mode", "l2")]
        address = ""
    size = 4 if network.driver == "macvlan" else 2
    data = [attribute(1, mode.to_bytes(size, "little"))]
    rt.add_link(
        netlink,
        endpoint.interface,
        network.driver,
        data,
        parent=parent,
        mtu=network.mtu,
        address=address,
        netns=namespace,
    )


def _parent(netlink: Netlink, network: Network) -> int:
    """The interface a macvlan or ipvlan network hangs on; without `parent` a dummy of its own."""
    name = network.options.get("parent") or ownership.dummy_of(network.id)
    found = rt.link(netlink, name)
    if found is None and not network.options.get("parent"):
        rt.add_link(netlink, name, "dummy", up=True)
        found = rt.link(netlink, name)
    if found is None:
        raise NetworkError(f"network {network.name}: parent interface {name} does not exist")
    return found.index


def _configure(network: Network, endpoint: Endpoint, default_route: bool, mac: str = "") -> None:
    """Inside the container's namespace: MAC where given, addresses, up, default route."""
    ipv6 = has_ipv6()
    addresses = [text for text in (endpoint.ipv4, endpoint.ipv6) if text and (ipv6 or ":" not in text)]
    gateways = _gateways(network, ipv6) if default_route else []
    interface.configure(endpoint.interface, addresses, gateways, network.pool(6) is not None, mac)


def _gateways(network: Network, ipv6: bool) -> list[str]:
    """The ways out as interface.configure() takes them."""
    pools = [pool for pool in network.ipam if not network.internal and (ipv6 or pool.version == 4)]
    on_link = network.driver == "ipvlan" and network.options.get("ipvlan_mode", "l2") != "l2"
    return [f"link{pool.version}" if on_link else pool.gateway for pool in pools]


def move_default_route(network: Network, endpoint: Endpoint, namespace: int) -> None:
    """Makes this endpoint the way out of a running container."""

    def change() -> None:
        with Netlink() as netlink:
            found = rt.link(netlink, endpoint.interface)
            if found is not None:
                interface.add_gateways(netlink, found.index, _gateways(network, has_ipv6()))

    netns.inside(namespace, change)


def unplug(link: str, namespace: int = -1, interface: str = "") -> None:
    """Deletes an endpoint's interface, by the host's end or inside `namespace`; gone is fine."""

    def delete(name: str) -> None:
        with Netlink() as netlink:
            found = rt.link(netlink, name)
            if found is not None:
                rt.delete_link(netlink, found.index)

    delete(link)
    if namespace >= 0:
        netns.inside(namespace, delete, interface)


def sweep(networks: list[Network], owner: Owner) -> None:
    """Deletes what we have left when we were killed: interfaces of ours that no network and no endpoint has.

    Only what carries our id, or hangs on a bridge of ours with a name of the time before it.
    """
    endpoints = {endpoint.host_interface for network in networks for endpoint in network.endpoints.values()}
    used = {name for network in networks for name in (network.bridge, ownership.dummy_of(network.id))}
    with Netlink() as netlink:
        found = rt.links(netlink)
        bridges = {link.index for link in found if link.kind == "bridge" and owner.has(link)}
        for link in found:
            if link.kind == "veth":
                old = ownership.is_old_veth(link.name) and link.master in bridges
                left = (owner.has_veth(link.name) or old) and link.name not in endpoints
            else:
                left = link.kind in ("bridge", "dummy") and owner.has(link) and link.name not in used
            if left:
                rt.delete_link(netlink, link.index)


def abandoned() -> list[tuple[str, str]]:
    """(interface, the engine's short id) of bridges of engines whose data root is no longer there."""
    with Netlink() as netlink:
        found = [
            (link.name, link.alias.split(" ", 2)) for link in rt.links(netlink) if link.kind in ("bridge", "dummy")
        ]
    return [
        (name, words[1])
        for name, words in found
        if words[0] == "sampan" and len(words) == 3 and not os.path.isdir(words[2])
    ]


def missing(networks: list[Network]) -> set[str]:
    """The hosts' ends of endpoints that are not there."""
    with Netlink() as netlink:
        found = {link.name for link in rt.links(netlink)}
    endpoints = [e for n in networks if n.driver == "bridge" for e in n.endpoints.values()]
    return {endpoint.host_interface for endpoint in endpoints} - found
