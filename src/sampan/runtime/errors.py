"""What can go wrong between a bundle and a process."""

from __future__ import annotations

from sampan.linux.cgroup_limits import LimitRefused

NOT_FOUND = "not-found"
NOT_EXECUTABLE = "not-executable"
REFUSED = "refused"  # a value that the kernel does not take
OTHER = "other"
KINDS = (NOT_FOUND, NOT_EXECUTABLE, REFUSED, OTHER)


class RuntimeFailure(Exception):
    """A container or a process in it could not be set up. `kind` decides exit code 127, 126 or 125."""

    def __init__(self, message: str, kind: str = OTHER) -> None:
        super().__init__(message)
        self.kind = kind

    @property
    def exit_code(self) -> int:
        """The shell's convention for this failure."""
        return {NOT_FOUND: 127, NOT_EXECUTABLE: 126}.get(self.kind, 128)


def kind_of(error: BaseException) -> str:
    """The kind of any failure, to be told to another process."""
    if isinstance(error, RuntimeFailure):
        return error.kind
    return REFUSED if isinstance(error, LimitRefused) else OTHER
