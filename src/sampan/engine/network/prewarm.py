"""What the next container will probably need, ready before it is asked for: a network namespace, and in
the keeper a process in it (ADR 6). It is like the last container's."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from sampan.engine.container import Container
from sampan.engine.keeper_link import KeeperLink
from sampan.engine.tasks import Tasks
from sampan.keeper.client import KeeperGone
from sampan.keeper.protocol import Prepare
from sampan.linux import netns
from sampan.network import bridge, dns
from sampan.network.errors import NetworkError
from sampan.network.model import Network
from sampan.network.networks import Networks
from sampan.runtime.errors import RuntimeFailure

_AFTER = 0.02


@dataclass(slots=True)
class Sandbox:
    """A namespace with an interface, not yet configured, on one network. `id` becomes the endpoint's."""

    id: str
    network: str
    namespace: int
    link: str  # the host's end of its interface
    sockets: dns.Sockets | None = None  # of its name server, on a network with names

    def close(self) -> None:
        """Gives up what nobody has taken."""
        os.close(self.namespace)
        for sock in self.sockets or ():
            sock.close()


class Prewarm:
    """At most one sandbox at a time."""

    def __init__(
        self, networks: Networks, settle: Callable[[Network], Awaitable[None]], keeper: KeeperLink, tasks: Tasks
    ) -> None:
        """`settle` makes a network ready to be used (Networking.settle)."""
        self._networks = networks
        self._settle = settle
        self._keeper = keeper
        self._tasks = tasks
        self._ready: Sandbox | None = None
        self._timer: asyncio.TimerHandle | None = None

    def take(self, container: Container) -> Sandbox | None:
        """The sandbox, if it is what this container needs; it is the caller's then."""
        if self._ready is None or [self._ready.network] != list(container.networks):
            return None
        taken, self._ready = self._ready, None
        return taken

    def started(self, container: Container) -> None:
        """A container has started: when it is quiet again, prepare for another like it."""
        if self._timer is not None:
            self._timer.cancel()
        names = list(container.networks)
        shared = not names and container.host_config.network_mode != "none"
        if not shared:
            name = names[0] if len(names) == 1 else ""
            self._timer = asyncio.get_running_loop().call_later(_AFTER, self._begin, name)

    def _begin(self, name: str) -> None:
        self._timer = None
        self._tasks.beside(self._prepare(name))

    async def _prepare(self, name: str) -> None:
        network = self._networks.named(name)
        usable = network is not None and network.driver == "bridge"
        with contextlib.suppress(NetworkError, OSError, KeeperGone, RuntimeFailure):
            if usable and self._ready is not None and self._ready.network == name:
                return
            await self.drop()
            if not usable or network is None:
                await self._keeper.call(Prepare(""))
                return
            await self._settle(network)
            identifier = self._networks.endpoint_id()
            made = await asyncio.to_thread(_make, network, identifier, self._networks.owner.veth(identifier))
            self._ready = made
            await self._keeper.call(Prepare(made.id, descriptors={"network": made.namespace}))

    async def drop(self, network: str | None = None) -> None:
        """Gives the sandbox up; with `network` only one on that network."""
        if self._ready is None or network not in (None, self._ready.network):
            return
        dropped, self._ready = self._ready, None
        dropped.close()
        await asyncio.to_thread(bridge.unplug, dropped.link)

    def close(self) -> None:
        """Ends our part."""
        if self._timer is not None:
            self._timer.cancel()
        if self._ready is not None:
            self._ready.close()
            self._ready = None


def _make(network: Network, identifier: str, link: str) -> Sandbox:
    sandbox = Sandbox(identifier, network.name, netns.new(), link)
    try:
        bridge.plug_ahead(network, link, sandbox.namespace)
        if network.has_names:
            sandbox.sockets = dns.open_sockets(sandbox.namespace)
    except BaseException:
        sandbox.close()
        raise
    return sandbox
