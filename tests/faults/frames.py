"""Ethernet frames as somebody with NET_RAW makes them, and who gets what: for the tests of what networks hold."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import struct
import subprocess
import sys
from collections.abc import Iterator

PORT = 4000

# Sends frames by the first interface that is not the loopback.
SEND = """
import json, socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind((sys.argv[1], 0))
for text in json.load(sys.stdin):
    s.send(bytes.fromhex(text))
"""

# Says the payloads of datagrams to our port: what comes to sockets and, with an interface, every frame that comes in by it.
_HEAR = """
import re, selectors, socket, sys
wait = selectors.DefaultSelector()
for family, address in ((socket.AF_INET, '0.0.0.0'), (socket.AF_INET6, '::')):
    s = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    s.bind((address, 4000))
    wait.register(s, selectors.EVENT_READ)
if len(sys.argv) > 1:
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    s.bind((sys.argv[1], 3))
    wait.register(s, selectors.EVENT_READ)
print('ready', flush=True)
while True:
    for key, _ in wait.select():
        data, peer = key.fileobj.recvfrom(2000)
        if len(peer) == 5 and peer[2] == 4: continue  # what we send ourselves
        word = re.search(b'<([ -;=?-~]{2,})>', data)  # other frames have such bytes by chance
        if word: print(word[1].decode(), flush=True)
"""


def mac(text: str) -> bytes:
    """A MAC address's bytes."""
    return bytes.fromhex(text.replace(":", ""))


def _sum(data: bytes) -> int:
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ethernet(source: str, destination: str, protocol: int, payload: bytes, tags: bytes = b"") -> bytes:
    """A frame, with tags (of 4 bytes each) before the protocol."""
    return mac(destination) + mac(source) + tags + struct.pack("!H", protocol) + payload


def ip(
    source: str, destination: str, protocol: int, payload: bytes, fragment: int = 0, extension: bytes = b""
) -> bytes:
    """A packet of either version; `fragment`: IPv4's flags and offset; `extension`: an IPv6 header of 8 bytes before it."""
    a, b = ipaddress.ip_address(source), ipaddress.ip_address(destination)
    if a.version == 6:
        kind = protocol
        if extension:
            payload, kind = bytes([protocol]) + extension[1:] + payload, extension[0]
        return struct.pack("!IHBB", 6 << 28, len(payload), kind, 255) + a.packed + b.packed + payload
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 7, fragment, 64, protocol, 0) + a.packed + b.packed
    return head[:10] + struct.pack("!H", _sum(head)) + head[12:] + payload


def upper(source: str, destination: str, protocol: int, payload: bytes, at: int) -> bytes:
    """The payload with its checksum, over IPv6's pseudo header, at an offset."""
    pseudo = ipaddress.ip_address(source).packed + ipaddress.ip_address(destination).packed
    pseudo += struct.pack("!II", len(payload), protocol)
    return payload[:at] + struct.pack("!H", _sum(pseudo + payload)) + payload[at + 2 :]


def udp(source: str, destination: str, word: str, **options: int) -> bytes:
    """A packet to our port that says a word."""
    text = f"<{word}>".encode()
    datagram = struct.pack("!HHHH", PORT, PORT, 8 + len(text), 0) + text
    if ":" in source:
        datagram = upper(source, destination, 17, datagram, 6)
    return ip(source, destination, 17, datagram, **options)


def protocol_of(packet: bytes) -> int:
    """The Ethernet protocol of an IP packet."""
    return 0x0800 if packet[0] >> 4 == 4 else 0x86DD


def arp(operation: int, sender_mac: str, sender: str, target_mac: str, target: str) -> bytes:
    """What ARP says."""
    a, b = ipaddress.IPv4Address(sender), ipaddress.IPv4Address(target)
    return struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation) + mac(sender_mac) + a.packed + mac(target_mac) + b.packed


def icmp6(source: str, destination: str, kind: int, body: bytes, extension: bytes = b"") -> bytes:
    """An ICMPv6 packet."""
    return ip(source, destination, 58, upper(source, destination, 58, bytes([kind, 0, 0, 0]) + body, 2), 0, extension)


def advertisement(source: str, destination: str, target: str, target_mac: str, extension: bytes = b"") -> bytes:
    """A neighbour advertisement: `target` is at `target_mac`, whatever you have heard."""
    body = bytes([0x60, 0, 0, 0]) + ipaddress.IPv6Address(target).packed + b"\x02\x01" + mac(target_mac)
    return icmp6(source, destination, 136, body, extension)


def send(pid: int, frames: list[bytes], interface: str = "eth0") -> None:
    """Sends frames from the network namespace of a process, in order."""
    command = ["nsenter", "-t", str(pid), "-n", sys.executable, "-c", SEND, interface]
    subprocess.run(command, input=json.dumps([frame.hex() for frame in frames]), text=True, check=True, timeout=60)


class Ear:
    """What has been heard in a network namespace."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def until(self, word: str) -> list[str]:
        """All that has come before a word that must come."""
        heard: list[str] = []
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.strip() == word:
                return heard
            heard.append(line.strip())
        raise AssertionError(f"{word} did not come, but {heard}")


@contextlib.contextmanager
def ear(pid: int, interface: str = "") -> Iterator[Ear]:
    """Listens in the network namespace of a process; with an interface to all of its frames."""
    command = ["nsenter", "-t", str(pid), "-n", sys.executable, "-c", _HEAR]
    process = subprocess.Popen([*command, *([interface] if interface else [])], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    try:
        yield Ear(process)
    finally:
        process.kill()
        process.wait()
