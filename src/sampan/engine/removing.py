"""Removing a container: what runs is ended and what it had is given back, in one hold of its lock."""

from __future__ import annotations

from sampan.engine import broken
from sampan.engine.container import Container
from sampan.engine.containers import Containers
from sampan.engine.errors import Conflict
from sampan.engine.events import Events
from sampan.engine.killing import Killing
from sampan.engine.network.networking import Networking
from sampan.engine.volume_service import VolumeService


class Removing:
    """Removes containers, and their anonymous volumes with them."""

    def __init__(
        self, containers: Containers, events: Events, killing: Killing, networking: Networking, volumes: VolumeService
    ) -> None:
        self._containers, self._events, self._killing = containers, events, killing
        self._networking, self._volumes = networking, volumes

    async def remove(self, container: Container, force: bool = False, volumes: bool = False) -> None:
        """Deletes a container, its writable layer and logs; with `volumes` its anonymous volumes too.

        Raises Conflict when it runs and is not forced. Who comes second waits for the first, and finds it done.
        """
        async with container.lock:
            if container.removed:
                return
            if container.running and not force:
                raise Conflict(
                    f'cannot remove container "/{container.name}": container is running: stop the container before removing or force remove'
                )
            if container.broken and not force:
                container.check_whole()
            container.stopped_by_user = True
            for task in list(container.tasks):
                task.cancel()
            if container.running:
                await self._killing.end(container)
            if container.broken:
                await broken.end(container)
                self._networking.release(container)
            self._containers.bury(container)
            container.removed = True
            self._containers.drop(container)
            await self._containers.discard_directory(container)
            if volumes:
                self._volumes.delete_anonymous(container)
        self._events.announce(container, "destroy")
        container.removals.send(container.state.exit_code)
        container.exits.send(container.state.exit_code)
