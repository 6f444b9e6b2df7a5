"""sampand's side of the keeper: requests as coroutines, exits as callbacks, and a limit on how long one waits for either."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable
from typing import Any

from sampan.keeper import wire
from sampan.runtime.errors import RuntimeFailure

Reply = tuple[dict[str, Any], list[int]]

PATIENCE = 15.0  # seconds after which one asks whether the keeper is there at all
PING = 5.0  # seconds that it may take to say so
LONGEST = 170.0  # seconds that a process may take to be set up while the keeper is there: a guest that is emulated
_MAKING = ("start", "exec")


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
    """One connection to a keeper. `on_exit(record)` and `on_lost()` are called from the event loop."""

    def __init__(self, on_exit: Callable[[dict[str, Any]], None], on_lost: Callable[[], None]) -> None:
        self._on_exit = on_exit
        self._on_lost = on_lost
        self._pending: dict[int, _Answer] = {}
        self._unwanted: dict[int, str] = {}  # starts whose callers have been told that they failed
        self._late: dict[str, asyncio.Future[None]] = {}  # by id: until such a one has an end
        self._sequence = 0
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

    async def call(self, op: str, fds: list[int] | None = None, longest: float = LONGEST, **arguments: Any) -> Reply:
        """Makes a request. Raises RuntimeFailure with the keeper's error, KeeperGone, KeeperSilent, wire.TooLong."""
        identifier = str(arguments.get("id") or "")
        if (late := self._late.get(identifier)) is not None:
            try:
                await asyncio.wait_for(asyncio.shield(late), PATIENCE)
            except TimeoutError:
                raise KeeperSilent(
                    f"the keeper has not answered an earlier request for {identifier[:12]} yet"
                ) from None
        sequence = self._send(op, fds, arguments)
        answer = self._pending[sequence]
        try:
            reply, received = await self._wait(answer, op, longest)
        except BaseException:
            if self._pending.pop(sequence, None) is not None and op in _MAKING and self._sock is not None:
                self._unwant(sequence, identifier)
            raise
        if "error" in reply:
            raise RuntimeFailure(reply["error"], reply.get("failure", "other"))
        return reply, received

    def _send(self, op: str, fds: list[int] | None, arguments: dict[str, Any]) -> int:
        if self._sock is None or self._outbox is None:
            raise KeeperGone("no keeper")
        self._sequence += 1
        message = {"op": op, "seq": self._sequence, "fds": len(fds or []), **arguments}
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
        deadline = loop.time() + (PING if op == "ping" else longest)
        while True:
            reply = await answer.within(min(PATIENCE, deadline - loop.time()))
            if reply is not None:
                return reply
            if op == "ping":
                raise KeeperSilent(f"the keeper has not answered in {PING:g} s")
            await self.call("ping")
            if loop.time() >= deadline:
                raise NotDone(f"the keeper has not done {op} in {longest:g} s")

    def _unwant(self, sequence: int, identifier: str) -> None:
        """What is being made ends, now or when it is there: whoever wanted it has been told that it failed."""
        self._unwanted[sequence] = identifier
        self._late[identifier] = asyncio.get_running_loop().create_future()
        with contextlib.suppress(KeeperGone):
            self._send("abandon", None, {"id": identifier})

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
        for message, fds in messages:
            self._take(message, fds)

    def _take(self, message: dict[str, Any], fds: list[int]) -> None:
        if message.get("event") == "exit":
            self._settle(str(message.get("id")))
            self._on_exit(message)
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
