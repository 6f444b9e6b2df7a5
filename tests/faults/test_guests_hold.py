"""Networks hold against a machine's guest, whose kernel is its own: it sends whatever frames it likes (S043-S045; ADR 30).

One machine on two networks. A datagram that may pass is sent last, so that no test waits for silence.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator

import pytest

from tests.conftest import Daemon, share_vm_cache
from tests.faults import frames
from tests.faults.frames import advertisement, arp, ear, ethernet, icmp6, ip, udp
from tests.faults.places import BROADCAST, NOBODY, REPLY, Place, forged, known_neighbours, speak
from tests.support.network_site import Site

pytestmark = pytest.mark.skipif(not shutil.which("qemu-system-x86_64"), reason="QEMU is not installed")


class MachineSite(Site):
    """The site, with the kernel and the templates that all tests have: it has no way to a distribution's packages."""

    def new_daemon(self) -> Daemon:
        daemon = super().new_daemon()
        share_vm_cache(daemon)
        return daemon


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    found = MachineSite()
    net = ["network", "create", "--ipv6", "--subnet"]
    found.daemon.ok(*net, "10.61.0.0/24", "--subnet", "fd61::/64", "red")
    apart = ("-o", "com.docker.network.bridge.enable_icc=0")
    found.daemon.ok(*net, "10.63.0.0/24", "--subnet", "fd63::/64", *apart, "shut")
    # The host's Python for the guest: busybox has nothing that makes frames.
    shares = [f"-v={top}:{top}:ro" for top in ("/usr", "/lib", "/lib64") if os.path.isdir(top)]
    machine = ("--isolation", "vm", "--cap-add", "NET_RAW", "--cap-add", "NET_ADMIN", *shares, "busybox")
    found.daemon.ok("run", "-d", "--name", "guest", "--network", "red", *machine, "sleep", "600", timeout=110)
    found.daemon.ok("network", "connect", "shut", "guest")
    yield found
    found.close()


def guest_sends(site: Site, attacks: list[bytes], interface: str) -> None:
    """The guest sends frames, in order."""
    command = ("exec", "-i", "guest", os.path.realpath(sys.executable), "-IS", "-c", frames.SEND, interface)
    site.daemon.ok(*command, input=json.dumps([frame.hex() for frame in attacks]).encode())


def test_a_guest_is_who_it_is(site: Site) -> None:
    """Other sources, MACs, ARP, neighbour discovery, routers' messages: nobody hears them. What is honest works."""
    other = Place(site, "red2", "red")
    me = Place(site, "guest", "red", site.pid("guest"))
    site.daemon.ok("exec", "red2", "ping", "-c", "1", "-W", "5", me.ip)
    site.daemon.ok("exec", "guest", "ping", "-c", "1", "-W", "5", other.ip)
    site.daemon.ok("exec", "guest", "ping", "-c", "1", "-W", "5", "red2")  # by name
    for pid in (other.pid, site.host):
        for address in (me.ip, me.ip6):
            speak(pid, address, "hello")
    said = []
    for address, address6 in ((me.gateway, me.gateway6), (other.ip, other.ip6)):
        for there in (other.mac, me.router, BROADCAST):
            for operation in (1, REPLY):
                said.append(ethernet(me.mac, there, 0x0806, arp(operation, me.mac, address, NOBODY, address)))
            said.append(me.to(there, advertisement(me.ip6, "ff02::1", address6, me.mac)))
    router = bytes([64, 0, 0xFF, 0xFF]) + bytes(8) + b"<router>"
    said += [
        me.to(other.mac, icmp6(me.local, other.ip6, 134, router)),
        me.to(other.mac, icmp6(me.local, other.ip6, 137, b"<redirect>")),
    ]
    said.append(me.to(other.mac, ip(me.ip, other.ip, 1, b"\x05\x01" + bytes(6) + b"<redirect>")))
    before = [known_neighbours(other.pid), known_neighbours(site.host)]
    with ear(other.pid, "eth0") as heard, ear(site.host) as host:
        attacks = [
            *said,
            *forged(me, other, me.router, me.gateway, me.gateway6),
            *forged(me, other, other.mac, other.ip, other.ip6),
            me.to(other.mac, udp(me.ip6, other.ip6, "six")),
            me.to(me.router, udp(me.ip, me.gateway, "end")),
            me.to(other.mac, udp(me.ip, other.ip, "end")),
        ]
        guest_sends(site, attacks, "eth0")
        assert set(heard.until("end")) == {"six"}  # by its socket and its interface
        assert host.until("end") == []
    for known, now in zip(before, [known_neighbours(other.pid), known_neighbours(site.host)], strict=True):
        for address, mac in known.items():
            assert now.get(address, mac) == mac, address


def test_a_guest_reaches_no_neighbour_without_icc(site: Site) -> None:
    """On its second interface: neither by the bridge nor by the gateway's MAC; the host and outside are reached."""
    other, me = Place(site, "shut2", "shut"), Place(site, "guest", "shut", site.pid("guest"))
    attacks = []
    for there in (me.router, other.mac, BROADCAST, "33:33:00:00:00:01", "01:80:c2:00:00:0e"):
        attacks += [me.to(there, udp(me.ip, other.ip, there)), me.to(there, udp(me.ip6, other.ip6, there))]
        attacks.append(me.to(there, udp(other.ip, other.ip, f"himself by {there}")))
    with ear(other.pid, "eth0") as heard, ear(site.host) as host:
        guest_sends(site, [*attacks, me.to(me.router, udp(me.ip, me.gateway, "end"))], "eth1")
        host.until("end")
        speak(site.host, other.ip, "end")
        assert heard.until("end") == []
    assert site.daemon.sampan("exec", "guest", "ping", "-c", "1", "-W", "1", other.ip).returncode == 1
    site.daemon.ok("exec", "guest", "ping", "-c", "1", "-W", "5", me.gateway)
