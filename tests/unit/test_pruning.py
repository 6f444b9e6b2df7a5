"""Prunes: what nobody uses is deleted, of what somebody may delete; what is broken, or may be used by what is, stays."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from sampan.engine.container import Container
from sampan.engine.errors import Conflict, Forbidden, NotModified
from sampan.engine.model import Mount, MountType, Status
from sampan.engine.policy.caller import at_page
from sampan.engine.pruning import Pruning
from sampan.images.errors import ImageError
from tests.unit.networks_world import container, network


def _mount(volume: str) -> Mount:
    return Mount(kind=MountType.VOLUME, destination="/data", name=volume)


WHO = at_page("somebody")


class World:
    """A pruning of things that are in lists, whose deletions are written down."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.containers: dict[str, Container] = {}
        self.images: list[Any] = []
        self.volumes: list[Any] = []
        self.networks: list[Any] = []
        self.protected: set[str] = set()
        self.deleted: list[str] = []
        self.told: list[Any] = []
        self.failing: dict[str, Exception] = {}
        parts: Any = SimpleNamespace
        known = parts(values=self.containers.values, directory=lambda made: str(directory / made.name))
        finding = parts(
            containers=lambda who: list(self.containers.values()), images=lambda who: list(self.images), volumes=lambda who: list(self.volumes),
            networks=lambda who: list(self.networks),
        )  # fmt: skip
        self.pruning = Pruning(
            known, finding, parts(subject=lambda kind, name: name), parts(may=lambda who, verb, name: name not in self.protected),
            parts(remove=self._remove_image), parts(users=self._users, delete=self._delete), parts(used=self._used, remove=self._remove_network),
            parts(remove=self._remove), parts(publish=lambda *event: self.told.append(event)),
        )  # fmt: skip

    def add(self, letter: str, status: str = "exited", **changes: Any) -> Container:
        """A container whose writable layer has 1,000 bytes."""
        made = container(letter, f"box-{letter}")
        made.state.status = Status(status)
        for name, value in changes.items():
            setattr(made, name, value)
        self.containers[made.id] = made
        os.makedirs(self.directory / made.name / "upper")
        (self.directory / made.name / "upper" / "file").write_bytes(b"x" * 1000)
        return made

    async def _remove(self, made: Container) -> None:
        await self._delete(made.name)
        del self.containers[made.id]

    async def _remove_image(self, who: Any, name: str, force: bool) -> list[dict[str, str]]:
        assert force
        await self._delete(name)
        return [{"Deleted": name}]

    async def _remove_network(self, made: Any) -> None:
        await self._delete(made.name)

    async def _delete(self, name: str) -> None:
        if name in self.failing:
            raise self.failing[name]
        self.deleted.append(name)

    def _users(self, name: str) -> list[str]:
        return [c.id for c in self.containers.values() if any(row.name == name for row in c.mounts)]

    def _used(self, made: Any) -> bool:
        return any(made.name in c.networks for c in self.containers.values())


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def everything(_: Any) -> bool:
    return True


def test_containers_that_run_or_are_about_to_stay(world: World) -> None:
    world.add("a")
    world.add("b", "running")
    world.add("c", "restarting")
    world.add("d", broken="its record can't be read")
    machine = world.add("e")
    machine.host_config = msgspec.structs.replace(machine.host_config, isolation="machine")
    world.add("f", "created")
    world.add("0")
    pruned = asyncio.run(world.pruning.containers(WHO, lambda made: made.name != "box-0"))
    assert world.deleted == ["box-a", "box-f"]
    assert pruned.names == ["a" * 64, "f" * 64]
    assert pruned.freed >= 2000


def test_one_that_somebody_else_removes_meanwhile_is_not_told_of(world: World) -> None:
    world.add("a")
    world.failing["box-a"] = NotModified("it is being removed")
    assert asyncio.run(world.pruning.containers(WHO, everything)).names == []


def test_images_that_are_used_broken_protected_or_removed_by_others_stay(world: World) -> None:
    world.add("a", image="used")
    world.images = [
        SimpleNamespace(id=name, broken="", size=10) for name in ("used", "free", "mine-not", "raced", "denied")
    ]
    world.images.append(SimpleNamespace(id="broken", broken="a blob is missing", size=10))
    world.protected = {"mine-not"}
    world.failing = {"raced": ImageError("it is used"), "denied": Forbidden("no")}
    deleted, freed = asyncio.run(world.pruning.images(WHO, everything))
    assert (deleted, freed) == ([{"Deleted": "free"}], 10)


def test_volumes_that_a_container_has_stay_also_when_it_gets_them_meanwhile(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.add("a", mounts=[_mount("used")])
    for name in ("used", "free", "mine-not", "late", "broken"):
        (world.directory / name).mkdir()
        (world.directory / name / "data").write_bytes(b"x" * 500)
    world.volumes = [
        SimpleNamespace(name=name, path=str(world.directory / name), broken="")
        for name in ("used", "free", "mine-not", "late")
    ]
    world.volumes.append(SimpleNamespace(name="broken", path=str(world.directory / "broken"), broken="no record"))
    world.protected = {"mine-not"}
    asked: list[str] = []

    def users(name: str) -> list[str]:
        asked.append(name)
        return ["somebody"] if name == "late" and asked.count("late") > 1 else world._users(name)

    monkeypatch.setattr(world.pruning._volumes, "users", users)
    pruned = asyncio.run(world.pruning.volumes(WHO, everything))
    assert pruned.names == world.deleted == ["free"]
    assert pruned.freed >= 1000  # it had been measured when somebody took it


def test_networks_that_are_used_or_predefined_stay(world: World) -> None:
    lab = network("lab")
    world.add("a", networks={"lab": {}})
    world.networks = [network("bridge"), lab, network("free"), network("mine-not"), network("kept")]
    world.protected = {world.networks[3].id}
    pruned = asyncio.run(world.pruning.networks(WHO, lambda made: made.name != "kept"))
    assert pruned.names == world.deleted == ["free"]


@pytest.mark.parametrize(
    ("prune", "known"), [("images", {"image": "sha256:1"}), ("volumes", {"mounts": [_mount("v")]})]
)
def test_nothing_is_pruned_on_doubt(world: World, prune: str, known: dict[str, Any]) -> None:
    """A broken container of which nobody knows what it uses may use any of them."""
    doubtful = world.add("a", broken="its record can't be read")
    with pytest.raises(Conflict, match=f"no {prune} are pruned: container box-a is broken"):
        asyncio.run(getattr(world.pruning, prune)(WHO, everything))
    for name, value in known.items():
        setattr(doubtful, name, value)
    asyncio.run(getattr(world.pruning, prune)(WHO, everything))
