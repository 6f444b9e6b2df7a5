"""A process cloned ahead that borrows its memory, so that its execve has none to take apart.

Freeing the pages of a Python process is a third of what its execve costs. So a owner is cloned first,
which in turn clones the process in the way of vfork(2): in the owner's memory, on the owner's stack,
while the owner is parked. The parent kills the owner when there is time.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
from collections.abc import Callable

from sampan.linux import descriptors, memory, parking, pidfd, prctl
from sampan.linux import namespaces as ns
from sampan.record import record
from sampan.runtime import channel
from sampan.runtime.errors import RuntimeFailure
from sampan.runtime.spawn import Child, clone_child

_Body = Callable[[socket.socket, list[int]], None]


@record
class MemoryOwner:
    """The process whose memory is borrowed: to be ended when the borrower has ended or called execve."""

    pid: int
    pidfd: int

    def end(self) -> None:
        """Kills and reaps it."""
        parking.end(self.pidfd, self.pid)
        os.close(self.pidfd)


def clone(name: str, flags: int, fds: list[int], body: _Body) -> tuple[Child, MemoryOwner | None]:
    """Clones a process called `name` in the new namespaces of `flags`, which runs `body(channel, fds)`, and its owner.

    It holds no descriptors but 0 to 2, the channel and copies of `fds`. On a machine without the code for
    it there is no owner and the memory is its own. Raises OSError, RuntimeFailure.
    """
    if not parking.possible():
        return _clone_plainly(name, flags, fds, body), None
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    parent = os.getpid()
    pid, descriptor = ns.clone(0)
    if pid == 0:
        _own_and_park(parent, theirs, name, flags, body)
    theirs.close()
    owner = MemoryOwner(pid, descriptor)
    with ours:
        report = channel.receive(ours)
        if not report.fds:
            owner.end()
            raise RuntimeFailure(report.text or "a preforked process ended at once")
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with far:
            # Not inherited: the owner would hold it too, and its end is how we learn of the execve.
            socket.send_fds(ours, [b"g"], [far.fileno(), *fds])
    return Child(pidfd.pid_of(report.fds[0]), report.fds[0], near), owner


def _clone_plainly(name: str, flags: int, fds: list[int], body: _Body) -> Child:
    def alone(parent: socket.socket) -> None:
        prctl.set_name(name)
        descriptors.close_all_but([parent.fileno(), *fds])
        memory.populate_private()
        body(parent, fds)

    made = clone_child(flags, alone)
    made.go()
    return made


def _own_and_park(parent: int, theirs: socket.socket, name: str, flags: int, body: _Body) -> None:
    """The owner's life, and in the end the borrower's. Never returns."""
    try:
        gc.disable()
        live_for(name, parent, theirs)
        memory.populate_private()
        parking.clone_and_park(flags)
        _borrow(theirs, body)
    except BaseException as error:
        channel.send_failure(theirs, error)
    finally:
        os._exit(1)


def live_for(name: str, parent: int, sock: socket.socket) -> None:
    """What a process that waits for its parent begins with: it is called `name`, ends with that, and has nothing of its but 0 to 2 and `sock`."""
    prctl.set_name(name)
    prctl.set_parent_death_signal(signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    descriptors.close_all_but([sock.fileno()])


def _borrow(theirs: socket.socket, body: _Body) -> None:
    own = os.pidfd_open(os.getpid())
    channel.send(theirs, [own], kind="moved")
    os.close(own)
    data, fds = descriptors.receive(theirs, 1, 8)
    if not data:
        os._exit(0)
    theirs.close()
    parent = socket.socket(fileno=fds[0])
    try:
        body(parent, fds[1:])
    except BaseException as error:
        channel.send_failure(parent, error)
    finally:
        os._exit(1)
