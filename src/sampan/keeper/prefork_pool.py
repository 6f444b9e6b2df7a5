"""When the keeper has a preforked process ready, and when it makes the next."""

from __future__ import annotations

import errno
import os

from sampan.linux import memory
from sampan.linux.cgroup import Cgroup
from sampan.runtime import prefork, prefork_memory, spawn
from sampan.runtime.channel import Stdio
from sampan.runtime.errors import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.runtime.requests import Expectation, Launch

_IDLE_POLL, _REFILL_AFTER = 2.0, 0.01


class PreforkPool:
    """At most one prefork, made when somebody has asked for it and there is nothing else to do."""

    def __init__(self, directory: str) -> None:
        self._where = f"{directory}/spare"
        self._prefork: prefork.Prefork | None = None
        self._expected: Expectation | None = None
        self._group = ""  # the engine's own, below which preforks have theirs: another parent is its user's
        self._wanted: tuple[str, int] | None = None
        self._owners: list[prefork_memory.MemoryOwner] = []  # of preforks that have become containers

    @property
    def patience(self) -> float:
        """Seconds the keeper may wait for events before it calls refill()."""
        return _REFILL_AFTER if self._wanted is not None or self._owners else _IDLE_POLL

    @property
    def pids(self) -> list[int]:
        """Our processes."""
        owners = [*self._owners, *([self._prefork.owner] if self._prefork is not None and self._prefork.owner else [])]
        return [*(owner.pid for owner in owners), *([self._prefork.child.pid] if self._prefork is not None else [])]

    def expect(self, request: Launch) -> None:
        """Prepares for containers like this one, which need not ever be."""
        os.makedirs(self._where, 0o700, exist_ok=True)
        self._expected = prefork.expectation(request)
        self._group = self._expected["cgroup_parent"]
        prefork.clean(self._group)

    def want(self, sandbox: str, namespace: int) -> None:
        """Asks for a prefork, in the network namespace `namespace` (ours now) if a `sandbox` is named."""
        self._forget_wish()
        self.close()
        self._wanted = (sandbox, namespace)

    def refill(self) -> None:
        """Makes the prefork that was asked for."""
        self._end_owners()
        if self._wanted is None or self._expected is None:
            return
        sandbox, namespace = self._wanted
        try:
            self._prefork = prefork.Prefork(self._expected, self._where, sandbox, namespace)
            memory.populate_private()
        except (OSError, RuntimeFailure):
            self._prefork = None
        self._forget_wish()

    def _end_owners(self) -> None:
        while self._owners:
            self._owners.pop().end()

    def _forget_wish(self) -> None:
        if self._wanted is not None and self._wanted[1] >= 0:
            os.close(self._wanted[1])
        self._wanted = None

    def start(self, request: Launch, stdio: Stdio | None) -> spawn.Child:
        """As spawn.start(), by the prefork if it is ready and fits."""
        if self._wanted is not None and self._wanted[0] and self._wanted[0] == request.get("sandbox"):
            self._forget_wish()  # too late: that container is this one
        expected = prefork.expectation(request)
        if expected["cgroup_parent"] == self._group:
            self._expected = expected
        ready = self._prefork
        if ready is None or not prefork.fits(request, ready.sandbox):
            return spawn.start(request, stdio)
        self._prefork = None
        if ready.poll() and ready.ready:
            try:
                used = ready.use(request, stdio)
                if ready.owner is not None:
                    self._owners.append(ready.owner)
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
        """Ends the prefork for good, and takes away the group that all of them were in, if it is empty."""
        self.close()
        if self._expected is not None and self._expected["cgroup_parent"]:
            Cgroup(self._expected["cgroup_parent"]).discard()

    def close(self) -> None:
        """Ends the prefork."""
        self._end_owners()
        if self._prefork is not None:
            self._prefork.discard()
            self._prefork = None
