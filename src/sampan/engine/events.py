"""Events: a bounded history and any number of listeners."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import NamedTuple, TypedDict

from sampan.engine.container import Container
from sampan.engine.policy.caller import Owner

_HISTORY = 2048
_QUEUE = 4096


class Actor(TypedDict):
    """What an event is about."""

    ID: str
    Attributes: dict[str, str]


Event = TypedDict(
    "Event",
    {
        "Type": str,
        "Action": str,
        "Actor": Actor,
        "scope": str,
        "time": int,
        "timeNano": int,
        "status": str,
        "id": str,
        "from": str,
    },
    total=False,
)
"""An event as clients of Docker's API read it: made once, and shown to each who listens. `time` is in seconds, `timeNano` in
nanoseconds since the epoch; `status`, `id` and `from` are the older names of the same, of containers and images."""


class Told(NamedTuple):
    """An event, and whose it is when it happens: what it tells of may be gone by the time it is shown."""

    event: Event
    owners: tuple[Owner, ...]


@dataclass(eq=False, slots=True)
class Listener:
    """Somebody who listens. `behind` is called when too many events wait to be read."""

    queue: asyncio.Queue[Told]
    behind: Callable[[], None]


class Events:
    """Publishes events to listeners; one that does not keep up is told so and gets no more, nobody else waits."""

    def __init__(self) -> None:
        self._history: deque[Told] = deque(maxlen=_HISTORY)
        self._listeners: set[Listener] = set()

    def publish(
        self, kind: str, action: str, actor: str, attributes: dict[str, str], owners: tuple[Owner, ...] = ()
    ) -> None:
        """Announces that `action` happened to an object ("container", "image", "volume") of these owners; of none, the engine's."""
        now = time.time_ns()
        event: Event = {
            "Type": kind,
            "Action": action,
            "Actor": {"ID": actor, "Attributes": attributes},
            "scope": "local",
            "time": now // 10**9,
            "timeNano": now,
        }
        if kind in ("container", "image"):
            event["status"], event["id"] = action, actor
            if kind == "container":
                event["from"] = attributes.get("image", "")
        told = Told(event, owners)
        self._history.append(told)
        for listener in list(self._listeners):
            if listener.queue.qsize() < _QUEUE:
                listener.queue.put_nowait(told)
            else:
                self._listeners.discard(listener)
                listener.behind()

    def announce(self, container: Container, action: str, **extra: str) -> None:
        """Publishes an event of a container, with Docker's attributes."""
        attributes = {
            "image": container.image_name,
            "name": container.name,
            **container.config.labels,
            **extra,
        }
        self.publish("container", action, container.id, attributes, (Owner(container.owner, container.claim),))

    def past(self, since: float, until: float) -> list[Told]:
        """Events kept in the history between two times (seconds since the epoch)."""
        return [told for told in self._history if since * 1e9 <= told.event["timeNano"] <= until * 1e9]

    def listen(self, behind: Callable[[], None]) -> Listener:
        """A listener that gets every event from now on, until it is `behind` by too many; hand it back with `forget`."""
        listener = Listener(asyncio.Queue(), behind)
        self._listeners.add(listener)
        return listener

    async def follow(self, listener: Listener, since: float | None, until: float | None) -> AsyncIterator[Told]:
        """Events of the history from `since` on, if that is asked for, then what a listener gets, up to `until` or for ever; both in
        seconds since the epoch."""
        if since is not None:
            for told in self.past(since, until or time.time()):
                yield told
        while until is None or time.time() < until:
            try:
                left = None if until is None else max(0.0, until - time.time())
                yield await asyncio.wait_for(listener.queue.get(), left)
            except TimeoutError:
                return

    def forget(self, listener: Listener) -> None:
        """Stops telling a listener."""
        self._listeners.discard(listener)

    @property
    def listeners(self) -> int:
        """How many listen."""
        return len(self._listeners)
