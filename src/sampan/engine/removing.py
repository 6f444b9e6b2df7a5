"""Removing a container: what runs is ended and what it had is given back, in one hold of its lock."""

from __future__ import annotations

import contextlib

from sampan.engine import broken, killing, waiting
from sampan.engine.container import Container
from sampan.engine.engine import Engine
from sampan.engine.errors import Conflict
from sampan.engine.policy.operation import Kind
from sampan.volumes.local import VolumeError, VolumeNotFound


async def remove(engine: Engine, container: Container, force: bool = False, volumes: bool = False) -> None:
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
            await killing.end(engine, container)
        if container.broken:
            await broken.end(container)
            engine.networking.release(container)
        engine.containers.bury(container)
        container.removed = True
        engine.containers.drop(container)
        await engine.containers.discard_directory(container)
        if volumes:
            _remove_volumes(engine, container)
    engine.events.announce(container, "destroy")
    waiting.resolve(container.remove_waiters, container.state.exit_code)
    waiting.resolve(container.exit_waiters, container.state.exit_code)


def _remove_volumes(engine: Engine, container: Container) -> None:
    used = {row.name for other in engine.containers.values() for row in other.mounts}
    for row in container.mounts:
        name = row.name
        with contextlib.suppress(VolumeError, VolumeNotFound):  # somebody else was first
            if name and name not in used and not engine.finding.is_wanted(name) and engine.volumes.get(name).anonymous:
                engine.volumes.remove(name)
                engine.finding.owners.forget(Kind.VOLUME, name)
