"""Images that come for somebody are theirs before they are there, so that at no moment they are everybody's."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest

from sampan.engine.engine import Engine
from sampan.engine.errors import Forbidden
from sampan.engine.policy.caller import Owner, at_page
from sampan.engine.policy.model import Policy
from sampan.engine.policy.operation import Kind
from sampan.images.errors import ImageError
from tests.unit.gate_world import World
from tests.unit.test_gate import engine, run

__all__ = ["engine"]  # a fixture

TAG = "docker.io/library/tool:1"
MALLORY, VICTIM = at_page("mallory"), at_page("victim")


def _config(name: str) -> bytes:
    return json.dumps({"architecture": "amd64", "os": "linux", "config": {"Labels": {"name": name}},
                       "rootfs": {"type": "layers", "diff_ids": []}, "history": []}).encode()  # fmt: skip


def test_an_image_is_its_owners_while_more_of_its_archive_comes(engine: Engine) -> None:
    world = World(engine)
    world.policy = Policy()
    owners = engine.finding.owners

    async def bring() -> None:
        async with engine.arrivals.of(MALLORY) as coming:
            image = await asyncio.to_thread(engine.images.add, _config("a"), [], [TAG], check=coming.check)
            assert owners.of(Kind.IMAGE, image.id) == owners.of(Kind.TAG, TAG) == (Owner("mallory"),)
            assert engine.finding.images(VICTIM) == []
            async with engine.arrivals.of(MALLORY, brings=False) as naming:
                await asyncio.to_thread(engine.images.index.tag, image, "tool:2", naming.check)
                assert owners.of(Kind.TAG, TAG.replace(":1", ":2")) == (Owner("mallory"),)
        assert owners.of(Kind.IMAGE, image.id) == owners.of(Kind.TAG, TAG) == (Owner("mallory"),)

    run(bring())


def test_a_name_that_somebody_is_about_to_give_is_taken(engine: Engine) -> None:
    """Also when neither has given it yet; and a name that was not given in the end is free."""
    world = World(engine)
    world.policy = Policy()

    async def both() -> None:
        async def give(what: str) -> None:
            async with engine.arrivals.of(MALLORY) as coming:
                await asyncio.to_thread(engine.images.add, _config(what), [], [TAG], check=coming.check)

        with contextlib.suppress(ImageError):
            async with engine.arrivals.of(VICTIM) as first:
                await asyncio.to_thread(first.check, "sha256:" + "1" * 64, [TAG])
                with pytest.raises(Forbidden, match="about to be another tenant's"):
                    await give("b")
                raise ImageError("the archive ends in the middle")
        assert engine.finding.owners.of(Kind.TAG, TAG) == ()
        assert engine.finding.owners.of(Kind.IMAGE, "sha256:" + "1" * 64) == ()
        await give("b")

    run(both())


def test_who_has_gone_in_the_middle_still_owns_what_comes(engine: Engine) -> None:
    """The thread that brings an image is not ended by its client's leaving."""
    world = World(engine)
    world.policy = Policy()

    async def leave() -> None:
        go_on = asyncio.Event()

        async def bring() -> None:
            async with engine.arrivals.of(MALLORY) as coming:
                await asyncio.to_thread(coming.check, "sha256:" + "2" * 64, [TAG])
                go_on.set()
                await asyncio.Event().wait()

        work = asyncio.ensure_future(bring())
        await go_on.wait()
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        assert engine.finding.owners.of(Kind.TAG, TAG) == (Owner("mallory"),)
        assert engine.finding.owners.of(Kind.IMAGE, "sha256:" + "2" * 64) == (Owner("mallory"),)

    run(leave())
