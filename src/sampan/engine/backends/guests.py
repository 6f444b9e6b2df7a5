"""What is the same for every backend with a virtual machine, whose process on the host is a shim that passes things on."""

from __future__ import annotations

import asyncio
import os

from sampan.engine.backends.backend import ExitDetails
from sampan.engine.container import Container
from sampan.engine.machines import Machines
from sampan.engine.network.networking import Networking
from sampan.engine.process import Process
from sampan.engine.tasks import Tasks
from sampan.engine.wiring import Wiring
from sampan.linux.cgroup import Cgroup


class Guests:
    """The common half of the backends with guests; the other one says how the guest is asked."""

    def __init__(self, machines: Machines, networking: Networking, tasks: Tasks) -> None:
        self._machines, self._networking, self._tasks = machines, networking, tasks

    can_replug = False  # its taps are QEMU's

    async def _wire(self, container: Container, given: list[int], slots: int) -> Wiring:
        """The machine's place in its networks, with room for `slots` cards; `given` gets its namespace, the container its taps."""
        wiring = await self._networking.prepare_machine(container, slots)
        given.append(wiring.namespace)
        container.taps = [fd for _, fd in wiring.taps]
        return wiring

    async def make_directory(self, container: Container, path: str) -> None:
        """The guest makes it when its disk is first opened."""

    def created(self, container: Container) -> None:
        """Nothing is prepared: its template is."""

    def started(self, container: Container) -> None:
        """Nothing is prepared for the next: its template is."""

    def exit_details(self, container: Container) -> ExitDetails:
        """As Backend.exit_details: what the host's control group and the guest say."""
        inside, error = self._machines.ended(container)
        return ExitDetails(inside or Cgroup(container.cgroup).oom_kills() > 0, error)

    def release(self, container: Container) -> None:
        """As Backend.release. Taps are closed in a thread: the last to do so waits for the kernel to forget the interface."""
        self._networking.release(container)
        taps, container.taps = container.taps, []
        if taps:
            self._tasks.beside(asyncio.to_thread(_close_all, taps))

    async def freeze(self, container: Container, frozen: bool) -> None:
        """As Backend.freeze."""
        raise NotImplementedError

    async def settle_pause(self, container: Container, paused: bool) -> bool:
        """As Backend.settle_pause: whether a guest is frozen is not asked, since to let it go on twice is the same."""
        if not paused:
            await self.freeze(container, False)
        return paused

    def may_have_ended(self, container: Container) -> bool:
        """A guest stops answering before its shim has ended."""
        return True

    def signal_exec(self, container: Container, process: Process, number: int) -> None:
        """The process here is a relay: it passes a signal on, or has everything killed by its end."""
        process.signal(number)


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
