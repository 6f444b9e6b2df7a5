"""sampand's side of the keeper: requests as coroutines, exits as callbacks, and a limit on how long one waits for either."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from sampan.keeper import envelope, protocol, wire
from sampan.keeper.fields import Malformed
from sampan.keeper.protocol import End, Ping
from sampan.runtime.errors import RuntimeFailure

if TYPE_CHECKING:
    from sampan.keeper.fields import Message
    from sampan.keeper.protocol import Request

A = TypeVar("A")
Reply = tuple["Message", list[int]]  # and descriptors

PATIENCE = 15.0  # seconds after which one asks whether the keeper is there at all
PING = 5.0  # seconds that it may take to say so
LONGEST = 170.0  # seconds that a process may take to be set up while the keeper is there: a guest that is emulated


class KeeperGone(Exception):
    """The connection to the keeper broke while a request was under way."""


class KeeperSilent(KeeperGone):
    """The keeper is there, and does not answer."""


class NotDone(KeeperSilent):
    """The keeper is there, and what it has begun does not come to an end."""


class _Answer:
    """What a request waits for: a reply, or why there is none."""

    __slots__ = ("_reply", "_waiter", "error")

    def __init__(self) -> None:
        self.error: KeeperGone | None = None
        self._reply: Reply | None = None
        self._waiter: asyncio.Future[None] | None = None

    def give(self, reply: Reply | None, error: KeeperGone | None = None) -> None:
        """Ends the waiting."""
        self._reply, self.error = reply, error
        self._wake()

    async def within(self, seconds: float) -> Reply | None:
        """The reply, or None if there is none by then. Raises KeeperGone."""
        if self._reply is None and self.error is None:
            loop = asyncio.get_running_loop()
            self._waiter = loop.create_future()
            timer = loop.call_later(seconds, self._wake)
            try:
                await self._waiter
            finally:
                timer.cancel()
        if self.error is not None:
            raise self.error
        return self._reply

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class KeeperClient:
    """One connection to a keeper, of whatever version. `on_exit(end)` and `on_lost()` are called from the event loop."""

    def __init__(self, on_exit: Callable[[End], None], on_lost: Callable[[], None]) -> None:
        self._on_exit = on_exit
        self._on_lost = on_lost
        self._pending: dict[int, _Answer] = {}
        self._unwanted: dict[int, str] = {}  # starts whose callers have been told that they failed
        self._late: dict[str, asyncio.Future[None]] = {}  # by id: until such a one has an end
        self._sequence = 0
        self._version = envelope.OLDEST  # of what it reads
        self._reader = wire.Reader()
        self._sock: socket.socket | None = None
        self._outbox: wire.Outbox | None = None

    def connect(self, path: str) -> None:
        """Connects to a listening keeper. Raises OSError."""
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
            sock.setblocking(False)
            sock.connect(path)
        except BaseException:
            sock.close()
            raise
        self._sock, self._outbox = sock, wire.Outbox(sock)
        asyncio.get_running_loop().add_reader(sock.fileno(), self._readable)

    async def agree(self) -> None:
        """Agrees on a version with the keeper. Raises RuntimeFailure when there is none, KeeperGone."""
        pong = await self.call(Ping())
        try:
            self._version = envelope.agreed(pong.version, pong.oldest)
        except Malformed as error:
            raise RuntimeFailure(str(error)) from None

    async def call(self, request: Request[A], longest: float = LONGEST) -> A:
        """The answer to a request. Raises RuntimeFailure with the keeper's error, KeeperGone, KeeperSilent, wire.TooLong."""
        making = isinstance(request, protocol.Start | protocol.Exec)
        identifier = request.id if isinstance(request, protocol.Start | protocol.Exec) else ""
        late = self._late.get(getattr(request, "id", ""))
        if late is not None:
            await self._wait_for_late(late, getattr(request, "id", ""))
        sequence = self._send(request)
        answer = self._pending[sequence]
        try:
            reply, fds = await self._wait(answer, request.op, longest)
        except BaseException:
            if self._pending.pop(sequence, None) is not None and making and self._sock is not None:
                self._unwant(sequence, identifier)
            raise
        return self._read(request, reply, fds)

    def _read(self, request: Request[A], reply: Message, fds: list[int]) -> A:
        try:
            if "error" in reply:
                raise RuntimeFailure(str(reply["error"]), str(reply.get("failure", "other")))
            return request.answer(reply, envelope.named(reply, fds))
        except BaseException as error:
            for fd in fds:
                os.close(fd)
            if isinstance(error, Malformed):
                raise RuntimeFailure(f"the keeper answers {request.op} with what is no answer: {error}") from None
            raise

    async def _wait_for_late(self, late: asyncio.Future[None], identifier: str) -> None:
        try:
            await asyncio.wait_for(asyncio.shield(late), PATIENCE)
        except TimeoutError:
            raise KeeperSilent(f"the keeper has not answered an earlier request for {identifier[:12]} yet") from None

    def _send(self, request: Request[object]) -> int:
        if self._sock is None or self._outbox is None:
            raise KeeperGone("no keeper")
        message, fds = envelope.to_message(request, self._version)
        self._sequence += 1
        message["seq"] = self._sequence
        try:
            if not self._outbox.put(message, fds):
                asyncio.get_running_loop().add_writer(self._sock.fileno(), self._writable)
        except wire.NotRead:
            raise KeeperSilent("the keeper does not read what it is asked") from None
        except OSError as error:
            raise KeeperGone(str(error)) from error
        self._pending[self._sequence] = _Answer()
        return self._sequence

    async def _wait(self, answer: _Answer, op: str, longest: float) -> Reply:
        """Waits while the keeper works on it, which it does as long as it answers to its name."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (PING if op == Ping.op else longest)
        while True:
            reply = await answer.within(min(PATIENCE, deadline - loop.time()))
            if reply is not None:
                return reply
            if op == Ping.op:
                raise KeeperSilent(f"the keeper has not answered in {PING:g} s")
            await self.call(Ping())
            if loop.time() >= deadline:
                raise NotDone(f"the keeper has not done {op} in {longest:g} s")

    def _unwant(self, sequence: int, identifier: str) -> None:
        """What is being made ends, now or when it is there: whoever wanted it has been told that it failed."""
        self._unwanted[sequence] = identifier
        self._late[identifier] = asyncio.get_running_loop().create_future()
        with contextlib.suppress(KeeperGone):
            self._send(protocol.Abandon(identifier))

    def _settle(self, identifier: str) -> None:
        late = self._late.pop(identifier, None)
        if late is not None and not late.done():
            late.set_result(None)

    def _readable(self) -> None:
        assert self._sock is not None
        messages = self._reader.receive(self._sock)
        if messages is None:
            self._lose()
            return
        try:
            for message, fds in messages:
                self._take(message, fds)
        except Malformed:
            self._lose()

    def _take(self, message: Message, fds: list[int]) -> None:
        if message.get("event") == "exit":
            self._settle(str(message.get("id")))
            self._on_exit(protocol.read_end(message))
            return
        sequence = message.get("seq", 0)
        if (identifier := self._unwanted.pop(sequence, None)) is not None:
            if fds:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(fds[0], signal.SIGKILL)  # its end is the end of the matter
            else:
                self._settle(identifier)
        answer = self._pending.pop(sequence, None)
        if answer is None:
            for fd in fds:
                os.close(fd)
        elif len(fds) < message.get("fds", 0):
            answer.give(None, KeeperGone("there is no room for more descriptors"))
            for fd in fds:
                os.close(fd)
        else:
            answer.give((message, fds))

    def _writable(self) -> None:
        if self._sock is None or self._outbox is None:
            return
        try:
            if self._outbox.flush():
                asyncio.get_running_loop().remove_writer(self._sock.fileno())
        except OSError:
            self._lose()

    def _lose(self) -> None:
        self.close()
        self._on_lost()

    def close(self) -> None:
        """Closes the connection; requests under way fail with KeeperGone."""
        if self._sock is None or self._outbox is None:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._sock.fileno())
        loop.remove_writer(self._sock.fileno())
        self._outbox.close()
        self._sock.close()
        self._sock = self._outbox = None
        self._reader.close()
        for answer in self._pending.values():
            answer.give(None, KeeperGone("the keeper went away"))
        self._pending.clear()
        for identifier in list(self._late):
            self._settle(identifier)
