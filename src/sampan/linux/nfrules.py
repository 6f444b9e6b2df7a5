"""The expressions that nftables rules are made of, as nfnetlink attributes: values in, bytes out, never text that is parsed.

Source: uapi/linux/netfilter/nf_tables.h. A rule is a list of these; it goes on to the next as long as they hold.
"""

from __future__ import annotations

import socket
import struct

from sampan.linux.netlink import attribute, attributes, each_attribute

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ipaddress

    IP = ipaddress.IPv4Address | ipaddress.IPv6Address
    Subnet = ipaddress.IPv4Network | ipaddress.IPv6Network

DROP, ACCEPT, JUMP, GOTO, RETURN = 0, 1, -3, -4, -5
ESTABLISHED, RELATED = 2, 4  # states of a connection (NF_CT_STATE_BIT)
_DNATED = 32  # IPS_DST_NAT
_BASES = {"link": 0, "network": 1, "transport": 2}  # where a field is counted from
_IIFNAME, _OIFNAME, _NFPROTO, _L4PROTO, _MARK = 6, 7, 15, 16, 3
_LOCAL = 2  # RTN_LOCAL
_NAME = 16  # IFNAMSIZ
_FIRST, _SECOND = 1, 2  # registers of 16 bytes
_WORDS = 8  # the first of the registers of 4 bytes, in which a key of several fields stands

Expressions = list[bytes]


def be(number: int) -> bytes:
    """A number as nfnetlink has it."""
    return struct.pack("!I", number & 0xFFFFFFFF)


def _native(number: int) -> bytes:
    return struct.pack("=I", number)


def expression(name: str, data: dict[int, bytes | list[bytes]]) -> bytes:
    """One element of a rule's list of expressions."""
    inner = [attribute(kind, value) for kind, value in data.items()]
    return attribute(1, [attribute(1, name), attribute(2, inner)])


def name_key(name: str) -> bytes:
    """An interface's name as the kernel compares it. Raises ValueError for what is none."""
    raw = name.encode()
    if not 0 < len(raw) < _NAME or b"\0" in raw:
        raise ValueError(f"not an interface's name: {name!r}")
    return raw.ljust(_NAME, b"\0")


def mac_key(mac: str) -> bytes:
    """A MAC address, filled up to whole registers."""
    raw = bytes.fromhex(mac.replace(":", ""))
    if len(raw) != 6:
        raise ValueError(f"not a MAC address: {mac!r}")
    return raw + b"\0\0"


# what is loaded


def _compare(register: int, value: bytes, operation: int = 0) -> bytes:
    return expression("cmp", {1: be(register), 2: be(operation), 3: [attribute(1, value)]})


def _meta(key: int, register: int = _FIRST) -> bytes:
    return expression("meta", {1: be(register), 2: be(key)})


def _payload(base: str, offset: int, length: int, register: int = _FIRST) -> bytes:
    return expression("payload", {1: be(register), 2: be(_BASES[base]), 3: be(offset), 4: be(length)})


def field(base: str, offset: int, value: bytes, different: bool = False) -> Expressions:
    """Bytes at an offset of a header ("link", "network", "transport") are, or are not, `value`."""
    return [_payload(base, offset, len(value)), _compare(_FIRST, value, int(different))]


def masked(base: str, offset: int, value: bytes, mask: bytes) -> Expressions:
    """Those bits of a field that are in `mask` are `value`'s."""
    bits: dict[int, bytes | list[bytes]] = {
        1: be(_FIRST),
        2: be(_FIRST),
        3: be(len(mask)),
        4: [attribute(1, mask)],
        5: [attribute(1, bytes(len(mask)))],
    }
    return [_payload(base, offset, len(mask)), expression("bitwise", bits), _compare(_FIRST, value)]


# interfaces


def from_interface(name: str, different: bool = False) -> Expressions:
    """It came in by this interface, or not."""
    return [_meta(_IIFNAME), _compare(_FIRST, name_key(name), int(different))]


def from_prefix(prefix: str) -> Expressions:
    """It came in by an interface whose name begins so."""
    return [_meta(_IIFNAME), _compare(_FIRST, name_key(prefix).rstrip(b"\0"))]


def to_interface(name: str, different: bool = False) -> Expressions:
    """It goes out by this interface, or not."""
    return [_meta(_OIFNAME), _compare(_FIRST, name_key(name), int(different))]


def lookup(name: str, register: int = _FIRST, inverted: bool = False) -> bytes:
    """What has been loaded is in the set, or not."""
    return expression("lookup", {1: name.encode() + b"\0", 2: be(register), 5: be(int(inverted))})


def from_any(name: str, inverted: bool = False) -> Expressions:
    """It came in by an interface of the set, or by none of them."""
    return [_meta(_IIFNAME), lookup(name, inverted=inverted)]


def to_any(name: str) -> Expressions:
    """It goes out by an interface of the set."""
    return [_meta(_OIFNAME), lookup(name)]


def between(name: str) -> Expressions:
    """The pair of interfaces, in and out, is in the set."""
    return [_meta(_IIFNAME, _WORDS), _meta(_OIFNAME, _WORDS + 4), lookup(name, _WORDS)]


# addresses and protocols


def version(number: int) -> Expressions:
    """IPv4 or IPv6, in a table of both."""
    return [_meta(_NFPROTO), _compare(_FIRST, bytes([2 if number == 4 else 10]))]


def protocol(number: int, different: bool = False) -> Expressions:
    """The protocol above IP; extension headers of IPv6 are passed over."""
    return [_meta(_L4PROTO), _compare(_FIRST, bytes([number]), int(different))]


_OFFSETS = {("source", 4): 12, ("destination", 4): 16, ("source", 6): 8, ("destination", 6): 24}


def address(which: str, value: IP, different: bool = False) -> Expressions:
    """The "source" or "destination" is an address, or not; the version is known already."""
    return field("network", _OFFSETS[which, value.version], value.packed, different)


def subnet(which: str, value: Subnet) -> Expressions:
    """The "source" or "destination" is in a subnet; the version is known already."""
    if value.prefixlen == 0:
        return []
    return masked("network", _OFFSETS[which, value.version], value.network_address.packed, value.netmask.packed)


def address_in(which: str, number: int, name: str, inverted: bool = False) -> Expressions:
    """The "source" or "destination" of that IP version is in a set, or not."""
    length = 4 if number == 4 else 16
    return [_payload("network", _OFFSETS[which, number], length), lookup(name, inverted=inverted)]


def interface_and_address(which: str, number: int, name: str, inverted: bool = False) -> Expressions:
    """The interface it came in by with the address is in the set, or not."""
    length = 4 if number == 4 else 16
    return [
        _meta(_IIFNAME, _WORDS),
        _payload("network", _OFFSETS[which, number], length, _WORDS + 4),
        lookup(name, _WORDS, inverted),
    ]


def sender(name: str, mac: tuple[str, int], ip: tuple[str, int, int]) -> Expressions:
    """Interface, MAC and IP address, each a field at (base, offset) and (base, offset, length), are together in a set."""
    return [
        _meta(_IIFNAME, _WORDS),
        _payload(mac[0], mac[1], 6, _WORDS + 4),
        _payload(ip[0], ip[1], ip[2], _WORDS + 6),
        lookup(name, _WORDS),
    ]


def field_in(base: str, offset: int, length: int, name: str, inverted: bool = False) -> Expressions:
    """A field is in a set, or not."""
    return [_payload(base, offset, length), lookup(name, inverted=inverted)]


def port(first: int, last: int = 0) -> Expressions:
    """The destination port, or one of a range."""
    if last <= first:
        return field("transport", 2, struct.pack("!H", first))
    low, high = struct.pack("!H", first), struct.pack("!H", last)
    return [_payload("transport", 2, 2), _compare(_FIRST, low, 5), _compare(_FIRST, high, 3)]


# routing and connections


def for_this_host() -> Expressions:
    """The destination is an address of this host."""
    return [expression("fib", {1: be(_FIRST), 2: be(3), 3: be(2)}), _compare(_FIRST, _native(_LOCAL))]


def not_from_there() -> Expressions:
    """An answer to the source would not leave by the interface that it came in by: it is no source to be there."""
    return [expression("fib", {1: be(_FIRST), 2: be(1), 3: be(1 | 8)}), _compare(_FIRST, _native(0))]


def _connection(key: int, bits: int) -> Expressions:
    mask, nothing = [attribute(1, _native(bits))], [attribute(1, _native(0))]
    return [
        expression("ct", {1: be(_FIRST), 2: be(key)}),
        expression("bitwise", {1: be(_FIRST), 2: be(_FIRST), 3: be(4), 4: mask, 5: nothing}),
        _compare(_FIRST, _native(0), 1),
    ]


def in_state(bits: int) -> Expressions:
    """The connection is in one of the states."""
    return _connection(0, bits)


def redirected() -> Expressions:
    """The connection's destination was changed by a rule of ours."""
    return _connection(2, _DNATED)


def to_transparent_socket() -> Expressions:
    """A socket of this host stands in for the destination (IP_TRANSPARENT)."""
    return [expression("socket", {1: be(0), 2: be(_FIRST)}), _compare(_FIRST, b"\x01")]


# what is done


def verdict(code: int, chain: str = "") -> bytes:
    """The end of a rule: DROP, ACCEPT, RETURN, or JUMP or GOTO to a chain."""
    data = [attribute(1, be(code))] + ([attribute(2, chain)] if chain else [])
    return expression("immediate", {1: be(0), 2: [attribute(2, data)]})


def set_mark(number: int) -> Expressions:
    """Marks the packet."""
    load = expression("immediate", {1: be(_FIRST), 2: [attribute(1, _native(number))]})
    return [load, expression("meta", {2: be(_MARK), 3: be(_FIRST)})]


def masquerade() -> bytes:
    """From now on the source is the address of the interface that it leaves by."""
    return expression("masq", {})


def redirect_to(target: IP, target_port: int = 0) -> Expressions:
    """The destination becomes an address, and a port where one is given."""
    family = socket.AF_INET if target.version == 4 else socket.AF_INET6
    found = [expression("immediate", {1: be(_FIRST), 2: [attribute(1, target.packed)]})]
    nat: dict[int, bytes | list[bytes]] = {1: be(1), 2: be(family), 3: be(_FIRST)}
    if target_port:
        packed = struct.pack("!H", target_port)
        found.append(expression("immediate", {1: be(_SECOND), 2: [attribute(1, packed)]}))
        nat[5] = be(_SECOND)
    return [*found, expression("nat", nat)]


def port_given(rule: bytes) -> int:
    """The port that a rule of redirect_to() gives, from the rule's expressions as the kernel lists them; 0 without one."""
    for _, listed in each_attribute(rule):
        values = attributes(listed)
        data = attributes(values.get(2, b""))
        given = attributes(data.get(2, b"")).get(1, b"")
        if values.get(1) == b"immediate\0" and data.get(1) == be(_SECOND) and len(given) == 2:
            return int.from_bytes(given, "big")
    return 0
