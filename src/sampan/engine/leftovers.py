"""What an engine finds when it starts: records and directories of containers, in line with each other or not.

Nothing is deleted but what a recorded removal has left, and directories in which nothing is.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from typing import TYPE_CHECKING

from sampan.engine import broken, container_record
from sampan.engine.container import Container
from sampan.engine.database import damaged_files
from sampan.linux import filetree

if TYPE_CHECKING:
    from sampan.engine.engine import Engine


def load(engine: Engine) -> None:
    """Fills `engine.containers`, broken ones included."""
    whole: list[Container] = []
    doubtful: list[Container] = []
    for row in engine.store.rows("container"):
        try:
            whole.append(container_record.read(row.key, row.body))
        except container_record.Unreadable as error:
            doubtful.append(broken.of_row(row, f"its record can't be read: {error}", engine.identity.group))
    known = {container.id for container in (*whole, *doubtful)}
    doubtful += _without_record(engine, known)
    names = set()
    for container in (*whole, *doubtful):
        if container.name in names and container.broken:
            container.name = f"broken-{container.id[:12]}"
        names.add(container.name)
        engine.containers.add(container)
    for container in whole:
        if engine.identity.copied:
            container.group = engine.identity.group  # the recorded one is the original's, and not to be cleared
        _restore(engine, container)
    for container in doubtful:
        engine.events.publish("container", "broken", container.id, {"name": container.name, "error": container.broken})
    engine.background(asyncio.to_thread(_clear, engine))


def _without_record(engine: Engine, known: set[str]) -> list[Container]:
    found = []
    removed = {row.key for row in engine.store.buried("container")}
    # A database that was damaged may have had a record of what seems to have none.
    doubt = engine.store.notes or damaged_files(f"{engine.data_root}/sampan.db")
    for name in sorted(set(engine.directories.names()) - known):
        path = engine.directories.path(name)
        container = None if name in removed else broken.of_directory(path, engine.identity.group)
        if container is not None:
            found.append(container)
        elif not engine.store.read_only and (name in removed or not doubt):
            engine.containers.trash(path)
    if removed and not engine.store.read_only:
        engine.containers.forget_removed()
    return found


def _restore(engine: Engine, container: Container) -> None:
    """A record is on disk before its directory is: makes again what a power cut has taken."""
    path = engine.containers.directory(container)
    try:
        if container.running or (os.path.isdir(f"{path}/log") and os.stat(f"{path}/hostname").st_size):
            return
    except FileNotFoundError:
        pass
    except OSError as error:
        print(f"sampand: container {container.name}: {error}", file=sys.stderr)
        return
    try:
        if not os.path.isdir(path) and container.state.started_at:
            print(
                f"sampand: the files of container {container.name} are gone: it begins with those of its image",
                file=sys.stderr,
            )
        engine.directories.restore(container.id)
        engine.networking.names.write_all_files(container)
    except OSError as error:
        print(f"sampand: container {container.name}: its files can't be made again: {error}", file=sys.stderr)


def _clear(engine: Engine) -> None:
    """Deletes what was to be deleted when the last engine ended. Blocks."""
    path = f"{engine.data_root}/trash"
    with contextlib.suppress(OSError):
        for name in os.listdir(path):
            filetree.remove(f"{path}/{name}", ignore_errors=True)
    engine.volumes.clear()
