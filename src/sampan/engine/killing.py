"""Signals to containers, and the two ways to end one: asked, or not."""

from __future__ import annotations

import asyncio
import math
import os
import signal

from sampan.engine import broken
from sampan.engine.backends.backend import Backends
from sampan.engine.container import Container
from sampan.engine.containers import Containers
from sampan.engine.errors import BadRequest, Conflict, EngineError, NotModified
from sampan.engine.events import Events
from sampan.engine.freezing import Freezing
from sampan.engine.model import Status
from sampan.linux import pidfd, signals

_GUEST_END = 10.0  # seconds that a guest may take to end its container and write everything
_TOLD = 10.0  # seconds that the keeper may take to tell of an end
_END = 30.0  # seconds that a process may take to end after SIGKILL
_ENDING = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


class Killing:
    """Sends signals to containers and ends them."""

    def __init__(self, containers: Containers, events: Events, freezing: Freezing, backends: Backends) -> None:
        self._containers, self._events, self._freezing, self._backends = containers, events, freezing, backends

    async def kill(self, container: Container, text: str) -> None:
        """Sends a signal to the container's init; after SIGKILL waits for its end. Raises Conflict when it does not run."""
        number = signal_number(text or "KILL")
        if container.broken:
            await broken.kill(container, number)
            self._events.announce(container, "kill", signal=str(number))
            return
        async with container.exclusive():
            if not container.running:
                raise Conflict(f"container {container.id} is not running")
            if number in _ENDING:
                container.stopped_by_user = True
            if number != signal.SIGKILL:
                _signal(container, number)
                self._events.announce(container, "kill", signal=str(number))
                return
            waiter = await self.begin_end(container)
        await _ended(container, waiter)

    async def end(self, container: Container) -> None:
        """Ends a container whose files need not survive, within the caller's lock. Raises EngineError when it does not end."""
        await _ended(container, await self.begin_end(container, keep=False))

    async def begin_end(self, container: Container, keep: bool = True) -> asyncio.Future[int]:
        """Kills the container's init; returns a future of its end. The lock is the caller's.

        A guest's is killed in the guest first, so that its disk is left in order if that is to be kept.
        """
        waiter = container.exits.next()
        try:
            await self._freezing.thaw(container)
            self._events.announce(container, "kill", signal=str(int(signal.SIGKILL)))  # before its end is told
            if keep:
                async with asyncio.timeout(_GUEST_END):
                    if await self._backends.of(container).kill_inside(container):
                        await asyncio.shield(waiter)
        except (EngineError, OSError, TimeoutError):
            pass  # then the harder way
        if container.running:
            _signal(container, signal.SIGKILL)
        return waiter

    async def stop(self, container: Container, timeout: int | None, text: str = "") -> None:
        """Asks with the stop signal, then kills after `timeout` seconds (negative: waits for ever). Raises NotModified."""
        number = signal_number(text or container.config.stop_signal or "TERM")
        if timeout is None:
            given = container.config.stop_timeout
            timeout = 10 if given is None else int(given)
        if container.broken:
            await broken.stop(container, number, timeout)
            self._events.announce(container, "stop")
            return
        async with container.exclusive():
            if container.state.restarting:
                container.stopped_by_user = True
                container.state.status = Status.EXITED
                self._containers.owe(container)
                return
            if not container.running:
                raise NotModified("already stopped")
            container.stopped_by_user = True
            self._containers.owe(container)
            waiter = container.exits.next()
            await self._freezing.thaw(container)
            _signal(container, number)
            self._events.announce(container, "kill", signal=str(number))
        if not await _told(container, waiter, math.inf if timeout < 0 else timeout):
            async with container.lock:
                if not waiter.done():  # it is this run still
                    await self.begin_end(container)
            await _ended(container, waiter)
        self._events.announce(container, "stop")


def signal_number(text: str) -> int:
    """A signal by name or number: "TERM", "SIGRTMIN+3", "9". Raises BadRequest."""
    try:
        return signals.number(text)
    except ValueError as error:
        raise BadRequest(str(error)) from None


async def _ended(container: Container, waiter: asyncio.Future[int]) -> None:
    if not await _told(container, waiter, _END):
        raise EngineError(
            f"cannot kill container: {container.id}: its process did not end within {_END:g} s of SIGKILL"
        ) from None


async def _told(container: Container, waiter: asyncio.Future[int], seconds: float) -> bool:
    """Waits until the keeper has told of the end, for so long. Raises EngineError when there was one and it is not told."""
    loop = asyncio.get_running_loop()
    deadline, ended = loop.time() + seconds, 0.0
    while not waiter.done():
        now = loop.time()
        if now >= deadline:
            return False
        if ended and now - ended >= _TOLD:
            raise EngineError(
                f"container {container.id}: its process has ended, and the keeper has not answered for {_TOLD:g} s"
            )
        await asyncio.wait({waiter}, timeout=min(1.0, deadline - now))
        if not ended and container.process is not None and container.process.ending:
            ended = loop.time()
    return True


def _signal(container: Container, number: int) -> None:
    if container.process is not None:
        container.process.signal(number)
        return
    descriptor = pidfd.open_if_same(container.state.pid, container.start_time)
    if descriptor is None:
        return
    try:
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        pass
    finally:
        os.close(descriptor)
