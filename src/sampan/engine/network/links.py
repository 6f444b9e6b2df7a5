"""What networking asks of a container's backend: interfaces for one that runs."""

from __future__ import annotations

from typing import Protocol

from sampan.engine.container import Container
from sampan.network.model import Endpoint, Network


class Links(Protocol):
    """How a running container gets an interface and loses it: a part of its backend. `namespace` is the one that the host has of
    it. Each raises NetworkError, EngineError, OSError."""

    can_replug: bool  # whether an interface that is gone from the host can be made again

    async def plug(self, container: Container, network: Network, endpoint: Endpoint, namespace: int) -> None:
        """Gives it an interface."""

    async def plugged(
        self, container: Container, network: Network, endpoint: Endpoint, default: bool, names: bool
    ) -> None:
        """The last step: its ports are published, and with `names` its name server serves it there. With `default` the interface is
        its way out from now on, and no other is."""

    async def unplug(
        self, container: Container, endpoint: Endpoint, namespace: int, left: tuple[Network, Endpoint] | None
    ) -> None:
        """Takes an interface away; the default route is that of `left` from now on."""

    async def undo_plug(self, container: Container, endpoint: Endpoint) -> None:
        """Takes back what plug() did, or did half."""

    def hosts_changed(self, container: Container) -> None:
        """Its /etc/hosts or /etc/resolv.conf have new contents."""
