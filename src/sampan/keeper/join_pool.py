"""When the keeper has a process ready for the next exec, and when it makes another."""

from __future__ import annotations

import time

from sampan.runtime import spawn
from sampan.runtime.channel import Stdio
from sampan.runtime.prefork_join import JoinPrefork

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.runtime.requests import Join

_REFILL_AFTER, _NEVER = 0.01, 60.0
_KEPT = 60.0  # seconds without an exec until it is given up, for it has some 2 MB of memory of its own


class JoinPool:
    """At most one, made when there has been an exec and there is nothing else to do."""

    def __init__(self) -> None:
        self._prefork: JoinPrefork | None = None
        self._last: Join | None = None  # of which another is wanted
        self._until = 0.0

    @property
    def patience(self) -> float:
        """Seconds the keeper may wait for events before it calls refill()."""
        return _REFILL_AFTER if self._last is not None else _NEVER

    @property
    def pids(self) -> list[int]:
        """Our processes."""
        return [self._prefork.child.pid] if self._prefork is not None else []

    def refill(self) -> None:
        """Makes the one that the last exec has asked for, or gives up one that nobody has asked for in a while."""
        if self._last is not None:
            last, self._last = self._last, None
            self.close()
            try:
                self._prefork = JoinPrefork(last)
            except OSError:
                return  # no process to be had: the next exec says so, if it is still so
        elif time.monotonic() > self._until:
            self.close()

    def join(self, request: Join, stdio: Stdio | None) -> spawn.Child:
        """As spawn.join(), by the prefork if it is ready."""
        self._last, self._until = request, time.monotonic() + _KEPT
        with spawn.place_of(request, stdio) as place:
            prefork = self._prefork
            if prefork is not None and place.moving and prefork.ready:
                self._prefork = None
                try:
                    return prefork.use(request, place, stdio)
                except OSError:
                    prefork.discard()
            return spawn.join_place(request, place, stdio)

    def close(self) -> None:
        """Ends the prefork."""
        if self._prefork is not None:
            self._prefork.discard()
            self._prefork = None
