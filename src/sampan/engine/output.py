"""A container's output as it was and as it comes: for logs and attach."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator

from sampan.engine.container import Container
from sampan.engine.engine import Engine
from sampan.keeper import logs


def log_directory(engine: Engine, container: Container) -> str:
    """Where the keeper writes a container's frames."""
    return f"{engine.directory(container)}/log"


async def follow(
    engine: Engine, container: Container, position: logs.Position, until_exit: bool = True
) -> AsyncIterator[logs.Frame]:
    """Frames from `position` on, as they are written, until the container has ended."""
    # By descriptor: removing the container renames its directory away while we may still be reading.
    fd = os.open(log_directory(engine, container), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    directory = f"/proc/self/fd/{fd}"
    container.followers += 1
    key, changed = engine.watcher.watch(directory)
    ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    if container.running or until_exit is False or container.state["Status"] == "created":
        container.exit_waiters.append(ended)
    else:
        ended.set_result(0)
    try:
        while True:
            changed.clear()
            finished = ended.done() or container.removed
            some = False
            for frame in logs.read(directory, position):
                some = True
                yield frame
            if some:
                continue
            if finished:
                return
            waiting: asyncio.Future[object] = asyncio.ensure_future(changed.wait())
            both: set[asyncio.Future[object]] = {waiting, ended}  # type: ignore[arg-type]
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
    finally:
        engine.watcher.unwatch(key, changed)
        container.followers -= 1
        os.close(fd)
        if ended in container.exit_waiters:
            container.exit_waiters.remove(ended)


class Lines:
    """Turns frames into whole lines: a line keeps the time of its first byte."""

    def __init__(self) -> None:
        self._partial: dict[int, tuple[int, bytes]] = {}

    def add(self, frame: logs.Frame) -> Iterator[logs.Frame]:
        """The lines that this frame completes."""
        began, rest = self._partial.pop(frame.stream, (frame.time, b""))
        parts = (rest + frame.data).split(b"\n")
        for part in parts[:-1]:
            yield logs.Frame(began, frame.stream, part + b"\n")
            began = frame.time
        if parts[-1]:
            self._partial[frame.stream] = (began, parts[-1])

    def rest(self) -> Iterator[logs.Frame]:
        """What is left without a newline at the end."""
        for stream, (began, data) in self._partial.items():
            yield logs.Frame(began, stream, data)
        self._partial.clear()


def past_lines(engine: Engine, container: Container, position: logs.Position) -> Iterator[logs.Frame]:
    """All lines written so far; `position` ends where following has to go on."""
    lines = Lines()
    directory = log_directory(engine, container)
    while True:
        some = False
        for frame in logs.read(directory, position):
            some = True
            yield from lines.add(frame)
        if not some:
            break
    yield from lines.rest()
