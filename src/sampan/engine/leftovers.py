"""What an engine finds when it starts: records and directories of containers, in line with each other or not.

Nothing is deleted but what a recorded removal has left, and directories in which nothing is.
"""

from __future__ import annotations

import logging
import os

from sampan.engine import broken, container_record
from sampan.engine.container import Container
from sampan.engine.containers import Containers
from sampan.engine.directories import Directories
from sampan.engine.events import Events
from sampan.engine.identity import Identity
from sampan.engine.network.resolver import Resolver
from sampan.engine.records import Records

_log = logging.getLogger(__name__)


class Leftovers:
    """Loads what an earlier engine has left."""

    def __init__(
        self, containers: Containers, store: Records, directories: Directories, identity: Identity, events: Events, resolver: Resolver
    ) -> None:  # fmt: skip
        self._containers, self._store, self._directories = containers, store, directories
        self._identity, self._events, self._resolver = identity, events, resolver

    def load(self) -> None:
        """Fills the repository, broken ones included."""
        whole: list[Container] = []
        doubtful: list[Container] = []
        for row in self._store.rows("container"):
            try:
                whole.append(container_record.read(row.key, row.body))
            except container_record.Unreadable as error:
                doubtful.append(broken.of_row(row, f"its record can't be read: {error}", self._identity.group))
        known = {container.id for container in (*whole, *doubtful)}
        doubtful += self._without_record(known)
        names = set()
        for container in (*whole, *doubtful):
            if container.name in names and container.broken:
                container.name = f"broken-{container.id[:12]}"
            names.add(container.name)
            self._containers.add(container)
        for container in whole:
            if self._identity.copied:
                container.group = self._identity.group  # the recorded one is the original's, and not to be cleared
            self._restore(container)
        for container in doubtful:
            self._events.publish(
                "container", "broken", container.id, {"name": container.name, "error": container.broken}
            )

    def _without_record(self, known: set[str]) -> list[Container]:
        found = []
        removed = {row.key for row in self._store.buried("container")}
        # A database that was damaged may have had a record of what seems to have none.
        doubt = self._store.notes or self._store.damaged_files()
        for name in sorted(set(self._directories.names()) - known):
            path = self._directories.path(name)
            container = None if name in removed else broken.of_directory(path, self._identity.group)
            if container is not None:
                found.append(container)
            elif not self._store.read_only and (name in removed or not doubt):
                self._containers.trash(path)
        if removed and not self._store.read_only:
            self._containers.forget_removed()
        return found

    def _restore(self, container: Container) -> None:
        """A record is on disk before its directory is: makes again what a power cut has taken."""
        path = self._containers.directory(container)
        try:
            if container.running or (os.path.isdir(f"{path}/log") and os.stat(f"{path}/hostname").st_size):
                return
        except FileNotFoundError:
            pass
        except OSError as error:
            _log.warning(f"container {container.name}: {error}")
            return
        try:
            if not os.path.isdir(path) and container.state.started_at:
                _log.warning(f"the files of container {container.name} are gone: it begins with those of its image")
            self._directories.restore(container.id)
            self._resolver.write_all_files(container)
        except OSError as error:
            _log.error(f"container {container.name}: its files can't be made again: {error}")
