"""Published ports: what `-p` asked for, a port of the host for each, and its reservation."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Callable
from collections.abc import Mapping as ReadOnly
from dataclasses import dataclass

from sampan.network.attachment import PortBinding, Protocol, PublishedPort
from sampan.network.errors import NetworkConflict, NetworkError

_KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM, "sctp": socket.SOCK_STREAM}
_SCTP = 132
_PROTOCOLS: dict[str, Protocol] = {"tcp": "tcp", "udp": "udp", "sctp": "sctp"}

Bind = Callable[[str, str, int], socket.socket]
Bindings = ReadOnly[str, tuple[PortBinding, ...]]


@dataclass(slots=True)
class Mapping:
    """One container port on one host address; `reservation` keeps the port ours."""

    protocol: Protocol
    container_port: int
    host_ip: str
    host_port: int
    reservation: socket.socket | None = None

    def release(self) -> None:
        """Gives the port back."""
        if self.reservation is not None:
            self.reservation.close()
            self.reservation = None


def parse_port(text: str) -> tuple[int, Protocol]:
    """(80, "tcp") of "80" or "80/tcp". Raises NetworkError."""
    number, _, word = text.partition("/")
    protocol = _PROTOCOLS.get(word or "tcp")
    if protocol is None:
        raise NetworkError(f"invalid proto: {word}")
    if not (number.isascii() and number.isdecimal()) or not 0 < int(number) < 65536:
        raise NetworkError(f"invalid port: {text}")
    return int(number), protocol


def host_range(text: str) -> tuple[int, int]:
    """(first, last) of "8080", "8000-8010"; (0, 0) of "". Raises NetworkError."""
    if not text:
        return 0, 0
    first, dash, last = text.partition("-")
    if not (text.isascii() and first.isdecimal()) or (dash and not last.isdecimal()):
        raise NetworkError(f"invalid hostPort: {text}")
    low, high = int(first), int(last or first)
    if not 0 <= low <= high < 65536:
        raise NetworkError(f"invalid hostPort: {text}")
    return low, high


def reserve_all(bindings: Bindings, ipv6: bool, binder: Bind | None = None) -> list[Mapping]:
    """A mapping for each binding: all of them or, with an error, none.

    A binding without an address stands for both IP versions with the same port, if there is IPv6.
    `binder` is bind() where the host's addresses are: in another network namespace, when given.
    Raises NetworkConflict naming the port that is taken.
    """
    made: list[Mapping] = []
    try:
        for key, rows in bindings.items():
            container_port, protocol = parse_port(key)
            for row in rows:
                made += _reserve_row(protocol, container_port, row.host_ip, row.host_port, ipv6, binder or bind)
    except BaseException:
        for mapping in made:
            mapping.release()
        raise
    return made


def again(port: PublishedPort, binder: Bind | None = None) -> Mapping:
    """A mapping that a daemon before us made; where its port can't be reserved it still stands."""
    try:
        reservation = (binder or bind)(port.protocol, port.host_ip, port.host_port)
    except OSError:
        reservation = None
    return Mapping(port.protocol, port.container_port, port.host_ip, port.host_port, reservation)


def _reserve_row(
    protocol: Protocol, container_port: int, host_ip: str, port_text: str, ipv6: bool, binder: Bind
) -> list[Mapping]:
    if host_ip:
        try:
            addresses = [str(ipaddress.ip_address(host_ip))]
        except ValueError:
            raise NetworkError(f"invalid IP address: {host_ip}") from None
        if "%" in host_ip:
            raise NetworkError(f"invalid IP address: {host_ip!r} has a zone")
    else:
        addresses = ["0.0.0.0", "::"] if ipv6 else ["0.0.0.0"]
    first, last = host_range(port_text)
    candidates = range(first, last + 1) if first else [0]
    failure: OSError | None = None
    for candidate in candidates:
        for _ in range(1 if candidate else 20):
            try:
                return _reserve_port(protocol, container_port, addresses, candidate, binder)
            except OSError as error:
                failure = error
    assert failure is not None
    where = f"{addresses[0]}:{port_text or 'any port'}"
    if failure.errno == errno.EADDRINUSE:
        raise NetworkConflict(
            f"failed to bind host port for {where}/{protocol}: address already in use: port is already allocated"
        )
    hint = (
        " (ports below sysctl net.ipv4.ip_unprivileged_port_start need root)" if failure.errno == errno.EACCES else ""
    )
    raise NetworkError(f"failed to bind host port for {where}/{protocol}: {failure.strerror}{hint}")


def _reserve_port(
    protocol: Protocol, container_port: int, addresses: list[str], port: int, binder: Bind
) -> list[Mapping]:
    """One port on all the addresses; 0 is any that is free on the first. Raises OSError, and reserves nothing then."""
    made: list[Mapping] = []
    try:
        for address in addresses:
            reservation = binder(protocol, address, port)
            port = reservation.getsockname()[1] if protocol != "sctp" else port
            made.append(Mapping(protocol, container_port, address, port, reservation))
    except OSError:
        for mapping in made:
            mapping.release()
        raise
    return made


def bind(protocol: str, address: str, port: int) -> socket.socket:
    """A bound socket that keeps others from the port, and that a proxy may serve.

    For TCP it listens at once: so it may reuse a port with connections still in TIME_WAIT, and yet
    conflicts with any other that listens there (socket(7), SO_REUSEADDR).
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    number = _SCTP if protocol == "sctp" else 0
    try:
        sock = socket.socket(family, _KINDS[protocol] | socket.SOCK_CLOEXEC, number)
    except OSError:
        if protocol != "sctp":
            raise
        # Without the sctp module on the host there is nobody to conflict with.
        return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if protocol == "tcp":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, port))
        if protocol == "tcp":
            sock.listen(128)
    except BaseException:
        sock.close()
        raise
    return sock
