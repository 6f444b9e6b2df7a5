"""A process being set up, followed by its parent until it runs or has failed: the keeper's containers, a guest's, the command line's."""

from __future__ import annotations

import os

from sampan.runtime import spawn
from sampan.runtime.channel import Report
from sampan.runtime.errors import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

MAX_WARNINGS = 64  # that are kept: it may go on and on


class Setup:
    """What a child has reported so far. `terminal`: the master of its terminal, -1 as long as there is none; the caller's.

    `prepared` is called when the child waits for the runtime's hooks.
    """

    def __init__(self, child: spawn.Child, prepared: Callable[[], None] | None = None) -> None:
        self.child = child
        self.terminal = -1
        self.warnings: list[str] = []
        self.failure: RuntimeFailure | None = None
        self._prepared = prepared

    def advance(self) -> bool:
        """Takes the child's next report; blocks. True when that was the last: it runs, or `failure` says why it does not, and
        its channel is to be closed.

        The child can be another process from then on (`spawn.Child.hear`). Raises what `prepared` raises.
        """
        report = self.child.hear()
        if report.kind in ("leaving", "moved"):
            return False
        if report.kind == "tty":
            self._take_terminal(report)
            return False
        if report.kind == "warning":
            self.warnings[MAX_WARNINGS - 1 :] = [report.text]
            return False
        if report.kind == "prepared" and self._prepared is not None:
            self._prepared()
            self.child.go()
            return False
        if report.kind == "error":
            self.failure = RuntimeFailure(report.text, report.failure)
        return True

    def _take_terminal(self, report: Report) -> None:
        if self.terminal >= 0:
            os.close(report.fds[0])  # it has one
        else:
            self.terminal = report.fds[0]

    def check(self) -> None:
        """Closes the channel. Raises RuntimeFailure when the process could not be set up, after reaping it."""
        self.child.channel.close()
        if self.failure is not None:
            os.waitpid(self.child.pid, 0)
            os.close(self.child.pidfd)
            raise self.failure
