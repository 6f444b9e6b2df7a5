"""Containers that end or are removed under an operation that does not hold their lock: that is told, and not what it stumbled over.

A process of a pid namespace whose init is ending can't be made (ENOMEM), files of /proc are missing, directories
are gone: each of these is the same news, and a 409 or 404 rather than a fault of ours.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from sampan.engine.container import Container
from sampan.engine.errors import Conflict, EngineError, NotFound
from sampan.linux import pidfd
from sampan.runtime.errors import RuntimeFailure

_THE_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)  # these are true of any container


def ended(container: Container) -> bool:
    """Whether its process is gone or about to be, told of or not."""
    return not container.running or pidfd.ending(container.state.pid, container.start_time)


@contextlib.contextmanager
def unless_ended(container: Container) -> Iterator[None]:
    """What is done to a process and fails because that is ending is not needed: its container does not run."""
    try:
        yield
    except OSError:
        if not ended(container):
            raise


@contextlib.contextmanager
def named(container: Container) -> Iterator[None]:
    """What fails because the container was removed or has ended meanwhile raises NotFound or Conflict."""
    run, ran = container.start_time, container.running
    try:
        yield
    except (OSError, RuntimeFailure, EngineError) as error:
        if isinstance(error, OSError) and error.errno in _THE_DISKS:
            raise
        if isinstance(error, EngineError) and type(error) is not EngineError:
            raise  # it says what it is already
        if container.removed:
            raise NotFound(f"No such container: {container.id}") from error
        if ran and (container.start_time != run or ended(container)):
            raise Conflict(f"container {container.id} is not running: it ended meanwhile") from error
        raise
