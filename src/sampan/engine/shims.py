"""Asking the process that stands for a virtual machine, and through it the guest: nobody waits for either without end.

A guest that does not answer may be busy, or its QEMU may be stopped: from outside that is the same. Whoever asks gets an
error that names it after a while; what has begun in the guest goes on or ends there as the guest sees fit.

The process may have been taken over by its guest: it is listened to for one reply and one end, of bounded length.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from sampan.engine.errors import BadRequest, EngineError
from sampan.keeper import wire
from sampan.keeper.protocol import Descriptors
from sampan.runtime.errors import REFUSED
from sampan.vm import protocol, requests

if TYPE_CHECKING:
    from sampan.vm.requests import Request

PATIENCE = 15.0  # seconds
_MAX_TEXT = 4096
_MAX_MESSAGES = 2  # a reply, and the end of what has been begun


class Shim:
    """One connection to a machine's socket."""

    def __init__(self, sock: socket.socket, name: str) -> None:
        self._sock, self._name = sock, name
        self._reader, self._outbox = wire.Reader(protocol.MAX_ANSWER), wire.Outbox(sock)
        self._heard = 0
        self._messages: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        asyncio.get_running_loop().add_reader(sock.fileno(), self._readable)

    def _readable(self) -> None:
        found = self._reader.receive(self._sock)
        for message, fds in found or ():
            for fd in fds:
                os.close(fd)
            self._heard += 1
            if fds or self._heard > _MAX_MESSAGES:
                found = None
                break
            self._messages.put_nowait(message)
        if found is None:
            asyncio.get_running_loop().remove_reader(self._sock.fileno())
            self._messages.put_nowait(None)

    async def ask(
        self, request: Request, descriptors: Descriptors | None = None, limit: float = PATIENCE
    ) -> dict[str, Any]:
        """The reply to a request. Raises EngineError: the machine's own, or that it has ended or does not answer."""
        try:
            async with asyncio.timeout(limit):
                message = {**requests.to_message(request), "seq": 1}
                if descriptors:
                    message |= {"fds": len(descriptors), "names": list(descriptors)}
                await self._send(message, list((descriptors or {}).values()))
                return self._checked(await self._messages.get())
        except TimeoutError:
            raise silent(self._name, limit) from None

    async def next(self, limit: float) -> dict[str, Any] | None:
        """The next message, or None when there is none in time. Raises EngineError."""
        try:
            async with asyncio.timeout(limit):
                return self._checked(await self._messages.get())
        except TimeoutError:
            return None

    def _checked(self, message: dict[str, object] | None) -> dict[str, object]:
        if message is None:
            raise EngineError(f"the virtual machine of {self._name} has ended")
        if "error" in message:
            kind = BadRequest if message.get("failure") == REFUSED else EngineError
            raise kind(protocol.one_line(str(message["error"])[:_MAX_TEXT]))
        return message

    async def _send(self, message: dict[str, object], fds: list[int]) -> None:
        try:
            done = self._outbox.put(message, fds)
            while not done:
                await self._writable()
                done = self._outbox.flush()
        except OSError:
            raise EngineError(f"the virtual machine of {self._name} has ended") from None
        except wire.TooLong as error:
            raise EngineError(f"what the virtual machine of {self._name} is asked is too long: {error}") from None

    async def _writable(self) -> None:
        loop, ready = asyncio.get_running_loop(), asyncio.Event()
        loop.add_writer(self._sock.fileno(), ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_writer(self._sock.fileno())

    def close(self) -> None:
        """Ends the connection."""
        asyncio.get_running_loop().remove_reader(self._sock.fileno())
        self._outbox.close()
        self._reader.close()
        self._sock.close()


@contextlib.asynccontextmanager
async def connected(path: str, name: str) -> AsyncIterator[Shim]:
    """A connection to the machine of the container `name`. Raises EngineError."""
    sock = socket.socket(socket.AF_UNIX)
    sock.setblocking(False)
    try:
        sock.connect(path)
    except OSError as error:  # BlockingIOError: it accepts nobody
        sock.close()
        raise EngineError(f"the virtual machine of {name} does not answer: {error}") from None
    shim = Shim(sock, name)
    try:
        yield shim
    finally:
        shim.close()


async def check_alive(path: str, name: str) -> None:
    """Raises EngineError when the guest does not answer, whatever it would say."""
    try:
        async with connected(path, name) as shim:
            await shim.ask(requests.Alive())
    except EngineError as error:
        if isinstance(error, GuestSilent):
            raise


class GuestSilent(EngineError):
    """A guest that is there and does not answer."""


def silent(name: str, seconds: float) -> GuestSilent:
    """The error for a guest that has kept somebody waiting."""
    return GuestSilent(
        f"the guest of {name} has not answered in {seconds:g} s: it is busy, or its virtual machine is stopped"
    )
