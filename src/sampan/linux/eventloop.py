"""An event loop over epoll(7): descriptors and the handlers that are called when they are ready."""

from __future__ import annotations

import select
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Handler = Callable[[int], None]

READ, WRITE = select.EPOLLIN, select.EPOLLOUT
_PAUSE = 0.2


class Loop:
    """One epoll instance. An exception of a handler ends turn(), unless the loop is `tolerant`: it then is printed, and that
    descriptor is set aside for a moment, while all others go on."""

    def __init__(self, tolerant: bool = False) -> None:
        self._poll = select.epoll()
        self._tolerant = tolerant
        self._handlers: dict[int, tuple[Handler, int]] = {}
        self._paused: dict[int, float] = {}  # until when (monotonic)

    def fileno(self) -> int:
        """The descriptor that it waits on."""
        return self._poll.fileno()

    def watch(self, fd: int, handler: Handler, events: int = READ) -> None:
        """Has `handler(events)` called whenever `fd` is ready for one of `events`; hang-ups always count.

        Raises PermissionError for what can't be waited for, a regular file for instance, which is not watched then.
        """
        before = self._handlers.get(fd)
        if before is None:
            self._poll.register(fd, events)
        elif before[1] != events and fd not in self._paused:
            self._poll.modify(fd, events)
        self._handlers[fd] = (handler, events)

    def change(self, fd: int, events: int) -> None:
        """Waits for other events of a descriptor from now on."""
        self.watch(fd, self._handlers[fd][0], events)

    def forget(self, fd: int) -> None:
        """No longer watches a descriptor, before it is closed; one that was not watched is fine."""
        if self._handlers.pop(fd, None) and self._paused.pop(fd, None) is None:
            self._poll.unregister(fd)

    def watches(self, fd: int) -> bool:
        """Whether somebody waits for it."""
        return fd in self._handlers

    def turn(self, seconds: float = -1) -> bool:
        """Waits for events for at most `seconds` (-1: until there are some) and has them handled; whether there were any."""
        ready = self._poll.poll(_PAUSE if self._paused and not 0 <= seconds < _PAUSE else seconds)
        for fd, events in ready:
            entry = self._handlers.get(fd)
            if entry is None:
                continue
            try:
                entry[0](events)
            except Exception:
                if not self._tolerant:
                    raise
                self._pause(fd)
        if self._paused:
            self._resume()
        return bool(ready)

    def _pause(self, fd: int) -> None:
        import traceback  # only now: a container's memory begins as ours

        traceback.print_exc(file=sys.stderr)
        if fd in self._handlers and fd not in self._paused:
            self._poll.unregister(fd)
            self._paused[fd] = time.monotonic() + _PAUSE

    def _resume(self) -> None:
        now = time.monotonic()
        for fd in [fd for fd, when in self._paused.items() if when <= now]:
            del self._paused[fd]
            self._poll.register(fd, self._handlers[fd][1])

    def renew(self) -> None:
        """After fork(2): an epoll instance of this process's own, with the same descriptors."""
        self._poll.close()
        self._poll = select.epoll()
        for fd, (_, events) in self._handlers.items():
            if fd not in self._paused:
                self._poll.register(fd, events)

    def close(self) -> None:
        """Waits for nothing any more."""
        self._handlers.clear()
        self._paused.clear()
        self._poll.close()
