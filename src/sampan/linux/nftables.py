"""nftables: rulesets as text by libnftables(3), and one small rule by netlink where that library can't go."""

from __future__ import annotations

import ctypes
import functools
import os
import socket
import struct
import threading
from typing import Any

from sampan.linux.netlink import NLM_F_ACK, NLM_F_CREATE, Netlink, attribute

NEWS_GROUP = 7  # NFNLGRP_NFTABLES
_NETFILTER = 12
_SUBSYSTEM = 10
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_NEWTABLE, _DELTABLE, _NEWCHAIN, _NEWRULE = 0, 2, 3, 6
_LOCAL_OUT, _DNAT_PRIORITY = 3, -100


class NftablesError(Exception):
    """libnftables is missing, or the kernel refused the ruleset."""


@functools.cache
def _library() -> Any:
    try:
        library = ctypes.CDLL("libnftables.so.1")
    except OSError as error:
        raise NftablesError("libnftables.so.1 is missing: apt-get install libnftables1") from error
    library.nft_ctx_new.restype = ctypes.c_void_p
    for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        getattr(library, name).restype = ctypes.c_char_p
    return library


class Nftables:
    """libnftables for the network namespace that this process is in.

    The library waits with select(2) and ends the process when its socket's number is 1024 or more, so
    the number is set aside early and the one socket kept.
    """

    def __init__(self) -> None:
        self._placeholder = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        self._context: ctypes.c_void_p | None = None
        self._lock = threading.Lock()

    def run(self, text: str) -> str:
        """Runs nft commands as one transaction; returns what they print.

        Raises NftablesError with libnftables' own words; then nothing has changed.
        """
        library = _library()
        with self._lock:
            if self._context is None:
                os.close(self._placeholder)
                self._context = ctypes.c_void_p(library.nft_ctx_new(ctypes.c_uint32(0)))
                library.nft_ctx_buffer_output(self._context)
                library.nft_ctx_buffer_error(self._context)
            failed = library.nft_run_cmd_from_buffer(self._context, ctypes.c_char_p(text.encode()))
            output = (library.nft_ctx_get_output_buffer(self._context) or b"").decode(errors="replace")
            errors = (library.nft_ctx_get_error_buffer(self._context) or b"").decode(errors="replace")
        if failed:
            raise NftablesError(errors.strip())
        return output


def news() -> Netlink:
    """A socket that becomes readable whenever any ruleset of this network namespace changes."""
    return Netlink(_NETFILTER, 1 << (NEWS_GROUP - 1))


def redirect_output(table: str, address: str, port: int, target_port: int) -> None:
    """In the current thread's network namespace: what its processes send to `address`:`port`, by UDP and
    TCP, goes to `target_port` of the same address. Replaces the table. Raises OSError.

    Source: nf_tables over nfnetlink (uapi/linux/netfilter/nf_tables.h).
    """
    hook = [attribute(1, _be(_LOCAL_OUT)), attribute(2, struct.pack("!i", _DNAT_PRIORITY))]
    chain = attribute(1, table) + attribute(3, "output") + attribute(4, hook) + attribute(7, "nat")
    messages = [
        (_BATCH_BEGIN, 0, struct.pack("!BBH", 0, 0, _SUBSYSTEM)),
        _message(_NEWTABLE, attribute(1, table)),
        _message(_DELTABLE, attribute(1, table)),
        _message(_NEWTABLE, attribute(1, table)),
        _message(_NEWCHAIN, chain),
    ]
    packed = socket.inet_aton(address)
    for protocol in (socket.IPPROTO_UDP, socket.IPPROTO_TCP):
        expressions = [
            _expression("meta", {1: _be(1), 2: _be(16)}),  # l4proto into register 1
            _equals(bytes([protocol])),
            _expression("payload", {1: _be(1), 2: _be(1), 3: _be(16), 4: _be(4)}),  # ip daddr
            _equals(packed),
            _expression("payload", {1: _be(1), 2: _be(2), 3: _be(2), 4: _be(2)}),  # dport
            _equals(struct.pack("!H", port)),
            _expression("immediate", {1: _be(1), 2: [attribute(1, packed)]}),
            _expression("immediate", {1: _be(2), 2: [attribute(1, struct.pack("!H", target_port))]}),
            _expression("nat", {1: _be(1), 2: _be(socket.AF_INET), 3: _be(1), 5: _be(2)}),
        ]
        rule = attribute(1, table) + attribute(2, "output") + attribute(4, expressions)
        messages.append(_message(_NEWRULE, rule))
    kind, flags, payload = messages.pop()
    messages.append((kind, flags | NLM_F_ACK, payload))
    messages.append((_BATCH_END, 0, struct.pack("!BBH", 0, 0, _SUBSYSTEM)))
    with Netlink(_NETFILTER) as netlink:
        netlink.send_batch(messages, f"redirect {address}:{port}")


def _be(number: int) -> bytes:
    return struct.pack("!I", number)


def _message(kind: int, payload: bytes) -> tuple[int, int, bytes]:
    return _SUBSYSTEM << 8 | kind, NLM_F_CREATE, struct.pack("!BBH", socket.AF_INET, 0, 0) + payload


def _expression(name: str, data: dict[int, bytes | list[bytes]]) -> bytes:
    inner = [attribute(kind, value) for kind, value in data.items()]
    return attribute(1, [attribute(1, name), attribute(2, inner)])


def _equals(value: bytes) -> bytes:
    return _expression("cmp", {1: _be(1), 2: _be(0), 3: [attribute(1, value)]})
