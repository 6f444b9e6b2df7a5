"""Whose is what: the names of all that an engine makes in a network namespace, which others may share with it.

An interface's name has 15 characters at most (IFNAMSIZ), so the engine is in it by the first eight digits of its id.
A bridge whose name a user has chosen says whose it is in its alias (`ip link` shows it).
"""

from __future__ import annotations

import contextlib
import re
import secrets
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

from sampan.linux.rtnetlink import Link

DEFAULT_BRIDGE = "sampan0"
_VETH, _BRIDGE, _DUMMY = "sv", "br-", "dm-"
_PATIENCE = 5.0


@dataclass(frozen=True, slots=True)
class Owner:
    """An engine as its interfaces and rules name it. `short`: eight hexadecimal digits; `place`: its data root."""

    short: str
    place: str

    @property
    def table(self) -> str:
        """The name of its nftables tables."""
        return f"sampan-{self.short}"

    @property
    def port_prefix(self) -> str:
        """How the names of its endpoints' interfaces begin."""
        return self.veth("")

    @property
    def alias(self) -> str:
        """What is written on its bridges (IFALIASZ: 255 bytes)."""
        return f"sampan {self.short} {self.place}".encode()[:255].decode(errors="ignore")

    @property
    def default_bridge(self) -> str:
        """The name of its default bridge where another engine has taken the usual one."""
        return f"sampan{self.short}"

    def network_id(self) -> str:
        """A new network's id. Its first twelve digits name the bridge, the last eight of those the engine."""
        return f"{secrets.token_hex(2)}{self.short}{secrets.token_hex(26)}"

    def veth(self, endpoint: str) -> str:
        """The host's end of an endpoint's interface."""
        return f"{_VETH}{self.short}{endpoint[:5]}"

    def has_veth(self, name: str) -> bool:
        """Whether this is the host's end of an endpoint of ours."""
        return re.fullmatch(f"{_VETH}{self.short}[0-9a-f]{{5}}", name) is not None

    def has(self, link: Link) -> bool:
        """Whether a bridge, or the dummy of a network without a parent, was made by us."""
        named = re.fullmatch(f"({_BRIDGE}|{_DUMMY})[0-9a-f]{{4}}{self.short}", link.name)
        return link.alias.startswith(f"sampan {self.short} ") or (named is not None and not link.alias)


def bridge_of(network: str) -> str:
    """The bridge of a network by its id."""
    return f"{_BRIDGE}{network[:12]}"


def dummy_of(network: str) -> str:
    """The dummy that a network without a parent hangs on."""
    return f"{_DUMMY}{network[:12]}"


def old_veth(endpoint: str) -> str:
    """How engines named the host's end before they had an id."""
    return f"{_VETH}{endpoint[:12]}"


def is_old_veth(name: str) -> bool:
    """Whether an engine without an id has made it."""
    return re.fullmatch(f"{_VETH}[0-9a-f]{{12}}", name) is not None


@contextlib.contextmanager
def choosing() -> Iterator[None]:
    """While an engine looks for a free subnet and takes it, no other of the same network namespace does. Blocks.

    The lock is a name in that namespace (an abstract socket, unix(7)): whoever shares the interfaces shares it, and it
    goes with its holder. One that is held for too long is somebody's who wants to stop us: passed over.
    """
    lock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    with lock:
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                lock.bind("\0sampan-subnets")
                break
            except OSError:
                if time.monotonic() > deadline:
                    break
                time.sleep(0.01)
        yield
