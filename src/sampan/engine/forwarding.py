"""Lines of containers on their way to the journal or to syslog: from the log as it is kept here, which `logs` reads as ever.

What a server does not take is tried again until it does, or the log has been rotated away; how far it is, is kept beside the log, so
that another daemon goes on there.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os

from sampan.engine import log_sinks
from sampan.engine.container import Container
from sampan.engine.containers import Containers
from sampan.engine.errors import NotFound
from sampan.engine.lines import Lines
from sampan.engine.logs import Log, Logs, end_of
from sampan.engine.tasks import Tasks
from sampan.keeper.frames import Frame
from sampan.keeper.reading import Position
from sampan.linux import durable

_log = logging.getLogger(__name__)
_FIRST, _LONGEST = 0.2, 30.0  # seconds until a server that is gone is tried again


class Forwarding:
    """Sends what containers write, for those whose log driver says so."""

    def __init__(self, containers: Containers, logs: Logs, tasks: Tasks) -> None:
        self._containers, self._logs, self._tasks = containers, logs, tasks
        self._running: dict[str, asyncio.Task[None]] = {}

    def begin(self, container: Container) -> None:
        """For a run that begins, or goes on under another daemon; also for one that has ended, whose last lines may be missing."""
        sink = log_sinks.of(container)
        if sink is None:
            return
        before = self._running.get(container.id)
        task = self._tasks.beside(self._forward(container, sink, before, end_of(container)))
        self._running[container.id] = task
        task.add_done_callback(lambda _: self._forget(container.id, task))

    def _forget(self, identifier: str, task: asyncio.Task[None]) -> None:
        if self._running.get(identifier) is task:
            del self._running[identifier]

    async def _forward(
        self,
        container: Container,
        sink: log_sinks.Sink,
        before: asyncio.Task[None] | None,
        ended: asyncio.Future[int],
    ) -> None:
        if before is not None:
            await asyncio.gather(before, return_exceptions=True)
        path = f"{self._containers.directory(container)}/forwarded"
        try:
            log = self._logs.open(container, follows=True)
        except NotFound:
            ended.cancel()
            return
        try:
            log.reader.seek(_read(path))
            await self._lines(container, log, path, sink, ended)
        finally:
            log.close()
            sink.close()

    async def _lines(
        self,
        container: Container,
        log: Log,
        path: str,
        sink: log_sinks.Sink,
        ended: asyncio.Future[int],
    ) -> None:
        joined, at, opened = Lines(), log.reader.position, False
        async for frame in self._logs.follow(container, log, ended):
            if log.reader.position != at:  # what was read before is sent
                _write(path, at)
                at = log.reader.position
            for line in joined.add(frame):
                opened = await self._send(container, sink, line, opened)
        for line in joined.rest():
            opened = await self._send(container, sink, line, opened)
        _write(path, log.reader.position)

    async def _send(self, container: Container, sink: log_sinks.Sink, line: Frame, opened: bool) -> bool:
        """Sends a line, as often as it takes. Whether there is a connection."""
        pause = _FIRST
        while not container.removed or pause == _FIRST:
            try:
                if not opened:
                    await sink.open()
                await sink.send(line)
                return True
            except (OSError, TimeoutError) as error:
                if pause == _FIRST:
                    _log.warning(
                        f"container {container.id[:12]}: its lines wait for {container.host_config.log_config.driver}: {error}"
                    )
                sink.close()
                opened = False
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST)
        return False


def _read(path: str) -> Position:
    try:
        with open(path, encoding="ascii") as file:
            number, offset = json.load(file)
        return Position(int(number), int(offset))
    except (OSError, ValueError, TypeError):
        return Position()


def _write(path: str, position: Position) -> None:
    with contextlib.suppress(OSError):  # it is removed, or the disk is full: lines may come twice then
        if os.path.isdir(os.path.dirname(path)):
            durable.replace(path, json.dumps([position.number, position.offset]))
