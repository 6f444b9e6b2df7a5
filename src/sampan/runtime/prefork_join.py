"""A process cloned ahead that becomes the next further process in some container.

The clone of a Python process and the page faults after it are half of what an exec takes. Such a process has them behind
it. It waits where nobody of a container sees it, in no namespace of any, and serves whichever is the next; from then on it
does what one does that is cloned for that one (`spawn.join_place`).
"""

from __future__ import annotations

import os
import socket

from sampan import quickjson
from sampan.linux import namespaces, polling
from sampan.runtime import channel, child, prefork_memory, spawn
from sampan.runtime.channel import Stdio

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.runtime.requests import HandOver, Join


class JoinPrefork:
    """One waiting process. Raises OSError when it can't be made."""

    def __init__(self, last: Join) -> None:
        """`last`: the request of one before, which the next will resemble."""
        keeper = os.getpid()
        self.child = spawn.clone_child(0, lambda parent: _wait(parent, keeper, last), crossing=True, at_once=True)
        self._ready = False

    @property
    def ready(self) -> bool:
        """Whether it waits for a request."""
        if not self._ready and polling.readable(self.child.channel.fileno()):
            self._ready = channel.receive(self.child.channel).kind == "ready"
        return self._ready

    def use(self, request: Join, place: spawn.Place, stdio: Stdio | None) -> spawn.Child:
        """Lets it become that process, in another pid namespace: for what it is followed as stays outside. Raises OSError: it has ended meanwhile, or the request is too large for one message."""
        what: HandOver = {"join": request, "namespaces": place.namespaces}
        channel.hand_over(self.child.channel, what, stdio, [place.target])
        return self.child

    def discard(self) -> None:
        """Ends it."""
        self.child.abandon()


def _wait(parent: socket.socket, keeper: int, last: Join) -> None:
    prefork_memory.live_for("sampan-spare", keeper, parent)
    _rehearse(last)
    channel.send(parent, kind="ready")
    what, stdio, (target,) = channel.take_over(parent)
    request = what["join"]
    joining = child.look_ahead(request, target, what["namespaces"])
    child.become_joined(request, stdio, parent, spawn.group_of(request), joining)


def _rehearse(last: Join) -> None:
    """Does the part that touches nothing but our own memory, whose page faults are behind us then.

    All of the private pages at once (memory.populate_private) would be seven times as many as are needed.
    """
    request = quickjson.loads(quickjson.dumps(last).encode())
    child.look_ahead(request, -1, namespaces.CLONE_NEWPID)
