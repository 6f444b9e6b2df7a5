"""epoll(7) and who is to be called: a handler that fails is set aside for a moment and ends nothing else."""

from __future__ import annotations

import select
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Handler = Callable[[int], None]

_PAUSE = 0.2


class Loop:
    """Descriptors and their handlers."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._handlers: dict[int, tuple[Handler, int]] = {}
        self._paused: dict[int, float] = {}

    def watch(self, fd: int, handler: Handler) -> None:
        """Has `handler(events)` called whenever there is something to read."""
        self._handlers[fd] = (handler, select.EPOLLIN)
        self._poll.register(fd, select.EPOLLIN)

    def change(self, fd: int, events: int) -> None:
        """Waits for other events of a descriptor from now on."""
        handler, before = self._handlers[fd]
        if events != before:
            self._handlers[fd] = (handler, events)
            if fd not in self._paused:
                self._poll.modify(fd, events)

    def forget(self, fd: int) -> None:
        """Ends that; before the descriptor is closed."""
        if self._handlers.pop(fd, None) and self._paused.pop(fd, None) is None:
            self._poll.unregister(fd)

    def watches(self, fd: int) -> bool:
        """Whether somebody waits for it."""
        return fd in self._handlers

    def turn(self, seconds: float) -> bool:
        """Waits for events and has them handled; whether there were any."""
        ready = self._poll.poll(min(seconds, _PAUSE) if self._paused else seconds)
        for fd, events in ready:
            entry = self._handlers.get(fd)
            if entry is None:
                continue
            try:
                entry[0](events)
            except Exception:
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
        """After fork(2): an epoll of this process's own, with the same descriptors."""
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
