"""Files of containers whose root is on a disk of a microVM: its guest does the work; all of it is for threads."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import IO

from sampan.engine import guest_answers, guest_archives
from sampan.engine.container import Container
from sampan.engine.errors import Forbidden
from sampan.engine.machines import Machines
from sampan.images.errors import ImageError
from sampan.images.root_fs import Stat
from sampan.vm.requests import Job


class GuestFiles:
    """The files of containers in microVMs; one that does not run gets a machine for that long."""

    def __init__(self, machines: Machines) -> None:
        self._machines = machines

    def stat(self, container: Container, path: str) -> Stat:
        """As RootFiles.stat."""
        found = self._machines.in_thread(self._machines.job(container, Job("stat", {"path": path})))
        return guest_answers.STAT.of(container.name, found)

    def get(self, container: Container, path: str, out: IO[bytes], top: str) -> None:
        """As RootFiles.get."""
        self._from_guest(container, lambda file: guest_archives.retell(file, out, top), Job("get", {"path": path}))

    def put(
        self, container: Container, path: str, stream: IO[bytes], keep_type: bool, user: str, read_only: bool
    ) -> None:
        """As RootFiles.put."""
        self._machines.in_thread(self._machines.job(container, Job("check", {"path": path})))
        if read_only:
            raise Forbidden("container rootfs is marked read-only")
        self._into_guest(container, stream, Job("put", {"path": path, "keep_type": keep_type, "user": user}))

    def export(self, container: Container, out: IO[bytes]) -> None:
        """As RootFiles.export."""
        self._from_guest(container, lambda file: guest_archives.retell(file, out, "."), Job("export", {}))

    def changes(self, container: Container) -> list[tuple[str, int]]:
        """As RootFiles.changes."""
        out = guest_answers.Changes(container.name)
        self._from_guest(container, _copied(out), Job("changes", {}))
        return out.rows()

    def layer(self, container: Container, out: IO[bytes]) -> None:
        """As RootFiles.layer."""
        self._from_guest(container, _copied(out), Job("layer", {}))

    def _from_guest(self, container: Container, take: Callable[[IO[bytes]], None], job: Job) -> None:
        """Has what a job in the container's guest writes taken. Raises as the job does, or as `take`."""
        reader, writer = os.pipe()
        done = self._machines.later(self._machines.job(container, job, writer=writer))
        with os.fdopen(reader, "rb") as file:
            try:
                take(file)
            except ImageError:
                if not file.read(1):
                    done.result()  # it says why it ends there
                raise
        done.result()

    def _into_guest(self, container: Container, stream: IO[bytes], job: Job) -> None:
        """Gives a stream to a job in the container's guest. Raises as the job does."""
        reader, writer = os.pipe()
        done = self._machines.later(self._machines.job(container, job, reader=reader))
        try:
            with os.fdopen(writer, "wb") as file:
                shutil.copyfileobj(stream, file, 1 << 20)
        except BrokenPipeError:
            pass  # it has read enough, or failed
        done.result()


def _copied(out: IO[bytes]) -> Callable[[IO[bytes]], None]:
    return lambda file: shutil.copyfileobj(file, out, 1 << 20)
