"""The engine's hold on the keeper: found or started, lost and replaced, containers handed over."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Protocol, TypeVar

from sampan.engine import ends, spec
from sampan.engine.errors import BadRequest, EngineError
from sampan.engine.process import Exit, Process
from sampan.keeper import main as keeper_main
from sampan.keeper import protocol, wire
from sampan.keeper.client import LONGEST, PATIENCE, KeeperClient, KeeperGone, KeeperSilent
from sampan.keeper.protocol import End, Started
from sampan.runtime.errors import RuntimeFailure

_log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from sampan.keeper.protocol import Request

A = TypeVar("A")
_TOGETHER = 0.2  # seconds in which ends are acknowledged together


class Call(Protocol):
    """A request to the keeper: its answer. Raises RuntimeFailure, KeeperGone."""

    async def __call__(self, request: Request[A], longest: float = LONGEST) -> A: ...


class KeeperLink:
    """Keeps a connection to a live keeper and makes a new one when it dies. `agree` brings each in line with the records."""

    def __init__(
        self,
        socket_path: str,
        agree: Callable[[Call], Awaitable[None]],
        recorded: Callable[[], Awaitable[None]],
        group: str,
    ) -> None:
        self._path = socket_path
        self._processes: dict[str, Process] = {}  # that have not ended, by key
        self._making: set[str] = set()  # ids of those that are being made
        self._claiming = 0  # how many may want one of
        self._unclaimed: dict[str, End] = {}  # ends that were told and are of no process known here
        self._recorded = recorded
        self._unacknowledged: list[str] = []
        self._acknowledging: asyncio.Task[None] | None = None
        self._agree = agree
        self._group = group
        self._client: KeeperClient | None = None
        self._ready = asyncio.Lock()
        self._closing = False
        self._revival: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """open() for a daemon that starts: one whose keeper does not answer serves what it can until that does."""
        try:
            await self.open()
        except KeeperSilent as error:
            _log.error(str(error))
            self._lost()

    async def open(self) -> None:
        """Connects, starting a keeper when none listens, and hands over what an old one left. Raises KeeperGone."""
        async with self._ready:
            if self._client is not None or self._closing:
                return
            client = KeeperClient(self._told, self._lost)
            try:
                client.connect(self._path)
            except BlockingIOError:
                raise KeeperSilent("the keeper takes no connections") from None
            except OSError:
                await asyncio.to_thread(keeper_main.launch, self._path)
                client.connect(self._path)
            try:
                await client.agree()
            except (KeeperGone, RuntimeFailure):
                client.close()
                raise
            self._client = client
        await client.call(protocol.Prepare("", spec.ordinary(self._group)))
        with self._claims():
            for end in (await client.call(protocol.List())).ended:
                self._told(end)
            await self._agree(client.call)

    # processes

    async def make(
        self, request: protocol.Start | protocol.Exec, longest: float = LONGEST, lone: bool = False
    ) -> Process:
        """Starts a process. A `lone` one is taken up by no keeper's successor (an exec, a build step): when its keeper dies its
        end is seen here. Raises RuntimeFailure, KeeperGone, BadRequest."""
        with self._claims():
            self._making.add(request.id)
            try:
                process = self.process(await self.call(request, longest))
            finally:
                self._making.discard(request.id)
        if lone and process.exit is None:
            ends.watch(process.descriptors["process"], lambda status: self.conclude(process, Exit(status, 0)))
        return process

    def process(self, started: Started) -> Process:
        """A process that the keeper has, or is about to be given; its end may have been told already."""
        process = Process(self, started.task, started.descriptors, started.warnings)
        end = self._unclaimed.pop(process.key, None)
        if end is not None:
            process.end(Exit(end.status, end.time))
        else:
            self._processes[process.key] = process
        return process

    def conclude(self, process: Process, exit: Exit) -> None:
        """A process has ended, as somebody else than the keeper says."""
        self._processes.pop(process.key, None)
        process.end(exit)

    def has(self, identifier: str) -> bool:
        """Whether a process of that id is known here, or is being made."""
        return identifier in self._making or any(each.id == identifier for each in self._processes.values())

    def unclaimed(self, identifier: str, start_time: int | None = None) -> Exit | None:
        """The last end of an id, or that of a start time, which was told and is of no process known here; while a keeper is
        agreed with."""
        found = [
            end for end in self._unclaimed.values() if end.id == identifier and start_time in (None, end.start_time)
        ]
        last = max(found, key=lambda end: end.time, default=None)
        return None if last is None else Exit(last.status, last.time)

    @contextlib.contextmanager
    def _claims(self) -> Iterator[None]:
        """While processes may become known whose end was told before: what nobody has claimed then is nobody's."""
        self._claiming += 1
        try:
            yield
        finally:
            self._claiming -= 1
            if not self._claiming:
                for key in self._unclaimed:
                    self._acknowledge_later(key)
                self._unclaimed.clear()

    def _told(self, end: End) -> None:
        """The keeper says that a process has ended, which it does until somebody has acknowledged it."""
        process = self._processes.pop(end.key, None)
        if process is not None:
            process.end(Exit(end.status, end.time))
        elif self._claiming:
            self._unclaimed[end.key] = end
        else:
            self._acknowledge_later(end.key)

    # ends that are recorded

    def acknowledge(self, process: Process) -> None:
        """A process's end is recorded; when that is on disk, the keeper may forget it."""
        self._acknowledge_later(process.key)

    def _acknowledge_later(self, key: str) -> None:
        self._unacknowledged.append(key)
        if self._acknowledging is None or self._acknowledging.done():
            self._acknowledging = asyncio.get_running_loop().create_task(self._acknowledge())

    async def _acknowledge(self) -> None:
        while self._unacknowledged and self._client is not None:
            await asyncio.sleep(_TOGETHER)
            try:
                await self._acknowledge_now(self._client)
            except EngineError:  # a disk that is full: it keeps them for us
                await asyncio.sleep(1)
            except (KeeperGone, RuntimeFailure):
                return  # the next one says it again

    async def _acknowledge_now(self, client: KeeperClient | None) -> None:
        """Raises EngineError when they are not on disk, KeeperGone, RuntimeFailure."""
        keys = list(self._unacknowledged)
        if keys and client is not None:
            await self._recorded()
            await client.call(protocol.Acknowledge(keys))
            del self._unacknowledged[: len(keys)]

    async def call(self, request: Request[A], longest: float = LONGEST) -> A:
        """A request to the keeper; one that breaks because the keeper died is not repeated."""
        if self._client is None:
            try:
                async with asyncio.timeout(PATIENCE):
                    await self.open()
            except TimeoutError:
                raise KeeperSilent(f"the keeper has not answered in {PATIENCE:g} s") from None
        if self._client is None:
            raise KeeperGone("the engine is shutting down")
        try:
            return await self._client.call(request, longest)
        except wire.TooLong as error:
            raise BadRequest(f"what was asked is more than the keeper takes in one request: {error}") from None

    async def pid(self) -> int:
        """The keeper's process."""
        return (await self.call(protocol.Ping())).pid

    def _lost(self) -> None:
        self._client = None
        if not self._closing and (self._revival is None or self._revival.done()):
            self._revival = asyncio.get_running_loop().create_task(self._revive())

    async def _revive(self) -> None:
        """Tries until a keeper is there and has everything; it may die again at any point of that."""
        delay = 0.0
        while self._client is None and not self._closing:
            await asyncio.sleep(delay)
            delay = min(delay * 2 + 0.02, 1.0)
            try:
                await self.open()
            except (OSError, KeeperGone) as error:
                _log.warning(f"can't restart the keeper yet: {error}")

    async def close(self) -> None:
        """Lets go of the keeper; one that has nothing to keep ends too."""
        self._closing = True
        if self._acknowledging is not None:
            self._acknowledging.cancel()
        client, self._client = self._client, None
        if client is not None:
            try:
                async with asyncio.timeout(2):
                    with contextlib.suppress(EngineError, RuntimeFailure):  # then it stays for them
                        await self._acknowledge_now(client)
                    await client.call(protocol.Stop())
            except (KeeperGone, TimeoutError):
                pass
            client.close()
