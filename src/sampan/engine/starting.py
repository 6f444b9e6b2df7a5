"""Starting a run: its backend makes what it needs, and the keeper makes the process."""

from __future__ import annotations

import asyncio
import contextlib
import os

from sampan.engine import log_options
from sampan.engine.backends.backend import Backends
from sampan.engine.container import Container
from sampan.engine.containers import Containers
from sampan.engine.keeper_link import KeeperLink
from sampan.engine.network.port_mappings import PortMappings
from sampan.engine.policy.gate import Gate
from sampan.engine.process import Process
from sampan.keeper.client import KeeperGone
from sampan.keeper.protocol import Start
from sampan.linux.cgroup import Cgroup


class Starting:
    """Makes processes of containers."""

    def __init__(
        self, containers: Containers, backends: Backends, keeper: KeeperLink, gate: Gate, publishing: PortMappings
    ) -> None:
        self._containers, self._backends, self._keeper = containers, backends, keeper
        self._gate, self._publishing = gate, publishing

    async def start(self, container: Container) -> Process:
        """Makes the process. When that fails nothing is left. Raises RuntimeFailure, EngineError, NetworkError,
        VmError, OSError, KeeperGone."""
        process = await self._make(container, self._gate.starting(container))
        container.ports = self._publishing.records(container)
        return process

    async def start_step(self, container: Container) -> Process:
        """As start(), for a build step, which its build has asked the gate about."""
        return await self._make(container, contextlib.nullcontext(), lone=True)

    async def _make(
        self, container: Container, let: contextlib.AbstractContextManager[None], lone: bool = False
    ) -> Process:
        """`let`: what it is started within, which refuses it or not."""
        backend = self._backends.of(container)
        given: list[int] = []  # descriptors that are ours to close
        try:
            with let:
                wanted = await backend.prepare(container, given)
                directory, stdin = self._containers.directory(container), container.config.open_stdin
                start = Start(
                    container.id, wanted.request, directory, stdin, log_options.kept(container), wanted.descriptors
                )
                return await self._keeper.make(start, wanted.longest, lone)
        except Exception as error:
            if isinstance(error, KeeperGone):  # and what it has made may live
                await asyncio.to_thread(Cgroup(container.cgroup).end)
            backend.release(container)
            raise
        finally:
            for fd in given:
                os.close(fd)
