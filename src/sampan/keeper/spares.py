"""When the keeper has a spare process ready, and when it makes the next."""

from __future__ import annotations

import errno
import os

from sampan.linux import memory
from sampan.linux.cgroup import Cgroup
from sampan.runtime import borrowing, spare, spawn
from sampan.runtime.channel import Stdio
from sampan.runtime.errors import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.runtime.requests import Expectation, Launch

_IDLE_POLL, _REFILL_AFTER = 2.0, 0.01


class Spares:
    """At most one spare, made when somebody has asked for it and there is nothing else to do."""

    def __init__(self, directory: str) -> None:
        self._where = f"{directory}/spare"
        self._spare: spare.Spare | None = None
        self._expected: Expectation | None = None
        self._wanted: tuple[str, int] | None = None
        self._lenders: list[borrowing.Lender] = []  # of spares that have become containers

    @property
    def patience(self) -> float:
        """Seconds the keeper may wait for events before it calls refill()."""
        return _REFILL_AFTER if self._wanted is not None or self._lenders else _IDLE_POLL

    @property
    def pids(self) -> list[int]:
        """Our processes."""
        lenders = [*self._lenders, *([self._spare.lender] if self._spare is not None and self._spare.lender else [])]
        return [*(lender.pid for lender in lenders), *([self._spare.child.pid] if self._spare is not None else [])]

    def expect(self, request: Launch) -> None:
        """Prepares for containers like this one, which need not ever be."""
        os.makedirs(self._where, 0o700, exist_ok=True)
        self._expected = spare.expectation(request)
        spare.clean(self._expected["cgroup_parent"])

    def want(self, sandbox: str, namespace: int) -> None:
        """Asks for a spare, in the network namespace `namespace` (ours now) if a `sandbox` is named."""
        self._forget_wish()
        self.close()
        self._wanted = (sandbox, namespace)

    def refill(self) -> None:
        """Makes the spare that was asked for."""
        self._end_lenders()
        if self._wanted is None or self._expected is None:
            return
        sandbox, namespace = self._wanted
        try:
            self._spare = spare.Spare(self._expected, self._where, sandbox, namespace)
            memory.populate_private()
        except (OSError, RuntimeFailure):
            self._spare = None
        self._forget_wish()

    def _end_lenders(self) -> None:
        while self._lenders:
            self._lenders.pop().end()

    def _forget_wish(self) -> None:
        if self._wanted is not None and self._wanted[1] >= 0:
            os.close(self._wanted[1])
        self._wanted = None

    def start(self, request: Launch, stdio: Stdio | None) -> spawn.Child:
        """As spawn.start(), by the spare if it is ready and fits."""
        if self._wanted is not None and self._wanted[0] and self._wanted[0] == request.get("sandbox"):
            self._forget_wish()  # too late: that container is this one
        self._expected = spare.expectation(request)
        ready = self._spare
        if ready is None or not spare.fits(request, ready.sandbox):
            return spawn.start(request, stdio)
        self._spare = None
        if ready.poll() and ready.ready:
            try:
                used = ready.use(request, stdio)
                if ready.lender is not None:
                    self._lenders.append(ready.lender)
                return used
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

    def end(self) -> None:
        """Ends the spare for good, and takes away the group that all of them were in, if it is empty."""
        self.close()
        if self._expected is not None and self._expected["cgroup_parent"]:
            Cgroup(self._expected["cgroup_parent"]).discard()

    def close(self) -> None:
        """Ends the spare."""
        self._end_lenders()
        if self._spare is not None:
            self._spare.discard()
            self._spare = None
