"""A small event loop over epoll(7), for the two ends of a machine's port. Standard library only."""

from __future__ import annotations

import select
from collections.abc import Callable

READ, WRITE, HANGUP = select.EPOLLIN, select.EPOLLOUT, select.EPOLLHUP | select.EPOLLERR


class Loop:
    """Calls handlers when their descriptors are ready."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._events: dict[int, int] = {}

    def fileno(self) -> int:
        """The descriptor that it waits on."""
        return self._poll.fileno()

    def watch(self, fd: int, handler: Callable[[int], None], events: int = READ) -> None:
        """`handler(events)` is called whenever `fd` is ready for one of `events`; hang-ups always count."""
        if fd in self._handlers:
            if self._events[fd] != events:
                self._poll.modify(fd, events)
        else:
            self._poll.register(fd, events)
        self._handlers[fd], self._events[fd] = handler, events

    def forget(self, fd: int) -> None:
        """No longer watches a descriptor; one that was not watched is fine."""
        if self._handlers.pop(fd, None) is not None:
            del self._events[fd]
            self._poll.unregister(fd)

    def turn(self, seconds: float = -1) -> bool:
        """Waits for events, handles them, and returns whether there were any."""
        ready = self._poll.poll(seconds)
        for fd, events in ready:
            handler = self._handlers.get(fd)
            if handler is not None:
                handler(events)
        return bool(ready)
