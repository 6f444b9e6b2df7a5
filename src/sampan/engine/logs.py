"""The logs of containers, as they are and as they come: read in threads, for `logs` and attach."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from sampan.engine.container import Container
from sampan.engine.containers import Containers
from sampan.engine.errors import NotFound
from sampan.engine.inotify import Watcher
from sampan.engine.model import Status
from sampan.keeper.frames import Frame
from sampan.keeper.reading import Reader

_T = TypeVar("_T")
_POOL = ThreadPoolExecutor(8, "logs")  # its own: who reads logs keeps nobody else waiting


class Log:
    """A container's log, read in threads. Its files stay until this is closed, also when the container is removed."""

    def __init__(self, directory: str, container: Container, follows: bool = False) -> None:
        """Raises FileNotFoundError."""
        self.reader = Reader(directory, follows=follows)
        self._container = container
        self._busy: asyncio.Future[object] | None = None
        container.followers += 1

    async def do(self, work: Callable[[], _T]) -> _T:
        """Does a bounded piece of work with the reader in a thread."""
        future = asyncio.get_running_loop().run_in_executor(_POOL, work)
        self._busy = future  # type: ignore[assignment]
        return await asyncio.shield(future)

    async def read(self) -> list[Frame]:
        """The next frames; none when there is nothing more now."""
        return await self.do(self.reader.read)

    async def all(self, pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
        """What an iterator gives that reads."""
        while (piece := await self.do(lambda: next(pieces, None))) is not None:
            if piece:
                yield piece

    def close(self) -> None:
        """Lets go of the files, when the thread that reads has come back: a number must not become another file's under it."""
        if self._busy is not None and not self._busy.done():
            self._busy.add_done_callback(lambda _: self._close())
        else:
            self._close()

    def _close(self) -> None:
        self.reader.close()
        self._container.followers -= 1


def end_of(container: Container, next_run: bool = False) -> asyncio.Future[int]:
    """Until when to follow: the end of the run that there is, is begun now or, of one that never ran or with `next_run`, is to come.

    To be taken before the client is told that it is followed: it may begin the run then.
    """
    if next_run or container.running or container.starting or container.state.status is Status.CREATED:
        return container.exits.next()
    ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    ended.set_result(0)
    return ended


class Logs:
    """The logs of containers."""

    def __init__(self, containers: Containers, watcher: Watcher) -> None:
        self._containers, self._watcher = containers, watcher

    def close(self) -> None:
        """Ends our part."""
        self._watcher.close()

    def open(self, container: Container, follows: bool = False) -> Log:
        """A container's log from its beginning. Raises NotFound."""
        try:
            return Log(f"{self._containers.directory(container)}/log", container, follows)
        except FileNotFoundError:
            raise NotFound(f"the log of container {container.id} is missing") from None

    async def follow(self, container: Container, log: Log, ended: asyncio.Future[int]) -> AsyncIterator[Frame]:
        """Frames from where `log` is on, as they are written, until the end that end_of() gave."""
        key, changed = self._watcher.watch(log.reader.path)
        try:
            async for frame in _until(log, changed, ended, lambda: container.removed):
                yield frame
        finally:
            self._watcher.unwatch(key, changed)
            ended.cancel()

    async def follow_step(self, log: Log, ended: asyncio.Future[Any]) -> AsyncIterator[Frame]:
        """Frames of a build's step, until it has ended."""
        key, changed = self._watcher.watch(log.reader.path)
        try:
            async for frame in _until(log, changed, ended, lambda: False):
                yield frame
        finally:
            self._watcher.unwatch(key, changed)


async def _until(
    log: Log, changed: asyncio.Event, ended: asyncio.Future[Any], removed: Callable[[], bool]
) -> AsyncIterator[Frame]:
    while True:
        changed.clear()
        finished = ended.done() or removed()
        if found := await log.read():
            for frame in found:
                yield frame
            continue
        if finished:
            return
        more: asyncio.Future[object] = asyncio.ensure_future(changed.wait())
        both: set[asyncio.Future[object]] = {more, ended}
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            more.cancel()
