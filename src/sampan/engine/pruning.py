"""Prune: what nobody uses is deleted, of what somebody may delete. What is broken goes when a person says so, by name."""

from __future__ import annotations

from dataclasses import dataclass, field

from sampan.engine import pools
from sampan.engine.container import Container
from sampan.engine.containers import Containers
from sampan.engine.errors import Conflict, Forbidden, NotModified
from sampan.engine.events import Events
from sampan.engine.filters.containers import is_container
from sampan.engine.filters.rules import Test
from sampan.engine.finding import Finding
from sampan.engine.image_service import ImageService
from sampan.engine.network.networking import Networking
from sampan.engine.owners import Owners
from sampan.engine.policy.caller import Caller
from sampan.engine.policy.gate import Gate
from sampan.engine.policy.operation import Kind, Verb
from sampan.engine.removing import Removing
from sampan.engine.volume_service import VolumeService
from sampan.images.errors import ImageError
from sampan.images.image import Image
from sampan.linux import filetree
from sampan.network.model import Network
from sampan.volumes.local import Volume


@dataclass(slots=True)
class Pruned:
    """The names or ids of what was deleted, and the bytes that it had on disk."""

    names: list[str] = field(default_factory=list)
    freed: int = 0


class Pruning:
    """The prunes of an engine: each deletes what passes a test."""

    def __init__(
        self,
        containers: Containers,
        finding: Finding,
        owners: Owners,
        gate: Gate,
        images: ImageService,
        volumes: VolumeService,
        networking: Networking,
        removing: Removing,
        events: Events,
    ) -> None:
        self._containers, self._finding, self._owners, self._gate = containers, finding, owners, gate
        self._images, self._volumes, self._networking, self._removing = images, volumes, networking, removing
        self._events = events

    def _tell(self, who: Caller, kind: str, freed: int) -> None:
        self._events.publish(kind, "prune", "", {"reclaimed": str(freed)}, (who.owner,))

    async def containers(self, who: Caller, passes: Test[Container]) -> Pruned:
        """Containers that do not run and are not about to. Raises Forbidden."""
        pruned = Pruned()
        for container in self._finding.containers(who):
            waits = container.running or container.state.restarting
            if waits or container.broken or not is_container(container) or not passes(container):
                continue
            pruned.freed += await pools.run("look", size, f"{self._containers.directory(container)}/upper")
            try:
                await self._removing.remove(container)
            except NotModified:
                continue
            pruned.names.append(container.id)
        self._tell(who, "container", pruned.freed)
        return pruned

    async def images(self, who: Caller, passes: Test[Image]) -> tuple[list[dict[str, str]], int]:
        """Images of no container: the API's rows of all names and layers that are gone, and their bytes. Raises Conflict."""
        self._refuse("image", "images")
        used = {container.image for container in self._containers.values()}
        deleted: list[dict[str, str]] = []
        freed = 0
        for image in self._finding.images(who):
            if image.id in used or image.broken or not passes(image) or not self._may(who, Kind.IMAGE, image.id):
                continue
            try:
                deleted += await self._images.remove(who, image.id, True)
            except (ImageError, Forbidden):
                continue  # used, or removed by somebody else, since it was listed
            freed += image.size
        self._tell(who, "image", freed)
        return deleted, freed

    async def volumes(self, who: Caller, passes: Test[Volume]) -> Pruned:
        """Volumes that no container has. Raises Conflict."""
        self._refuse("mounts", "volumes")
        pruned = Pruned()
        for volume in self._finding.volumes(who):
            if volume.broken or not passes(volume) or not self._may(who, Kind.VOLUME, volume.name):
                continue
            if self._volumes.users(volume.name):
                continue
            pruned.freed += await pools.run("look", size, volume.path)
            if self._volumes.users(volume.name):
                continue  # since then
            await self._volumes.delete(volume.name)
            pruned.names.append(volume.name)
        self._tell(who, "volume", pruned.freed)
        return pruned

    async def networks(self, who: Caller, passes: Test[Network]) -> Pruned:
        """Networks that no container is on or will be on when it starts."""
        pruned = Pruned()
        for network in self._finding.networks(who):
            if network.predefined or network.endpoints or self._networking.used(network):
                continue
            if passes(network) and self._may(who, Kind.NETWORK, network.id):
                await self._networking.remove(network)
                pruned.names.append(network.name)
        self._tell(who, "network", pruned.freed)
        return pruned

    def _may(self, who: Caller, kind: Kind, name: str) -> bool:
        return self._gate.may(who, Verb.REMOVE, self._owners.subject(kind, name))

    def _refuse(self, field: str, what: str) -> None:
        """Raises Conflict when there is a broken container of which nobody knows what it uses: that is not deleted on doubt."""
        for container in self._containers.values():
            if container.broken and not getattr(container, field):
                raise Conflict(
                    f"no {what} are pruned: container {container.name} is broken and may use any of them; remove it first "
                    f"(sampan rm -f {container.id[:12]}), or remove single {what} by name"
                )


def size(path: str) -> int:
    """Bytes on disk below a directory. Blocks."""
    return filetree.measure(path)[0]
