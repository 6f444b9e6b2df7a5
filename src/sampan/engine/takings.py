"""What a run takes and gives back, told as events: its places on networks and what it mounts of volumes."""

from __future__ import annotations

from collections.abc import Iterator

from sampan.engine.container import Container
from sampan.engine.events import Events
from sampan.engine.model import Mount, MountType
from sampan.engine.network.networking import Networking
from sampan.engine.policy.caller import Owner
from sampan.network.model import Network


class Takings:
    """Announces them."""

    def __init__(self, events: Events, networking: Networking) -> None:
        self._events, self._networking = events, networking

    def taken(self, container: Container) -> None:
        """A run begins."""
        for network in self._networks(container):
            self._networking.announce(network, container, "connect")
        for row in _volumes(container):
            self._volume(container, row, "mount", {
                "destination": row.destination, "propagation": row.propagation, "read/write": "false" if row.read_only else "true",
            })  # fmt: skip

    def given_back(self, container: Container) -> None:
        """A run has ended."""
        for network in self._networks(container):
            self._networking.announce(network, container, "disconnect")
        for row in _volumes(container):
            self._volume(container, row, "unmount", {})

    def _networks(self, container: Container) -> Iterator[Network]:
        mode = container.host_config.network_mode
        names = [mode] if mode in ("host", "none") else list(container.networks)
        for name in names:
            network = self._networking.networks.named(name)
            if network is not None:
                yield network

    def _volume(self, container: Container, row: Mount, action: str, more: dict[str, str]) -> None:
        attributes = {"container": container.id, "driver": row.driver, **more}
        self._events.publish("volume", action, row.name, attributes, (Owner(container.owner, container.claim),))


def _volumes(container: Container) -> Iterator[Mount]:
    return (row for row in container.mounts if row.kind is MountType.VOLUME)
