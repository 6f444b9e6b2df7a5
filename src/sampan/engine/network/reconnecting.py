"""The networks of an engine that starts: everything as the containers that went on running need it, and nothing else."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor

from sampan.engine.container import Container
from sampan.engine.errors import EngineError
from sampan.engine.network.networking import Networking
from sampan.linux import netns
from sampan.network import bridge, dns, hostports
from sampan.network.errors import NetworkError
from sampan.network.model import Network

_log = logging.getLogger(__name__)

_AT_ONCE = 16


async def reconnect(networking: Networking, containers: Collection[Container], copied: bool) -> None:
    """Takes up what runs, and away what is left of what does not."""
    # In a copy of another engine's data root what runs is that engine's.
    running = {} if copied else {c.id: c for c in containers if c.running}
    doubtful = {c.id for c in containers if c.broken}  # whose processes may live
    networks = list(networking.networks.all.values())
    for network in networks:
        for identifier in [key for key in network.endpoints if key not in running and key not in doubtful]:
            networking.networks.release(network, identifier)
    for network in networks:
        _make(networking, network)
    if networking.host_ports is not None:
        hostports.route_answers()
    if not networking.networks.doubtful:  # what a record that can't be read speaks of must not be taken away
        bridge.sweep(networks, networking.networks.owner)
    lost = bridge.missing(networks)
    connected = [container for container in running.values() if networking.networks.of(container.id)]
    for container in connected:
        await _bring_in_line(networking, container, lost)
        await _take_up(networking, container)
    await _serve_names(networking, connected)
    await networking.port_mappings.begin()


def _make(networking: Networking, network: Network) -> None:
    """The network's bridge, and the right to speak of those who are on it."""
    try:
        if network.driver == "bridge" and (network.endpoints or not network.predefined):
            bridge.ensure(network)
    except (NetworkError, OSError) as error:
        _log.warning(f"network {network.name}: {error}")
    for endpoint in network.endpoints.values():
        try:
            networking.port_mappings.admit([(network, endpoint)])
        except NetworkError as error:
            _log.warning(f"network {network.name}: {endpoint.name}: {error}")


async def _bring_in_line(networking: Networking, container: Container, lost: set[str]) -> None:
    """What was cut short by our end: a connect that nobody was told of, a disconnect, an interface that is gone."""
    for network, endpoint in networking.networks.of(container.id):
        try:
            if network.name not in container.networks:
                await networking.unplug(container, network, endpoint)
            elif endpoint.host_interface in lost and await networking.plug_again(container, network, endpoint):
                _log.info(f"container {container.name}: its interface on {network.name} was gone: made again")
        except (NetworkError, EngineError, OSError) as error:
            _log.warning(f"network {network.name} of container {container.name}: {error}")


async def _take_up(networking: Networking, container: Container) -> None:
    """Ports of a container that went on running without us."""
    try:
        await networking.port_mappings.take_up(container)
    except (NetworkError, OSError) as error:
        _log.warning(f"network of container {container.name}: {error}")


async def _serve_names(networking: Networking, containers: list[Container]) -> None:
    """Name servers of those that went on running, in threads that do nothing else: where rules must be made again the
    kernel is waited for, and to begin a thread for each costs more than its sockets.
    """
    turn, loop = asyncio.Semaphore(_AT_ONCE), asyncio.get_running_loop()

    async def serve(container: Container) -> None:
        async with turn:
            try:
                namespace = container.open_process("ns/net")
                try:
                    sockets = await loop.run_in_executor(threads, netns.stay_in, namespace, dns.open_sockets_here)
                    await networking.resolver.serve(container, namespace, sockets)
                finally:
                    os.close(namespace)
            except (NetworkError, OSError) as error:
                _log.warning(f"network of container {container.name}: {error}")

    with ThreadPoolExecutor(_AT_ONCE) as threads:
        await asyncio.gather(*(serve(each) for each in containers if networking.resolver.needs_server(each)))
