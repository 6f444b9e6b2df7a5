"""A network namespace that is ready before it is asked for: like the last container's, one at a time, and nobody's when it is given up."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from sampan.engine.network import prewarm as module
from sampan.engine.network.prewarm import Prewarm, Sandbox
from sampan.engine.tasks import Tasks
from sampan.keeper.client import KeeperGone
from sampan.network.model import Network
from tests.unit.networks_world import FakeNetworks, container, network

LAB = network("lab")


class World:
    """A prewarm whose kernel and keeper write down what they are asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[tuple[str, str]] = []
        self.made = asyncio.Event()  # the keeper has been asked
        self.networks = FakeNetworks()
        self.networks.add(LAB, network("other", "10.8.0"), Network("v" * 64, "vlan", "macvlan", 0))
        self.count = 0
        self.keeper_is_gone = False
        monkeypatch.setattr(module, "_AFTER", 0.0)
        monkeypatch.setattr(module, "_make", self._make)
        monkeypatch.setattr(module.bridge, "unplug", lambda link: self.log.append(("unplug", link)))
        networks: Any = self.networks
        networks.endpoint_id = self._endpoint_id
        keeper: Any = self
        self.tasks = Tasks()
        self.prewarm = Prewarm(networks, self._settle, keeper, self.tasks)

    def _endpoint_id(self) -> str:
        self.count += 1
        return f"sandbox{self.count}"

    async def _settle(self, on: Network) -> None:
        self.log.append(("settle", on.name))

    def _make(self, on: Network, identifier: str, link: str) -> Sandbox:
        return Sandbox(identifier, on.name, os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC), link)

    async def call(self, request: Any) -> None:
        """The keeper's part."""
        self.made.set()
        if self.keeper_is_gone:
            raise KeeperGone("it has died")
        self.log.append(("prepare", request.sandbox))

    async def after(self, *networks: Network, **host: Any) -> None:
        """A container on these networks has started, and what follows has been done."""
        self.made.clear()
        self.prewarm.started(container("a", "box", *networks, **host))
        await asyncio.wait_for(self.made.wait(), 5)
        await asyncio.sleep(0)


def run(monkeypatch: pytest.MonkeyPatch, work: Callable[[World], Awaitable[None]]) -> World:
    async def whole() -> World:
        world = World(monkeypatch)
        try:
            await work(world)
        finally:
            world.prewarm.close()
            await world.tasks.close()
        return world

    return asyncio.run(whole())


def test_a_sandbox_is_taken_by_one_container_on_its_network_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(world: World) -> None:
        await world.after(LAB)
        assert world.prewarm.take(container("b", "two", LAB, network("other"))) is None
        assert world.prewarm.take(container("c", "none")) is None
        taken = world.prewarm.take(container("d", "like", LAB))
        assert taken is not None
        assert taken.id == "sandbox1"
        assert world.prewarm.take(container("e", "late", LAB)) is None
        taken.close()

    world = run(monkeypatch, work)
    assert world.log == [("settle", "lab"), ("prepare", "sandbox1")]


def test_one_on_another_network_makes_way(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(world: World) -> None:
        await world.after(LAB)
        await world.after(network("other"))
        assert world.prewarm.take(container("b", "box", LAB)) is None

    link = FakeNetworks().owner.veth("sandbox1")
    assert run(monkeypatch, work).log == [
        ("settle", "lab"), ("prepare", "sandbox1"), ("unplug", link), ("settle", "other"), ("prepare", "sandbox2")]  # fmt: skip


def test_the_keeper_prepares_a_process_alone_for_what_has_no_bridge(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(world: World) -> None:
        await world.after()  # --network none
        await world.after(Network("v" * 64, "vlan", "macvlan", 0))
        await world.after(LAB, network("other"))

    assert run(monkeypatch, work).log == [("prepare", "")] * 3


def test_nothing_is_prepared_for_those_that_share_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(world: World) -> None:
        world.prewarm.started(container("a", "box", NetworkMode="host"))
        assert world.prewarm._timer is None

    assert run(monkeypatch, work).log == []


def test_a_removed_network_s_is_given_up_and_others_not(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(world: World) -> None:
        await world.after(LAB)
        await world.prewarm.drop("other")
        assert world.prewarm._ready is not None
        namespace = world.prewarm._ready.namespace
        await world.prewarm.drop("lab")
        with pytest.raises(OSError):
            os.fstat(namespace)

    assert run(monkeypatch, work).log[-1][0] == "unplug"


def test_a_sandbox_is_there_although_the_keeper_has_died(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(world: World) -> None:
        world.keeper_is_gone = True
        await world.after(LAB)
        taken = world.prewarm.take(container("b", "box", LAB))
        assert taken is not None
        taken.close()

    run(monkeypatch, work)
