"""netlink(7): messages, attributes and one request at a time, with the kernel's own words for an error."""

from __future__ import annotations

import os
import socket
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND = 0x100, 0x200, 0x400, 0x800
_ERROR, _DONE = 2, 3
_HEADER = struct.Struct("=IHHII")
_SOL_NETLINK, _EXT_ACK, _CAP_ACK = 270, 11, 10
_NLM_F_CAPPED, _NLM_F_ACK_TLVS = 0x100, 0x200
_NESTED = 0x8000
_SO_SNDBUFFORCE = 32


def attribute(kind: int, value: Any) -> bytes:
    """One attribute: an int as u32, text zero-terminated, bytes as they are, a list of attributes nested."""
    if isinstance(value, list):
        kind |= _NESTED
        value = b"".join(value)
    elif isinstance(value, str):
        value = value.encode() + b"\0"
    elif isinstance(value, int):
        value = struct.pack("=I", value)
    length = len(value) + 4
    return struct.pack("=HH", length, kind) + bytes(value) + bytes(-length % 4)


def attributes(data: bytes) -> dict[int, bytes]:
    """The attributes in a payload by kind; of equal ones the last."""
    return dict(each_attribute(data))


def each_attribute(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(kind, value) of each attribute in order."""
    position = 0
    while position + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, position)
        if length < 4:
            return
        yield kind & 0x3FFF, data[position + 4 : position + length]
        position += length + -length % 4


class Netlink:
    """A socket of one netlink family, in the network namespace of the thread that makes it."""

    def __init__(self, family: int = 0, groups: int = 0) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
        self._socket.bind((0, groups))
        for option in (_EXT_ACK, _CAP_ACK):
            try:
                self._socket.setsockopt(_SOL_NETLINK, option, 1)
            except OSError:
                pass
        self._sequence = 0

    def fileno(self) -> int:
        """The descriptor, to wait for."""
        return self._socket.fileno()

    def close(self) -> None:
        """Closes the socket."""
        self._socket.close()

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def drain(self) -> list[tuple[int, bytes]]:
        """The messages that have come without being asked for (to a member of a group); does not block."""
        found: list[tuple[int, bytes]] = []
        while True:
            try:
                data = self._socket.recv(1 << 17, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return found
            except OSError:  # ENOBUFS: some were lost, which is news too
                found.append((0, b""))
                continue
            found += [(kind, payload) for kind, _, _, payload in _messages(data)]

    def request(self, kind: int, flags: int, payload: bytes, what: str = "") -> list[tuple[int, bytes]]:
        """Sends a message and returns the answers as (type, payload). Raises OSError saying `what` failed."""
        self._sequence += 1
        header = _HEADER.pack(_HEADER.size + len(payload), kind, flags | NLM_F_REQUEST | NLM_F_ACK, self._sequence, 0)
        self._socket.send(header + payload)
        return self._answers(bool(flags & NLM_F_DUMP == NLM_F_DUMP), what, self._sequence)

    def send_batch(self, messages: list[tuple[int, int, bytes]], what: str) -> None:
        """Sends (type, flags, payload) messages as one; exactly one of them must ask for the answer."""
        data, asking = b"", 0
        for kind, flags, payload in messages:
            self._sequence += 1
            asking = self._sequence if flags & NLM_F_ACK else asking
            data += _HEADER.pack(_HEADER.size + len(payload), kind, flags | NLM_F_REQUEST, self._sequence, 0)
            data += payload + bytes(-len(payload) % 4)
        self._make_room(len(data))
        self._socket.send(data)
        self._answers(False, what, asking)

    def _make_room(self, size: int) -> None:
        """A message must fit into the send buffer (netlink_sendmsg in net/netlink/af_netlink.c)."""
        if size > 64 << 10:
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, size + 4096)
            except OSError:  # without the right to it as much as there may be
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size + 4096)

    def _answers(self, dump: bool, what: str, awaited: int) -> list[tuple[int, bytes]]:
        found: list[tuple[int, bytes]] = []
        while True:
            for kind, flags, sequence, payload in _messages(self._socket.recv(1 << 17)):
                if sequence > self._sequence:
                    continue
                if kind == _DONE:
                    return found
                if kind == _ERROR:
                    (code,) = struct.unpack_from("=i", payload)
                    if code:
                        raise OSError(-code, f"{what}: {_explanation(flags, payload) or os.strerror(-code)}")
                    if not dump and sequence == awaited:
                        return found
                else:
                    found.append((kind, payload))


def _messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    position = 0
    while position + _HEADER.size <= len(data):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, position)
        yield kind, flags, sequence, data[position + _HEADER.size : position + length]
        position += length + -length % 4


def _explanation(flags: int, payload: bytes) -> str:
    """The text of an extended acknowledgement (NLMSGERR_ATTR_MSG, uapi/linux/netlink.h)."""
    if not flags & _NLM_F_ACK_TLVS:
        return ""
    offset = 4 + _HEADER.size
    if not flags & _NLM_F_CAPPED:
        (length,) = struct.unpack_from("=I", payload, 4)
        offset = 4 + length + -length % 4
    return attributes(payload[offset:]).get(1, b"").rstrip(b"\0").decode(errors="replace")
