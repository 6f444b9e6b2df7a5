"""The repository of containers: those that there are by id, their names, their records and their directories."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, ValuesView

from sampan.engine import container_record, names_generator
from sampan.engine.container import Container
from sampan.engine.directories import Directories
from sampan.engine.errors import BadRequest, Conflict, DiskError, NotFound
from sampan.engine.records import Records, Sync
from sampan.engine.tasks import Tasks
from sampan.linux import filetree

_NAME = re.compile(r"/?[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_REMEMBERED = 500  # removals, between two times that they are forgotten
Sees = Callable[[Container], bool]


class Containers(Mapping[str, Container]):
    """Containers and system VMs by id. A change of one is in its record when save() returns, and on disk after the next flush."""

    def __init__(self, data_root: str, store: Records, directories: Directories, tasks: Tasks) -> None:
        self._data_root, self._store, self._directories, self._tasks = data_root, store, directories, tasks
        self._all: dict[str, Container] = {}
        self._claimed: dict[str, str] = {}  # names and ids of containers that are being made
        self._buried = 0

    def __getitem__(self, identifier: str) -> Container:
        return self._all[identifier]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def values(self) -> ValuesView[Container]:
        """All of them; take a list() of it before waiting for anything."""
        return self._all.values()

    def add(self, container: Container) -> None:
        """Makes it known: it can be found from now on."""
        self._all[container.id] = container

    def drop(self, container: Container) -> None:
        """It is found no more."""
        self._all.pop(container.id, None)

    # names

    def find(self, text: str, sees: Sees = lambda container: True) -> Container:
        """A container, or system VM, by id, name or unique id prefix, among those that `sees` lets through.
        For somebody it is found by `finding`. Raises NotFound, BadRequest when ambiguous."""
        found = self._all.get(text)
        if found is not None and sees(found):
            return found
        name = text.removeprefix("/")
        for container in self._all.values():
            if container.name == name and sees(container):
                return container
        matches = [c for c in self._all.values() if text and c.id.startswith(text) and sees(c)]
        if len(matches) > 1:
            raise BadRequest(f"Multiple IDs found with provided prefix: {text}")
        if not matches:
            raise NotFound(f"No such container: {text}")
        return matches[0]

    @contextlib.contextmanager
    def claim_name(self, name: str, identifier: str, sees: Callable[[Container | None], bool]) -> Iterator[str]:
        """A free name, the one asked for or one made up, that nobody else gets while its container is made or renamed.

        `sees`: whether who asks may be told by which container a name is taken; None is one that is being made.
        Raises BadRequest, Conflict.
        """
        name = self._free_name(name, sees)
        self._claimed[name] = identifier
        try:
            yield name
        finally:
            del self._claimed[name]

    def _free_name(self, name: str, sees: Callable[[Container | None], bool]) -> str:
        taken = {container.name: container.id for container in self._all.values()} | self._claimed
        if not name:
            return names_generator.generate(taken)
        if not _NAME.fullmatch(name):
            raise BadRequest(f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
        name = name.removeprefix("/")
        if name in taken:
            # That it is taken can't be kept from anybody; by which container can.
            shown = f' by container "{taken[name]}"' if sees(self._all.get(taken[name])) else ""
            raise Conflict(
                f'Conflict. The container name "/{name}" is already in use{shown}. '
                "You have to remove (or rename) that container to be able to reuse that name."
            )
        return name

    # records

    def save(self, container: Container, text: str = "") -> None:
        """Writes a container's record, which is `text` if it has been made already. Raises DiskError."""
        if not container.removed and not container.broken:  # the row of a broken one stays as it is
            self._store.put("container", container.id, text or container_record.write(container))

    def owe(self, container: Container) -> None:
        """As save, for what has happened whatever the disk says: a record that it refuses is written as soon as it takes it."""
        if not container.removed and not container.broken:
            self._store.owe("container", container.id, container_record.write(container))

    def undo(self, container: Container) -> None:
        """Takes back the record of a container that could not be made."""
        self._store.owe("container", container.id, None)

    def bury(self, container: Container) -> None:
        """Deletes a container's record, for good. Raises DiskError."""
        if container.place and not container.rowid:
            return  # it has none
        self._store.bury("container", container.id, container.rowid)
        self._buried += 1
        if self._buried % _REMEMBERED == 0:
            self._tasks.beside(asyncio.to_thread(self.forget_removed))

    def forget_removed(self) -> None:
        """Forgets recorded removals once no power cut can bring their directories back. Blocks."""
        rows = self._store.buried("container")
        with contextlib.suppress(OSError, DiskError):
            self._directories.sync()
            if not {row.key for row in rows} & set(self._directories.names()):
                self._store.forget(rows)

    def begin_flush(self) -> Sync:
        """Begins to bring what has been saved to the disk; `await ….ended()` waits for that. Raises nothing yet."""
        return self._store.begin_flush()

    # directories

    def directory(self, container: Container) -> str:
        """The container's own directory."""
        return container.place or self._directories.path(container.id)

    def make_directory(self, container: Container) -> str:
        """Makes it, with what all have. Raises OSError."""
        return self._directories.make(container.id)

    async def discard_directory(self, container: Container) -> None:
        """Takes a container's directory out of the way at once and deletes it when there is time; of one that had no record
        that is on disk when this returns. Raises OSError."""
        self._tasks.beside(_empty_trash(container, self.trash(self.directory(container))))
        if container.broken and not container.rowid:  # no record to say that it was removed
            await asyncio.to_thread(self._directories.sync)

    def trash(self, path: str) -> str:
        """Renames what is to be deleted, so that nobody finds it there any more; a full disk may leave it where it is."""
        target = f"{self._data_root}/trash/{os.path.basename(path)}"
        try:
            os.makedirs(os.path.dirname(target), 0o700, exist_ok=True)
            os.rename(path, target)
            return target
        except OSError:
            return path

    def empty_trash(self) -> None:
        """Deletes what was to be deleted when the last engine ended. Blocks."""
        path = f"{self._data_root}/trash"
        with contextlib.suppress(OSError):
            for name in os.listdir(path):
                filetree.remove(f"{path}/{name}", ignore_errors=True)

    # what uses what

    def image_user(self, image_id: str) -> str:
        """Names a container that needs an image; "" when there is none. For threads, too."""
        users = [container for container in list(self._all.values()) if container.image == image_id]
        users.sort(key=lambda container: not container.running)
        return f"{'running ' if users[0].running else ''}container {users[0].id[:12]}" if users else ""


async def _empty_trash(container: Container, path: str) -> None:
    while container.followers:
        await asyncio.sleep(0.05)
    await asyncio.to_thread(filetree.remove, path, True)
