"""A virtual machine's network: the namespace that its QEMU is in, its taps, and what its guest is told."""

from __future__ import annotations

import os

from sampan.engine.errors import BadRequest
from sampan.network.model import Endpoint, Network
from sampan.vm.machine_types import Interface

UNBOUNDED = 1 << 16  # slots


class Wiring:
    """A machine's network: the namespace its QEMU is in, its taps by slot, and (network, endpoint, whether it is
    the way out) of each."""

    def __init__(
        self, namespace: int, taps: list[tuple[int, int]], endpoints: list[tuple[Network, Endpoint, bool]]
    ) -> None:
        self.namespace, self.taps, self.endpoints = namespace, taps, endpoints

    def close(self) -> None:
        """Closes our copies of its descriptors."""
        for fd in (self.namespace, *(fd for _, fd in self.taps)):
            os.close(fd)


def slot_of(name: str, slots: int = UNBOUNDED) -> int:
    """The slot of an interface: eth0 is in the first. Raises BadRequest when there are not so many."""
    number = int(name.removeprefix("eth"))
    if number >= slots:
        raise BadRequest(f"a virtual machine can be on {slots} networks at most")
    return number


def interface(network: Network, endpoint: Endpoint, default: bool) -> Interface:
    """An endpoint as the guest is told of it."""
    gateways = [pool.gateway for pool in network.ipam] if default and not network.internal else []
    return {"slot": slot_of(endpoint.interface), "name": endpoint.interface, "mac": endpoint.mac, "mtu": network.mtu or 0,
            "addresses": [text for text in (endpoint.ipv4, endpoint.ipv6) if text], "gateways": gateways,
            "ipv6": network.pool(6) is not None}  # fmt: skip
