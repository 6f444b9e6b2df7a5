"""A client of DHCP (RFC 2131) for a guest that has nobody else to configure it: an address, a way out, name servers."""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
import time

from sampan import logline
from sampan.linux import openat2
from sampan.linux import rtnetlink as rt
from sampan.linux.netlink import Netlink

_MAGIC = b"\x63\x82\x53\x63"
_DISCOVER, _OFFER, _REQUEST, _ACK = 1, 2, 3, 5
_SUBNET, _ROUTER, _DNS, _REQUESTED, _TYPE, _SERVER, _WANTED = 1, 3, 6, 50, 53, 54, 55


def packet(kind: int, number: int, mac: bytes, options: dict[int, bytes] | None = None) -> bytes:
    """A message of a client that has no address yet."""
    head = struct.pack("!BBBBIHH", 1, 1, 6, 0, number, 0, 0x8000) + bytes(16) + mac.ljust(16, b"\0") + bytes(192)
    fields = {_TYPE: bytes([kind]), **(options or {}), _WANTED: bytes([_SUBNET, _ROUTER, _DNS])}
    return head + _MAGIC + b"".join(bytes([key, len(value)]) + value for key, value in fields.items()) + b"\xff"


def parse(data: bytes, number: int) -> tuple[str, dict[int, bytes]] | None:
    """(the offered address, options) of a server's answer to `number`, or None for anything else."""
    if len(data) < 240 or data[0] != 2 or data[4:8] != struct.pack("!I", number) or data[236:240] != _MAGIC:
        return None
    options: dict[int, bytes] = {}
    at = 240
    while at < len(data) and data[at] != 255:
        if data[at] == 0:
            at += 1
            continue
        if at + 1 >= len(data):
            return None
        length = data[at + 1]
        options[data[at]] = data[at + 2 : at + 2 + length]
        at += 2 + length
    return socket.inet_ntoa(data[16:20]), options


def configure_all(root: str, patience: float = 3.0) -> None:
    """Asks on every interface, and takes the first answer of each; none is fine. Writes `root`/etc/resolv.conf."""
    with Netlink() as netlink:
        links = [link for link in rt.links(netlink) if link.name != "lo" and link.address]
        for link in links:
            rt.set_link(netlink, link.index, up=True)
        servers: list[str] = []
        for link in links:
            try:
                servers += _configure(netlink, link, patience)
            except OSError as error:
                logline.write("sampan", "warn", f"{link.name}: {error}")
    if servers:
        write_servers(root, servers)


def write_servers(root: str, servers: list[str]) -> None:
    """Names them in the resolv.conf of a root, if that can be written."""
    top = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = openat2.openat2(
            top, "etc/resolv.conf", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644, openat2.RESOLVE_IN_ROOT
        )
        os.write(fd, "".join(f"nameserver {server}\n" for server in servers).encode())
        os.close(fd)
    except OSError:
        pass  # the image has its own way to names
    finally:
        os.close(top)


def _configure(netlink: Netlink, link: rt.Link, patience: float) -> list[str]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, link.name.encode() + b"\0")
        sock.bind(("0.0.0.0", 68))
        mac, number = bytes.fromhex(link.address.replace(":", "")), int.from_bytes(os.urandom(4), "big")
        offer = _ask(sock, packet(_DISCOVER, number, mac), number, _OFFER, patience)
        if offer is None:
            return []
        address, options = offer
        wanted = {_REQUESTED: socket.inet_aton(address), _SERVER: options.get(_SERVER, b"")}
        ack = _ask(sock, packet(_REQUEST, number, mac, wanted), number, _ACK, patience)
    if ack is None:
        return []
    address, options = ack
    mask = socket.inet_ntoa(options.get(_SUBNET, b"\xff\xff\xff\x00")[:4])
    rt.add_address(netlink, link.index, ipaddress.ip_interface(f"{address}/{mask}"))
    if options.get(_ROUTER):
        rt.add_route(netlink, link.index, ipaddress.ip_address(options[_ROUTER][:4]))
    found = options.get(_DNS, b"")
    return [socket.inet_ntoa(found[at : at + 4]) for at in range(0, len(found) - 3, 4)]


def _ask(
    sock: socket.socket, message: bytes, number: int, kind: int, patience: float
) -> tuple[str, dict[int, bytes]] | None:
    deadline = time.monotonic() + patience
    while (left := deadline - time.monotonic()) > 0:
        sock.sendto(message, ("255.255.255.255", 67))
        sock.settimeout(min(left, 1.0))
        try:
            found = parse(sock.recv(2048), number)
        except TimeoutError:
            continue
        if found is not None and found[1].get(_TYPE) == bytes([kind]):
            return found
    return None
