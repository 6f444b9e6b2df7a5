"""Containers on networks as their attackers know them, and what an attacker says in their name."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.faults import frames
from tests.faults.frames import ethernet, protocol_of, udp
from tests.support.network_site import HOST, OUTSIDE, Site

BROADCAST = "ff:ff:ff:ff:ff:ff"
REPLY = 2
NOBODY = "00:00:00:00:00:00"


class Place:
    """A container on a network, as its attackers know it."""

    def __init__(self, site: Site, name: str, network: str, pid: int = 0) -> None:
        """Starts one, unless there is one with a `pid`."""
        self.pid = pid or site.container(name, "--network", network)
        found = json.loads(site.daemon.ok("inspect", name))[0]["NetworkSettings"]["Networks"][network]
        self.ip, self.ip6, self.mac = found["IPAddress"], found["GlobalIPv6Address"], found["MacAddress"]
        rows = json.loads(site.daemon.ok("network", "inspect", network))[0]["IPAM"]["Config"]
        self.gateway, self.gateway6 = rows[0]["Gateway"], rows[1]["Gateway"]
        raw = frames.mac(self.mac)
        self.local = f"fe80::{raw[0] ^ 2:02x}{raw[1]:02x}:{raw[2]:02x}ff:fe{raw[3]:02x}:{raw[4]:02x}{raw[5]:02x}"
        self.router = "02:42:" + ":".join(f"{int(part):02x}" for part in self.gateway.split("."))
        if not pid:
            command = ["nsenter", "-t", str(self.pid), "-n", "ping", "-c", "1", "-W", "5", self.gateway]
            subprocess.run(command, capture_output=True)

    def to(self, destination: str, packet: bytes, source: str = "", tags: bytes = b"") -> bytes:
        """A frame of this one's, unless it says to be another's."""
        return ethernet(source or self.mac, destination, protocol_of(packet), packet, tags)


def forged(me: Place, other: Place, to_mac: str, to: str, to6: str) -> list[bytes]:
    """Frames that may not come through, whoever they are for. Each says what is false about it."""
    found: list[bytes] = []

    def add(word: str, source: str, destination: str = "", mac: str = "", tags: str = "", fragment: int = 0) -> None:
        target = to6 if ":" in source else to
        packet = udp(source, target, word, fragment=fragment)
        found.append(me.to(destination or to_mac, packet, mac, bytes.fromhex(tags)))

    for source in (other.ip, me.gateway, HOST, OUTSIDE, "127.0.0.1", "0.0.0.0", "255.255.255.255", "224.0.0.1"):
        add(f"from {source}", source)
    for source in (other.ip6, me.gateway6, other.local, "::1", "::", f"::ffff:{other.ip}", "ff02::1", "fe80::1"):
        add(f"from {source}", source)
    for own in (me.ip, me.ip6):
        for whose, mac in (("neighbour", other.mac), ("gateway", me.router), ("nobody", "02:00:00:00:00:99")):
            add(f"{own} by the mac of {whose}", own, mac=mac)
        for tags in ("81000000", "81000005", "88a80000", "88a8000081000000", "8100000081000000"):
            add(f"{own} tagged {tags}", own, tags=tags)
            add(f"gateway tagged {tags}", me.gateway, tags=tags)
    add("the neighbour, mac and ip", other.ip, mac=other.mac)
    add("first fragment", other.ip, fragment=0x2000)
    add("later fragment", other.ip, fragment=0x0010)
    for group in (BROADCAST, "01:00:5e:00:00:01", "33:33:00:00:00:01"):
        add(f"{group} from another", other.ip, group)
        add(f"{group} from another, v6", other.ip6, group)
    for last in range(16):  # what a bridge keeps to itself, and hands to the port's own IP stack
        add(f"own to group {last}", me.ip, f"01:80:c2:00:00:{last:02x}")
        for source in (other.ip, me.gateway, HOST, other.ip6, me.ip6):
            add(f"{source} to group {last}", source, f"01:80:c2:00:00:{last:02x}")
    for kind in (0x8847, 0x88CC, 0x8863, 0x88E5, 0x8809, 0x22F0, 0x0842, 0x6558, 46):
        found.append(ethernet(me.mac, to_mac, kind, udp(me.ip, to, f"protocol {kind:#x}")))
    inside = udp(me.ip, to, "pppoe")
    found.append(ethernet(me.mac, to_mac, 0x8864, b"\x11\0\0\1\0" + bytes([len(inside) + 2]) + b"\0\x21" + inside))
    return found


def known_neighbours(pid: int) -> dict[str, str]:
    """Who a namespace believes is where."""
    rows = json.loads(Site.ip(pid, "-json neigh show"))
    return {row["dst"]: row["lladdr"] for row in rows if "lladdr" in row}


def speak(pid: int, address: str, word: str) -> None:
    """An ordinary datagram from the network namespace of a process."""
    code = "import socket,sys;s=socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM);s.sendto(sys.argv[2].encode(),(sys.argv[1],4000))"
    subprocess.run(["nsenter", "-t", str(pid), "-n", sys.executable, "-c", code, address, f"<{word}>"], check=True)
