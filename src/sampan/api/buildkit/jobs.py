"""Builds that go on over BuildKit's API: their vertices for those who watch, their result for those who wait."""

from __future__ import annotations

import asyncio
import hashlib
import time
from typing import Any

from sampan.api.buildkit import messages


def _now() -> object:
    nanoseconds = time.time_ns()
    return messages.new("Time", seconds=nanoseconds // 10**9, nanos=nanoseconds % 10**9)


class Job:
    """One solve. It is an Output: what the builder tells becomes status messages."""

    def __init__(self, ref: str) -> None:
        self._ref = ref
        self._queues: list[asyncio.Queue[Any]] = []
        self._history: list[Any] = []
        self._vertices: dict[str, Any] = {}
        self.entitlements: list[str] = []
        self.session = ""
        self.exporter: tuple[str, dict[str, str]] = ("", {})
        self.started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.returned: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.build: Any = None  # what the bridge's Solve has prepared: see control

    def _send(self, message: object) -> None:
        self._history.append(message)
        for queue in self._queues:
            queue.put_nowait(message)

    def watch(self) -> asyncio.Queue[Any]:
        """All status messages, those of before first; None ends them."""
        queue: asyncio.Queue[Any] = asyncio.Queue()
        for message in self._history:
            queue.put_nowait(message)
        self._queues.append(queue)
        return queue

    def close(self) -> None:
        """Ends the status messages."""
        self._history.append(None)
        for queue in self._queues:
            queue.put_nowait(None)

    def _digest(self, key: str) -> str:
        return f"sha256:{hashlib.sha256(f'{self._ref} {key}'.encode()).hexdigest()}"

    def begin(self, key: str, number: int, total: int, text: str) -> None:
        """As Output has it."""
        vertex = messages.new("Vertex", digest=self._digest(key), name=f"[{number}/{total}] {text}", started=_now())
        self._vertices[key] = vertex
        self._send(messages.new("StatusResponse", vertexes=[vertex]))

    def log(self, key: str, data: bytes) -> None:
        """As Output has it."""
        row = messages.new("VertexLog", vertex=self._digest(key), timestamp=_now(), stream=1, msg=data)
        self._send(messages.new("StatusResponse", logs=[row]))

    def end(self, key: str, cached: bool, error: str) -> None:
        """As Output has it."""
        vertex = self._vertices[key]
        vertex.cached, vertex.error = cached, error
        vertex.completed.CopyFrom(_now())
        self._send(messages.new("StatusResponse", vertexes=[vertex]))

    def say(self, text: str) -> None:
        """As Output has it: a vertex of its own, done at once."""
        now = _now()
        vertex = messages.new(
            "Vertex", digest=self._digest(f"say {len(self._history)}"), name=text, started=now, completed=now
        )
        self._send(messages.new("StatusResponse", vertexes=[vertex]))
