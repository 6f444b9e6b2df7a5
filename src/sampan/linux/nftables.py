"""nftables over nfnetlink: tables, chains, sets and rules as typed values, in transactions. No library, and nothing is parsed.

Source: uapi/linux/netfilter/nf_tables.h, net/netfilter/nf_tables_api.c.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
import struct

from sampan.linux import nfrules
from sampan.linux.netlink import (
    NLM_F_ACK,
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_DUMP,
    Netlink,
    attribute,
    attributes,
    each_attribute,
)
from sampan.linux.nfrules import be

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

INET, BRIDGE, _IPV4_FAMILY = 1, 7, 2  # families of tables
PREROUTING, LOCAL_IN, FORWARD, LOCAL_OUT, POSTROUTING = range(5)
RAW, MANGLE, DSTNAT, FILTER, SRCNAT = -300, -150, -100, 0, 100
NAME, MAC, IPV4, IPV6 = 41, 9, 7, 8  # what the fields of a set's key are, for those who list it
OWNED, PERSISTENT = 2, 4
NEWS_GROUP = 7  # NFNLGRP_NFTABLES

_NETFILTER = 12
_SUBSYSTEM = 10
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_NEWTABLE, _DELTABLE, _NEWCHAIN, _GETCHAIN, _NEWRULE, _GETRULE = 0, 2, 3, 4, 6, 7
_NEWSET, _GETSET, _NEWELEMENTS, _GETELEMENTS, _DELELEMENTS = 9, 10, 12, 13, 14
_CONCATENATED = 0x80
_LENGTHS = {NAME: 16, MAC: 8, IPV4: 4, IPV6: 16}
_HOST_ORDER = struct.pack("=BBI", 0, 4, 1)  # NFTNL_UDATA_SET_KEYBYTEORDER
_ELEMENTS_AT_ONCE = 400  # an attribute's length is 16 bits


class NftablesError(Exception):
    """The kernel refused a transaction."""


class Batch:
    """What is to be done in one transaction, in order."""

    def __init__(self) -> None:
        self.messages: list[tuple[int, int, bytes]] = []
        self.sets = 0

    def add(self, family: int, kind: int, payload: bytes, flags: int = NLM_F_CREATE) -> None:
        """A message of the subsystem's."""
        self.messages.append((_SUBSYSTEM << 8 | kind, flags, struct.pack("!BBH", family, 0, 0) + payload))

    def replace_table(self, family: int, name: str, flags: int = 0) -> Table:
        """An empty table, whether there was one of that name or not."""
        self.delete_table(family, name)
        self.add(family, _NEWTABLE, attribute(1, name) + (attribute(2, be(flags)) if flags else b""))
        return Table(self, family, name)

    def delete_table(self, family: int, name: str) -> None:
        """No table of that name; there may be none."""
        self.add(family, _NEWTABLE, attribute(1, name))
        self.add(family, _DELTABLE, attribute(1, name), 0)


class Table:
    """A table that a transaction fills or changes."""

    def __init__(self, batch: Batch, family: int, name: str) -> None:
        self._batch, self._family, self._name = batch, family, attribute(1, name)

    def add_chain(self, name: str) -> None:
        """A chain that rules jump to."""
        self._batch.add(self._family, _NEWCHAIN, self._name + attribute(3, name))

    def add_base_chain(self, name: str, hook: int, priority: int, kind: str = "filter") -> None:
        """A chain that packets come to; those that no rule takes go on."""
        where = attribute(4, [attribute(1, be(hook)), attribute(2, be(priority))])
        payload = self._name + attribute(3, name) + where + attribute(5, be(1)) + attribute(7, kind)
        self._batch.add(self._family, _NEWCHAIN, payload)

    def add_rule(self, chain: str, *parts: list[bytes] | bytes) -> None:
        """A rule at the end of a chain, of expressions in order."""
        flat = [one for part in parts for one in ([part] if isinstance(part, bytes) else part)]
        payload = self._name + attribute(2, chain) + attribute(4, flat)
        self._batch.add(self._family, _NEWRULE, payload, NLM_F_CREATE | NLM_F_APPEND)

    def add_set(self, name: str, fields: tuple[int, ...], keys: Iterable[bytes] = ()) -> None:
        """A set with keys of these fields, and its first elements."""
        self._batch.sets += 1
        kind = 0
        for one in fields:
            kind = kind << 6 | one
        several = len(fields) > 1
        # In a key of several each begins a register of its own.
        length = sum(_LENGTHS[one] for one in fields) if several or fields[0] != MAC else 6
        payload = self._name + attribute(2, name) + attribute(3, be(_CONCATENATED if several else 0))
        payload += attribute(4, be(kind)) + attribute(5, be(length))
        if several:
            parts = [attribute(1, [attribute(1, be(_LENGTHS[one]))]) for one in fields]
            payload += attribute(9, [attribute(2, parts)])
        payload += attribute(10, be(self._batch.sets))
        payload += attribute(13, _HOST_ORDER) if fields == (NAME,) else b""  # so that nft(8) can show it
        self._batch.add(self._family, _NEWSET, payload)
        self.add_elements(name, keys)

    def add_elements(self, name: str, keys: Iterable[bytes]) -> None:
        """Puts keys into a set; those that are in it are fine."""
        self._elements(name, keys, _NEWELEMENTS, NLM_F_CREATE)

    def delete_elements(self, name: str, keys: Iterable[bytes]) -> None:
        """Takes keys out of a set; one that is not in it makes the transaction fail."""
        self._elements(name, keys, _DELELEMENTS, 0)

    def _elements(self, name: str, keys: Iterable[bytes], kind: int, flags: int) -> None:
        rows = [attribute(1, [attribute(1, [attribute(1, key)])]) for key in dict.fromkeys(keys)]
        for start in range(0, len(rows), _ELEMENTS_AT_ONCE):
            some = attribute(3, rows[start : start + _ELEMENTS_AT_ONCE])
            self._batch.add(self._family, kind, self._name + attribute(2, name) + some, flags)


class Nftables:
    """The rulesets of the network namespace that the calling thread is in when the first transaction is made.

    Tables that are made with OWNED are this object's, by its socket: nobody else, root included, can change or flush
    them until it is closed or the process ends; with PERSISTENT they then stay (Linux 6.9).
    """

    def __init__(self) -> None:
        self._netlink: Netlink | None = None

    def commit(self, batch: Batch, what: str) -> None:
        """All of it or, with NftablesError, nothing."""
        if not batch.messages:
            return
        try:
            if self._netlink is None:
                self._netlink = Netlink(_NETFILTER)
            send(self._netlink, batch, what)
        except OSError as error:
            raise NftablesError(error.strerror) from error

    def close(self) -> None:
        """Gives up what is owned."""
        if self._netlink is not None:
            self._netlink.close()
            self._netlink = None


def send(netlink: Netlink, batch: Batch, what: str) -> None:
    """Carries a transaction out over a socket. Raises OSError."""
    netlink.drain()
    messages = list(batch.messages)
    kind, flags, payload = messages[-1]
    messages[-1] = (kind, flags | NLM_F_ACK, payload)
    frame = struct.pack("!BBH", 0, 0, _SUBSYSTEM)
    netlink.send_batch([(_BATCH_BEGIN, 0, frame), *messages, (_BATCH_END, 0, frame)], what)


def supports(flags: int, table: str) -> bool:
    """Whether the kernel has tables with these flags: asked with one that is gone when this returns."""
    batch = Batch()
    batch.replace_table(INET, table, flags)
    batch.add(INET, _DELTABLE, attribute(1, table), 0)
    with Netlink(_NETFILTER) as netlink:
        try:
            send(netlink, batch, "table flags")
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.EINVAL):
                return False
            raise
    return True


def listing(family: int, table: str) -> list[bytes]:
    """What a table consists of, but for the elements of its sets, to compare with what it was; nothing without it."""
    header = struct.pack("!BBH", family, 0, 0)
    found: list[bytes] = []
    with Netlink(_NETFILTER) as netlink, contextlib.suppress(FileNotFoundError):
        # What counts users and elements is left out: they come and go.
        for kind, described in ((_GETCHAIN, (2, 3, 4, 5, 7)), (_GETRULE, (1, 2, 3, 4)), (_GETSET, (2, 3, 16))):
            for _, payload in netlink.request(_SUBSYSTEM << 8 | kind, NLM_F_DUMP, header + attribute(1, table), table):
                values = attributes(payload[4:])
                if payload[0] == family and values.get(1, b"").rstrip(b"\0") == table.encode():
                    found.append(b"".join(values.get(key, b"") for key in described))
    return found


def elements(family: int, table: str, name: str) -> set[bytes]:
    """The keys in a set; none without the set."""
    header = struct.pack("!BBH", family, 0, 0)
    found: set[bytes] = set()
    with Netlink(_NETFILTER) as netlink:
        try:
            query = header + attribute(1, table) + attribute(2, name)
            answers = netlink.request(_SUBSYSTEM << 8 | _GETELEMENTS, NLM_F_DUMP, query)
        except OSError:
            return found
    for _, payload in answers:
        for _, row in each_attribute(attributes(payload[4:]).get(3, b"")):
            found.add(attributes(attributes(row).get(1, b"")).get(1, b""))
    return found


def news() -> Netlink:
    """A socket that becomes readable whenever any ruleset of this network namespace changes."""
    return Netlink(_NETFILTER, 1 << (NEWS_GROUP - 1))


def redirect_output(table: str, address: str, port: int, target_port: int) -> None:
    """In the current thread's network namespace: what its processes send to `address`:`port`, by UDP and
    TCP, goes to `target_port` of the same address. Replaces the table. Raises OSError.
    """
    batch, target = Batch(), ipaddress.IPv4Address(address)
    rules = batch.replace_table(_IPV4_FAMILY, table)
    rules.add_base_chain("output", LOCAL_OUT, DSTNAT, "nat")
    for protocol in (socket.IPPROTO_UDP, socket.IPPROTO_TCP):
        there = nfrules.protocol(protocol) + nfrules.address("destination", target) + nfrules.port(port)
        rules.add_rule("output", there, nfrules.redirect_to(target, target_port))
    with Netlink(_NETFILTER) as netlink:
        send(netlink, batch, f"redirect {target}:{port}")


def output_redirection(table: str) -> int:
    """The target port of a table that redirect_output() made in the current thread's network namespace; 0 without one,
    or when its rules are others. Unlike a transaction a look does not wait for the kernel (RCU). Raises OSError.
    """
    header = struct.pack("!BBH", _IPV4_FAMILY, 0, 0)
    targets: list[int] = []
    with Netlink(_NETFILTER) as netlink:
        try:
            rules = netlink.request(_SUBSYSTEM << 8 | _GETRULE, NLM_F_DUMP, header + attribute(1, table), table)
        except FileNotFoundError:
            return 0
    for _, payload in rules:
        values = attributes(payload[4:])
        if payload[0] == _IPV4_FAMILY and values.get(1) == table.encode() + b"\0":
            targets.append(nfrules.port_given(values.get(4, b"")))
    return targets[0] if len(targets) == 2 and targets[0] == targets[1] else 0
