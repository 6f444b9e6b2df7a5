"""What is at the edges of tenants' things: links, caches, digests, volumes that two make at once, names in complaints; and what is
refused at create because the runtime would."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sampan.build.cache import BuildCache
from sampan.engine import mounts, spec
from sampan.engine.engine import Engine
from sampan.engine.errors import BadRequest, Conflict, Forbidden
from sampan.engine.model import Config, HostConfig
from sampan.engine.policy.caller import Owner, at_page
from sampan.engine.policy.model import Policy, Tenant
from sampan.engine.policy.operation import Kind, Verb
from sampan.engine.policy.source import Source
from sampan.images.config import INLINE, ImageConfig
from sampan.runtime.errors import RuntimeFailure
from sampan.runtime.mounts import attach
from sampan.runtime.sources import is_bind
from sampan.volumes.local import VolumeNotFound
from tests.support.engines import engine as engine
from tests.support.engines import run
from tests.unit.gate_world import World

__all__ = ["engine"]  # a fixture

ROUNDS = 1000 if os.environ.get("SAMPAN_SOAK") else 60  # of a race
MALLORY, VICTIM = at_page("mallory"), at_page("victim")
FIRST, SECOND = "a" * 64, "b" * 64


def test_a_policy_that_is_too_long_is_refused_whole(tmp_path: Path) -> None:
    """Its beginning would be a policy without the rules at its end."""
    path = tmp_path / "policy.toml"
    path.write_text('default = "container"\n' + "#" * (1 << 20) + '\n[[rule]]\nname = "none"\nisolation = "deny"\n')
    path.chmod(0o600)
    found = Source(str(path))
    assert found.active
    assert "longer than 1 MiB" in found.error
    path.write_text('default = "vm"\n'.ljust(1 << 20))
    assert found.policy().default == "vm"


def test_links_are_asked_again(engine: Engine) -> None:
    world = World(engine)
    world.policy = Policy(tenants=(Tenant("lab", ("victim",)),), _by_user={"victim": "lab"})
    mine, other = world.add("mallory"), world.add("victim")
    engine.gate.check_shared(mine.stopped)
    mine.stopped.host_config = HostConfig(links=(f"{mine.container.id}:own", "0123:gone"))
    engine.gate.check_shared(mine.stopped)
    mine.stopped.host_config = HostConfig(links=(f"{mine.container.id}:own", f"{other.container.id}:db"))
    with pytest.raises(Forbidden, match="another tenant's"):
        engine.gate.check_shared(mine.stopped)


def _cache(tmp_path: Path) -> BuildCache:
    layers = SimpleNamespace(reserve_numbers=lambda numbers: None, trusted=lambda number: True)
    store: Any = SimpleNamespace(layers=layers, garbage=SimpleNamespace(kept_layers=None))
    return BuildCache(store, str(tmp_path / "cache.db"))


def test_caches_are_told_apart_exactly(tmp_path: Path) -> None:
    cache = _cache(tmp_path)
    tenants = ("lab", "x@lab", "b", "@lab")
    for tenant in tenants:
        cache.of(tenant).put(FIRST, 0, tenant, 0)
    cache.put(FIRST, 0, "shared", 0)
    for tenant in tenants:
        assert [record.description for record in cache.of(tenant).all()] == [tenant]
    assert len(cache.all()) == len(tenants) + 1


def test_an_image_enters_no_steps_into_the_cache_of_others(tmp_path: Path) -> None:
    cache = _cache(tmp_path)
    config = ImageConfig(rest={INLINE: [[FIRST, -1], [f"{SECOND}@lab", -1]]})
    image: Any = SimpleNamespace(id="sha256:" + FIRST, layers=[], config=config)
    cache.take_over(image, [])
    assert cache.find(FIRST) is not None
    assert cache.of("lab").all() == []


@pytest.mark.parametrize("owners", [("mallory", "victim"), ()])
def test_digests_of_a_shared_image_are_shown_as_its_names_are(engine: Engine, owners: tuple[str, ...]) -> None:
    world = World(engine)
    world.policy = Policy(admins=("root",), tenants=(Tenant("ops", ("root",), True),), _by_user={"root": "ops"})
    image = engine.images.index.get(world.add("victim").image)
    engine.images.index.tag(image, "mine:1")
    engine.images.index.remember_manifest(image, "docker.io/library/mine", b"{}")
    engine.images.index.remember_manifest(image, "docker.io/library/hidden", b"{ }")
    engine.finding.owners.set(Kind.TAG, "docker.io/library/mine:1", (Owner("mallory"),))
    engine.finding.owners.set(Kind.IMAGE, image.id, (Owner("victim"),))
    image = engine.images.index.get(image.id)

    def shown(user: str) -> list[str]:
        found = engine.finding.digests(image, engine.gate.sight(at_page(user)))
        return [text.partition("@")[0].rpartition("/")[2] for text in found]

    assert shown("victim") == ["hidden", "mine"]  # who has it alone
    engine.finding.owners.set(Kind.IMAGE, image.id, tuple(map(Owner, owners)))
    assert shown("mallory") == ["mine"]
    assert shown("root") == ["hidden", "mine"]
    row = run(_listed(world, "mallory"))
    assert [name.partition("@")[0] for each in row for name in each["RepoDigests"]] == ["mine"]
    assert run(_listed(world, "mallory", '{"reference": ["hidden"]}')) == []
    world.policy = None
    assert shown("mallory") == ["hidden", "mine"]


async def _listed(world: World, user: str, asked: str = "{}") -> Any:
    async with world.client() as client:
        answer = await client.get("/images/json", params={"filters": asked}, headers={"X-User": user})
        return await answer.json()


def test_a_volume_that_two_make_at_once_is_theirs(engine: Engine) -> None:
    """Though one of them fails before the other has made it."""
    World(engine).policy = Policy()
    owners, finding = engine.finding.owners, engine.finding

    async def both() -> None:
        failed = asyncio.Event()

        async def make() -> None:
            async with engine.volume_service.making(["v", "v"], Owner("mallory")):
                await failed.wait()
                assert owners.of(Kind.VOLUME, "v") == (Owner("mallory"),)
                engine.volumes.create("v", {}, {})

        async def fail() -> None:
            async with engine.volume_service.making(["v"], Owner("mallory")):
                raise BadRequest("no")

        work = asyncio.ensure_future(make())
        while not owners.of(Kind.VOLUME, "v"):
            await asyncio.sleep(0)
        with pytest.raises(BadRequest):
            await fail()
        failed.set()
        await work
        assert owners.of(Kind.VOLUME, "v") == (Owner("mallory"),)
        with pytest.raises(Conflict):
            finding.check_volume(VICTIM, "v", Verb.USE)
        engine.volumes.remove("v")
        owners.forget(Kind.VOLUME, "v")
        with pytest.raises(BadRequest):
            await fail()
        assert owners.of(Kind.VOLUME, "v") == ()

    run(both())


def test_a_volume_made_while_one_of_its_name_is_removed_is_its_makers(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was removed, and whose it was forgotten when there was the new one: that was everybody's. With both of them first."""
    World(engine).policy = Policy()
    owners, volumes = engine.owners, engine.volumes
    real, entered, go = volumes.remove, threading.Event(), threading.Event()

    def remove(name: str) -> None:
        real(name)
        entered.set()  # its directory is gone, and whose it was is known still
        assert go.wait(10)

    async def make() -> None:
        async with engine.volume_service.making(["v"], Owner("mallory")):
            await asyncio.to_thread(volumes.create, "v", {}, {})

    async def removed_first() -> None:
        await make()
        monkeypatch.setattr(volumes, "remove", remove)
        removing = asyncio.ensure_future(engine.volume_service.delete("v"))
        await asyncio.to_thread(entered.wait, 10)
        making = asyncio.ensure_future(make())
        for _ in range(20):  # as far as it gets now
            await asyncio.sleep(0)
        go.set()
        await asyncio.gather(removing, making)
        assert volumes.exists("v")
        assert owners.of(Kind.VOLUME, "v") == (Owner("mallory"),)

    async def made_first() -> None:
        monkeypatch.setattr(volumes, "remove", real)
        async with engine.volume_service.making(["v", "w"], Owner("mallory")):
            removing = asyncio.ensure_future(engine.volume_service.delete("v"))
            for _ in range(20):
                await asyncio.sleep(0)
            assert volumes.exists("v")  # whoever is about to use it finds it
        await removing
        assert not volumes.exists("v")
        assert owners.of(Kind.VOLUME, "v") == owners.of(Kind.VOLUME, "w") == ()

    run(removed_first())
    run(made_first())


def test_volumes_made_and_removed_by_many_at_once_have_their_owner(engine: Engine) -> None:
    """Two tenants who make and remove one name: what is there has an owner at every moment, and when it is over nothing else has."""
    World(engine).policy = Policy()
    owners, volumes = engine.owners, engine.volumes

    def seen() -> None:
        with volumes._lock:
            assert not volumes.exists("v") or owners.of(Kind.VOLUME, "v")

    async def make(who: Owner) -> None:
        for _ in range(ROUNDS):
            with contextlib.suppress(Conflict):
                async with engine.volume_service.making(["v"], who):
                    seen()
                    await asyncio.to_thread(volumes.create, "v", {}, {})
                    seen()

    async def remove() -> None:
        for _ in range(ROUNDS):
            seen()
            with contextlib.suppress(VolumeNotFound):
                await engine.volume_service.delete("v")
            seen()

    async def all_of_them() -> None:
        await asyncio.gather(make(Owner("mallory")), make(Owner("victim")), remove(), remove())
        seen()
        if not volumes.exists("v"):
            assert owners.of(Kind.VOLUME, "v") == ()

    run(all_of_them())


def test_a_taken_name_does_not_say_by_which_container_of_anothers(engine: Engine) -> None:
    world = World(engine)
    world.policy = Policy()
    taken = world.add("victim").container

    def complaint(who: Any, name: str) -> str:
        with pytest.raises(Conflict) as told, engine.names.claim(who, name, ""):
            pass
        return str(told.value)

    assert taken.id in complaint(VICTIM, taken.name)
    assert taken.id not in complaint(MALLORY, taken.name)
    with engine.names.claim(VICTIM, "soon", FIRST):
        assert FIRST not in complaint(MALLORY, "soon")
        world.policy = None
        assert FIRST in complaint(MALLORY, "soon")


@pytest.mark.parametrize(
    "option", ["bind", "rbind", "move", "remount", "nope", "source=x", "size", "mode=", "ro=1", "bind,ro"]
)
def test_tmpfs_options_that_it_has_not(option: str) -> None:
    with pytest.raises(BadRequest, match="invalid tmpfs option"):
        mounts.plan(Config(), HostConfig(tmpfs={"/x": f"rw,{option}"}))


@pytest.mark.parametrize("option", ["", "rw,noexec,nosuid,size=65536k", "mode=1777,uid=1,gid=2", "ro,noatime,nr_inodes=5,nr_blocks=9",
                                    "exec,dev,suid,rprivate,mpol=default"])  # fmt: skip
def test_tmpfs_options_that_it_has(option: str) -> None:
    assert mounts.plan(Config(), HostConfig(tmpfs={"/x": option}))[0].mount.mode == option


@pytest.mark.parametrize("kind", ["tmpfs", "proc", "sysfs", "mqueue", "devpts"])
@pytest.mark.parametrize("option", ["bind", "rbind"])
def test_a_file_system_of_its_own_is_no_bind_mount(kind: str, option: str) -> None:
    entry = {"destination": "/x", "type": kind, "source": kind, "options": ["ro", option]}
    with pytest.raises(RuntimeFailure, match="/x: a bind mount has the type bind"):
        attach(-1, entry, False, [])
    assert is_bind({**entry, "type": "none"})
    assert not is_bind({**entry, "options": ["ro"]})


@pytest.mark.parametrize(("name", "host"), [
    ("net.", {}), ("net..x", {}), ("net.ipv4..forward", {}), ("net/../kernel/core_pattern", {}), ("net.\0", {}), ("kernel.core_pattern", {}),
    ("fs.mqueue..", {}), ("user.max_user_namespaces", {}), ("net/ipv4/ip_forward", {"network_mode": "host"}),
    ("kernel.sem_next_id", {"ipc_mode": "host"}), ("kernel/hostname", {"uts_mode": "host"}),
])  # fmt: skip
def test_kernel_parameters_that_the_runtime_refuses(name: str, host: dict[str, str]) -> None:
    with pytest.raises(BadRequest, match="sysctl"):
        spec.sysctls(HostConfig(sysctls={name: "1"}, **host))
    assert spec.sysctls(HostConfig(sysctls={"net.ipv4.conf.eth0/1.rp_filter": "1", "kernel.msgmax": "1"}))
