"""Events: a bounded history and any number of listeners."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any

_HISTORY = 2048
_QUEUE = 4096


class Events:
    """Publishes events to queues; a listener that never reads loses events, nobody else waits."""

    def __init__(self) -> None:
        self._history: deque[dict[str, Any]] = deque(maxlen=_HISTORY)
        self._listeners: set[asyncio.Queue[dict[str, Any]]] = set()

    def publish(self, kind: str, action: str, actor: str, attributes: dict[str, str]) -> None:
        """Announces that `action` happened to an object ("container", "image", "volume")."""
        now = time.time_ns()
        event = {
            "Type": kind,
            "Action": action,
            "Actor": {"ID": actor, "Attributes": attributes},
            "scope": "local",
            "time": now // 10**9,
            "timeNano": now,
        }
        if kind in ("container", "image"):
            event |= {"status": action, "id": actor}
            if kind == "container":
                event["from"] = attributes.get("image", "")
        self._history.append(event)
        for queue in self._listeners:
            if queue.qsize() < _QUEUE:
                queue.put_nowait(event)

    def past(self, since: float, until: float) -> list[dict[str, Any]]:
        """Events kept in the history between two times (seconds since the epoch)."""
        return [event for event in self._history if since * 1e9 <= event["timeNano"] <= until * 1e9]

    def listen(self) -> asyncio.Queue[dict[str, Any]]:
        """A queue that gets every event from now on; hand it back with `forget`."""
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._listeners.add(queue)
        return queue

    def forget(self, queue: asyncio.Queue[dict[str, Any]]) -> None:
        """Stops filling a queue."""
        self._listeners.discard(queue)
