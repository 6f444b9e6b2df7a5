"""The keeper's side of one connection: requests in, replies out, neither of which may keep anybody waiting."""

from __future__ import annotations

import select
import socket

from sampan.keeper import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sampan.keeper.fields import Message
    from sampan.keeper.protocol import Descriptors
    from sampan.linux.eventloop import Loop


class Connection:
    """One sampand. `handle(connection, message, fds)` is called for each request; `closed` when it has gone."""

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        handle: Callable[[Connection, Message, list[int]], None],
        gone: Callable[[Connection], None],
    ) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self._loop, self._sock, self._handle, self._gone = loop, sock, handle, gone
        self._reader, self._outbox = wire.Reader(), wire.Outbox(sock)
        self.open = True
        loop.watch(sock.fileno(), self._ready)

    def _ready(self, events: int) -> None:
        if events & select.EPOLLOUT:
            self._flush()
        if self.open and events & ~select.EPOLLOUT:
            self._read()

    def _read(self) -> None:
        messages = self._reader.receive(self._sock)
        if messages is None:
            self.close()
            return
        for message, fds in messages:
            self._handle(self, message, fds)

    def send(self, message: Message, descriptors: Descriptors | None = None) -> None:
        """Sends an answer or an event, now or when the other side reads; one that never does loses the connection."""
        if not self.open:
            return
        if descriptors:
            message = {**message, "fds": len(descriptors), "names": list(descriptors)}
        try:
            if not self._outbox.put(message, list(descriptors.values()) if descriptors else None):
                self._loop.change(self._sock.fileno(), select.EPOLLIN | select.EPOLLOUT)
        except (OSError, wire.TooLong):
            self.close()

    def _flush(self) -> None:
        try:
            if self._outbox.flush():
                self._loop.change(self._sock.fileno(), select.EPOLLIN)
        except OSError:
            self.close()

    def leave(self) -> None:
        """Lets go of it in this process; a copy goes on with it."""
        self.open = False
        self._reader.close()
        self._outbox.close()
        self._sock.close()

    def close(self) -> None:
        """Ends it."""
        if self.open:
            self._loop.forget(self._sock.fileno())
            self.leave()
            self._gone(self)
