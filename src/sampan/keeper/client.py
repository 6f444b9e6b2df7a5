"""sampand's side of the keeper: requests as coroutines, exits as callbacks."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any

from sampan.keeper import wire
from sampan.runtime.errors import RuntimeFailure

Reply = tuple[dict[str, Any], list[int]]


class KeeperGone(Exception):
    """The connection to the keeper broke while a request was under way."""


class KeeperClient:
    """One connection to a keeper. `on_exit(record)` and `on_lost()` are called from the event loop."""

    def __init__(self, on_exit: Callable[[dict[str, Any]], None], on_lost: Callable[[], None]) -> None:
        self._on_exit = on_exit
        self._on_lost = on_lost
        self._pending: dict[int, asyncio.Future[Reply]] = {}
        self._sequence = 0
        self._reader = wire.Reader()
        self._sock: socket.socket | None = None

    def connect(self, path: str) -> None:
        """Connects to a listening keeper. Raises OSError."""
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
            sock.connect(path)
        except BaseException:
            sock.close()
            raise
        self._sock = sock
        asyncio.get_running_loop().add_reader(sock.fileno(), self._readable)

    async def call(self, op: str, fds: list[int] | None = None, **arguments: Any) -> Reply:
        """Makes a request. Raises RuntimeFailure with the keeper's error, or KeeperGone."""
        if self._sock is None:
            raise KeeperGone("no keeper")
        self._sequence += 1
        message = {"op": op, "seq": self._sequence, "fds": len(fds or []), **arguments}
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._pending[self._sequence] = future
        try:
            wire.send(self._sock, message, fds)
        except OSError as error:
            self._pending.pop(message["seq"], None)
            raise KeeperGone(str(error)) from error
        reply, received = await future
        if "error" in reply:
            raise RuntimeFailure(reply["error"], reply.get("failure", "other"))
        return reply, received

    def _readable(self) -> None:
        assert self._sock is not None
        messages = self._reader.receive(self._sock)
        if messages is None:
            self.close()
            self._on_lost()
            return
        for message, fds in messages:
            if message.get("event") == "exit":
                self._on_exit(message)
                continue
            future = self._pending.pop(message["seq"], None)
            if future is None or future.done():
                for fd in fds:
                    os.close(fd)
            else:
                future.set_result((message, fds))

    def close(self) -> None:
        """Closes the connection; requests under way fail with KeeperGone."""
        if self._sock is None:
            return
        asyncio.get_running_loop().remove_reader(self._sock.fileno())
        self._sock.close()
        self._sock = None
        self._reader.close()
        for future in self._pending.values():
            if not future.done():
                future.set_exception(KeeperGone("the keeper went away"))
        self._pending.clear()
