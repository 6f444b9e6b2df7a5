"""When the keeper has a spare process ready, and when it makes the next."""

from __future__ import annotations

import errno
import os

from sampan.linux import memory
from sampan.runtime import spare, spawn
from sampan.runtime.channel import Stdio
from sampan.runtime.errors import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_IDLE_POLL, _REFILL_AFTER = 2.0, 0.01


class Spares:
    """At most one spare; a used one is replaced when the keeper has had nothing to do for a moment."""

    def __init__(self, directory: str) -> None:
        self._where = f"{directory}/spare"
        self._spare: spare.Spare | None = None
        self._expected: dict[str, Any] | None = None

    @property
    def patience(self) -> float:
        """Seconds the keeper may wait for events before it calls refill()."""
        return _REFILL_AFTER if self._spare is None and self._expected is not None else _IDLE_POLL

    def expect(self, request: dict[str, Any]) -> None:
        """Prepares for containers like this one, which need not ever be."""
        os.makedirs(self._where, 0o700, exist_ok=True)
        self._expected = spare.expectation(request)
        spare.clean(self._expected["cgroup_parent"])

    def refill(self) -> None:
        """Makes a spare if one is wanted and there is none."""
        if self._spare is not None or self._expected is None:
            return
        try:
            self._spare = spare.Spare(self._expected, self._where)
            memory.populate_private()
        except OSError:
            self._expected = None  # not again before the next start

    def start(self, request: dict[str, Any], stdio: Stdio | None) -> spawn.Child:
        """As spawn.start(), by the spare if it is ready and fits."""
        if not spare.fits(request):
            return spawn.start(request, stdio)
        self._expected = spare.expectation(request)
        ready, self._spare = self._spare, None
        if ready is None:
            return spawn.start(request, stdio)
        if ready.poll() and ready.ready:
            try:
                return ready.use(request, stdio)
            except ConnectionError:
                pass  # it was killed
            except RuntimeFailure:
                ready.discard()
                raise
            except OSError as error:
                if error.errno != errno.EMSGSIZE:
                    ready.discard()
                    raise
        ready.discard()
        return spawn.start(request, stdio)

    def close(self) -> None:
        """Ends the spare."""
        if self._spare is not None:
            self._spare.discard()
            self._spare = None
