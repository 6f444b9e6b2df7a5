"""Networks hold against whoever has NET_RAW (T66, S041, S043, S044, P060): every attack is sent for real, and nothing of it
comes to the host's sockets or to anybody else. A datagram that may pass is sent last, so that no test waits for silence."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.conftest import eventually
from tests.faults import frames
from tests.faults.frames import advertisement, arp, ear, ethernet, icmp6, ip, udp
from tests.faults.places import BROADCAST, NOBODY, REPLY, Place, forged, known_neighbours, speak
from tests.support.network_site import HOST, HOST6, OUTSIDE, OUTSIDE6, Site


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    found = Site()
    for name, options in {
        "red": ["--ipv6", "--subnet", "10.61.0.0/24", "--subnet", "fd61::/64"],
        "blue": ["--ipv6", "--subnet", "10.62.0.0/24", "--subnet", "fd62::/64"],
        "shut": ["--ipv6", "--subnet", "10.63.0.0/24", "--subnet", "fd63::/64", "-o", "com.docker.network.bridge.enable_icc=0"],
        "inner": ["--internal", "--ipv6", "--subnet", "10.64.0.0/24", "--subnet", "fd64::/64"],
        "free": ["--ipv6", "--subnet", "10.65.0.0/24", "--subnet", "fd65::/64", "-o", "sampan.antispoof=false"],
    }.items():  # fmt: skip
        found.daemon.ok("network", "create", *options, name)
    yield found
    found.close()


@pytest.fixture(scope="module")
def places(site: Site) -> dict[str, Place]:
    return {
        name: Place(site, name, name.rstrip("12"))
        for name in ("red1", "red2", "blue1", "shut1", "shut2", "inner1", "inner2", "free1", "free2")
    }


@pytest.mark.parametrize("target", ["host", "neighbour"])
def test_what_is_false_about_a_frame(site: Site, places: dict[str, Place], target: str) -> None:
    me, other, host = places["red1"], places["red2"], target == "host"
    to_mac, to, to6 = (me.router, me.gateway, me.gateway6) if host else (other.mac, other.ip, other.ip6)
    with ear(site.host) if host else ear(other.pid, "eth0") as heard:
        attacks = forged(me, other, to_mac, to, to6)
        frames.send(me.pid, [*attacks, me.to(to_mac, udp(me.ip6, to6, "six")), me.to(to_mac, udp(me.ip, to, "end"))])
        assert set(heard.until("end")) <= {"six"}
        frames.send(me.pid, [me.to(to_mac, udp(me.ip6, to6, "last"))])
        heard.until("last")


@pytest.mark.parametrize("target", ["host", "neighbour"])
def test_who_is_not_made_to_be_himself(site: Site, places: dict[str, Place], target: str) -> None:
    """With antispoof=false an address more is heard (and so the attacks above would be), but nobody is the gateway."""
    me, other, host = places["free1"], places["free2"], target == "host"
    to_mac, to, to6 = (me.router, me.gateway, me.gateway6) if host else (other.mac, other.ip, other.ip6)
    with ear(site.host) if host else ear(other.pid, "eth0") as heard:
        frames.send(me.pid, [
            me.to(to_mac, udp(me.gateway, to, "gateway")),
            me.to(to_mac, udp(me.gateway6, to6, "gateway6")),
            me.to(to_mac, udp(me.ip, to, "its mac"), me.router),
            me.to(to_mac, udp("127.0.0.1", to, "loopback")) if host else b"\xff" * 60,
            me.to(to_mac, udp(me.ip, to, "tagged"), tags=bytes.fromhex("81000000")),
            me.to("01:80:c2:00:00:03", udp(me.ip, to, "reserved")),
            me.to(to_mac, udp(HOST, to, "the host")) if host else b"\xff" * 60,
            me.to(to_mac, udp("10.65.0.200", to, "virtual"), "02:00:00:00:00:77"),
            me.to(to_mac, udp("fd65::200", to6, "virtual6")),
            me.to(to_mac, udp(me.ip, to, "end")),
        ])  # fmt: skip
        assert {"virtual"} <= set(heard.until("end")) <= {"virtual", "virtual6"}


def test_without_icc_nobody_is_reached_by_the_gateway(site: Site, places: dict[str, Place]) -> None:
    """The raw frame to the gateway's MAC with a neighbour's address (T66), and all others ways to him."""
    me, other = places["shut1"], places["shut2"]
    with ear(other.pid, "eth0") as heard:
        attacks = []
        for there in (me.router, other.mac, BROADCAST, "01:00:5e:00:00:01", "33:33:00:00:00:01", "01:80:c2:00:00:0e"):
            attacks += [
                me.to(there, udp(me.ip, other.ip, f"by {there}")),
                me.to(there, udp(me.ip6, other.ip6, f"6 by {there}")),
            ]
            attacks.append(me.to(there, udp(other.ip, other.ip, f"self by {there}")))
            attacks.append(me.to(there, udp(me.ip, "10.63.0.255", f"all by {there}")))
        frames.send(me.pid, attacks)
        speak(site.host, other.ip, "end")
        assert heard.until("end") == []


def test_internal_networks_end_at_their_bridge(site: Site, places: dict[str, Place]) -> None:
    """No address of the host, nobody outside, no other network; not by the gateway's MAC either. The host may ask them."""
    me, red = places["inner1"], places["red1"]
    with ExitStack() as stack:
        ears = [
            stack.enter_context(one)
            for one in (ear(site.host), ear(site.outside), ear(red.pid, "eth0"), ear(places["inner2"].pid))
        ]
        frames.send(me.pid, [
            me.to(there, udp(me.ip6 if ":" in target else me.ip, target, f"{target} by {there}"))
            for there in (me.router, BROADCAST, "33:33:00:00:00:01")
            for target in (me.gateway, HOST, OUTSIDE, red.gateway, red.ip, "172.17.0.1", "127.0.0.1", "10.64.0.255", "224.0.0.1",
                           me.gateway6, HOST6, OUTSIDE6, red.gateway6, red.ip6, "ff02::1")
        ])  # fmt: skip
        speak(places["inner1"].pid, places["inner2"].ip, "end")
        ears[3].until("end")  # all has been dealt with
        for one, pid, address in (
            (ears[0], red.pid, red.gateway),
            (ears[1], site.host, OUTSIDE),
            (ears[2], site.host, red.ip),
        ):
            speak(pid, address, "end")
            assert one.until("end") == []
    with site.server(me.pid, 80):
        for kind in ("tcp", "udp"):
            assert site.reach(site.host, kind, me.ip, 80) != "no"
            assert site.reach(site.host, kind, me.ip6, 80) != "no"


def test_networks_are_apart(site: Site, places: dict[str, Place]) -> None:
    """c1 on one, c2 on another (S044): by whatever MAC, also by the other's gateway; and from outside past the host."""
    red, blue = places["red1"], places["blue1"]
    with ear(blue.pid, "eth0") as heard, ear(site.host) as host:
        for me in (red, places["free1"]):
            frames.send(me.pid, [
                me.to(there, udp(me.ip6 if ":" in target else me.ip, target, f"{target} by {there}"))
                for there in (me.router, blue.mac, BROADCAST)
                for target in (blue.ip, blue.ip6, blue.gateway, blue.gateway6, "10.62.0.255", "10.62.0.0", "fd62::")
            ])  # fmt: skip
        for address in (blue.ip, blue.ip6):
            prefix = f"{address}/{128 if ':' in address else 32}"
            site.ip(site.outside, f"route add {prefix} via {HOST6 if ':' in address else HOST}")
            speak(site.outside, address, "from outside")
            site.ip(site.outside, f"route del {prefix}")
        speak(site.outside, HOST, "outside")
        speak(red.pid, red.gateway, "end")
        assert host.until("end") == ["outside"]
        speak(site.host, blue.ip, "end")
        assert heard.until("end") == []


def test_nobody_is_told_who_is_where(site: Site, places: dict[str, Place]) -> None:
    """ARP and neighbour discovery in another's name change nothing, for the host or a neighbour (S043)."""
    me, other, third = places["red1"], places["red2"], Place(site, "red3", "red")
    claims = [(third.ip, third.ip6), (me.gateway, me.gateway6), (other.ip, other.ip6)]
    for pid in (other.pid, site.host):
        for address, address6 in claims:
            speak(pid, address, "hello")  # so that they know each other
            speak(pid, address6, "hello")
    eventually(lambda: {third.ip, third.ip6, me.gateway, me.gateway6} <= set(known_neighbours(other.pid)))
    eventually(lambda: {third.ip, third.ip6, other.ip, other.ip6} <= set(known_neighbours(site.host)))
    before = [known_neighbours(other.pid), known_neighbours(site.host)]
    attacks = []
    for address, address6 in claims:
        for there in (other.mac, me.router, BROADCAST, "01:80:c2:00:00:0e"):
            for operation in (1, REPLY):
                for sender in (me.mac, third.mac):
                    said = arp(operation, sender, address, other.mac, other.ip)
                    attacks.append(ethernet(me.mac, there, 0x0806, said))
                    attacks.append(ethernet(third.mac, there, 0x0806, said))
                    attacks.append(ethernet(me.mac, there, 0x0806, arp(operation, sender, address, NOBODY, address)))
            for source in (address6, me.ip6, me.local, other.local):
                for extension in (b"", b"\0\0\1\4\0\0\0\0"):
                    said = advertisement(source, "ff02::1", address6, me.mac, extension)
                    attacks.append(me.to(there, said))
                    attacks.append(me.to(there, advertisement(source, other.ip6, address6, me.mac, extension)))
    frames.send(me.pid, attacks)
    with ear(site.host) as host, ear(other.pid) as heard:
        frames.send(
            me.pid, [me.to(me.router, udp(me.ip, me.gateway, "end")), me.to(other.mac, udp(me.ip, other.ip, "end"))]
        )
        host.until("end")
        heard.until("end")
    for known, now in zip(before, [known_neighbours(other.pid), known_neighbours(site.host)], strict=True):
        for address, mac in known.items():
            assert now.get(address, mac) == mac, address
    assert me.mac not in {
        mac for address, mac in known_neighbours(other.pid).items() if address not in (me.ip, me.ip6, me.local)
    }


def test_nobody_plays_the_router(site: Site, places: dict[str, Place]) -> None:
    """Advertisements and redirects are dropped at the port, and would be believed by no container and by no bridge (S043)."""
    me, other = places["red1"], places["red2"]
    with ear(other.pid, "eth0") as heard:
        prefix = b"\x03\x04\x40\xc0" + b"\xff" * 8 + bytes(4) + bytes.fromhex("fdbad000000000000000000000000000")
        router = bytes([64, 0, 0xFF, 0xFF]) + bytes(8) + prefix + b"<router>"
        redirect = (
            bytes(4) + frames.ipaddress.ip_address(me.local).packed + frames.ipaddress.ip_address("fd99::9").packed
        )
        attacks = []
        for source in (me.local, me.ip6, other.local):
            for extension in (b"", b"\0\0\1\4\0\0\0\0"):
                for kind, body in ((134, router[0:0] + router), (137, redirect + b"<redirect>")):
                    # The fields of ICMPv6's own four bytes are zeros in icmp6(): a lifetime of router advertisements comes after.
                    attacks.append(me.to("33:33:00:00:00:01", icmp6(source, "ff02::1", kind, body, extension)))
                    attacks.append(me.to(other.mac, icmp6(source, other.ip6, kind, body, extension)))
        gateway = frames.ipaddress.ip_address(me.ip).packed
        for source in (me.ip, me.gateway):
            body = b"\x05\x01" + bytes(2) + gateway + udp(other.ip, OUTSIDE, "redirect")
            attacks.append(me.to(other.mac, ip(source, other.ip, 1, body)))
        frames.send(me.pid, [*attacks, me.to(other.mac, udp(me.ip, other.ip, "end"))])
        assert heard.until("end") == []
    assert "fdba" not in Site.ip(other.pid, "-6 route show")
    for name in ("all", "default", "eth0"):
        for key in ("ipv4/conf/{}/accept_redirects", "ipv4/conf/{}/secure_redirects", "ipv6/conf/{}/accept_ra",
                    "ipv6/conf/{}/accept_redirects"):  # fmt: skip
            text = site.daemon.ok("exec", "red2", "cat", f"/proc/sys/net/{key.format(name)}")
            assert text == "0\n", (name, key)
    bridge = next(name for name in site.links() if name.startswith("br-"))
    for key in (
        f"ipv4/conf/{bridge}/accept_redirects",
        f"ipv6/conf/{bridge}/accept_ra",
        f"ipv6/conf/{bridge}/accept_redirects",
    ):
        done = subprocess.run(
            ["nsenter", "-t", str(site.host), "-n", "cat", f"/proc/sys/net/{key}"], capture_output=True
        )
        assert done.stdout == b"0\n", key


def test_loopback_is_nobody_elses(site: Site, places: dict[str, Place]) -> None:
    """What is published on 127.0.0.1 is not for neighbours: not from outside, not from a container, not after a flush (P060)."""
    d, me = site.daemon, places["red1"]
    web = site.container("web", "-p", "127.0.0.1:8080:4000/udp", "-p", "127.0.0.1:8081:80")
    address = site.address("web")
    subprocess.run(
        ["nsenter", "-t", str(site.outside), "-n", "sysctl", "-qw", "net.ipv4.conf.all.route_localnet=1"], check=True
    )
    outside_mac = json.loads(Site.ip(site.host, "-json link show up0"))[0]["address"]
    own = json.loads(Site.ip(site.outside, "-json link show up0"))[0]["address"]
    with ear(web, "eth0") as heard, site.server(web, 80):
        for flushed in (False, True):
            if flushed:
                subprocess.run(["nsenter", "-t", str(site.host), "-n", "nft", "flush", "ruleset"], check=True)
            packets = [
                udp(OUTSIDE, "127.0.0.1", "outside"),
                udp("127.0.0.1", "127.0.0.1", "itself"),
                udp(OUTSIDE, address, "route"),
            ]
            for packet in packets:
                at = packet.index(b"<") - 6  # to the published port, then to the container's own
                frames.send(site.outside, [
                    ethernet(own, outside_mac, 0x0800, packet),
                    ethernet(own, outside_mac, 0x0800, packet[:at] + (8080).to_bytes(2, "big") + packet[at + 2 :]),
                ], "up0")  # fmt: skip
                frames.send(
                    me.pid,
                    [
                        me.to(
                            me.router,
                            udp(me.ip, "127.0.0.1", "red").replace(
                                (4000).to_bytes(2, "big"), (8080).to_bytes(2, "big")
                            ),
                        )
                    ],
                )
            assert site.reach(site.host, "tcp", "127.0.0.1", 8081) != "no"
            assert site.reach(site.outside, "tcp", HOST, 8081, 0.5) == "no"
            speak(site.host, address, "end")
            assert heard.until("end") == []
    d.ok("rm", "-f", "web")


def test_a_kernel_without_owned_tables(site: Site) -> None:
    """Before Linux 6.9 the tables are put back at once when somebody changes them: both, with all who may speak."""
    code = """
import subprocess
from sampan.linux import nftables
from sampan.network.firewall import Firewall
from sampan.network.ipam import Pool
from sampan.network.model import Endpoint, Network
nftables.supports = lambda flags, table: False
firewall = Firewall("sampan-x", "sv0")
network = Network("a" * 64, "n", "bridge", 0, ipam=[Pool(subnet="10.9.0.0/24", gateway="10.9.0.1")])
one, two = (Endpoint(n, n, n, "eth0", f"02:42:0a:09:00:0{n}", f"10.9.0.{n}/24", link=f"sv{n}") for n in ("2", "3"))
firewall.admit(network, one)
firewall.apply([network], [])
firewall.admit(network, two)
firewall.dismiss(one)
def nft(*words): return subprocess.run(["nft", *words], capture_output=True, text=True, check=True).stdout
assert not firewall.owned and firewall.intact() and not firewall.restore()
for change in ("flush ruleset", "delete table bridge sampan-x", "flush chain inet sampan-x input", "insert rule inet sampan-x input accept",
               "delete table inet sampan-x", "flush set bridge sampan-x senders4", "flush set inet sampan-x networks"):
    before = nft("list", "ruleset")
    nft(*change.split())
    assert not firewall.intact(), change
    assert firewall.restore(), change
    after = nft("list", "ruleset")
    assert "sv3" in after and after.count(" drop") == before.count(" drop") > 20, change
    assert firewall.intact()
nft("flush", "ruleset")
firewall.admit(network, one)
assert '"sv2"' in nft("list", "ruleset")
"""
    subprocess.run(["unshare", "--net", sys.executable, "-c", code], check=True)
