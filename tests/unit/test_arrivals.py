"""Whose images and names are, whatever comes, goes and is given up at once: at no moment everybody's, and never another's."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sampan.engine.engine import Engine
from sampan.engine.errors import EngineError, Forbidden
from sampan.engine.policy.caller import Caller, Owner, at_page
from sampan.engine.policy.model import Policy
from sampan.engine.policy.operation import Kind, Verb
from sampan.images.errors import ImageError, ImageNotFound
from tests.support.effort import tries
from tests.support.engines import engine as engine
from tests.support.engines import run
from tests.unit.gate_world import World

__all__ = ["engine"]  # a fixture

TAG = "docker.io/library/tool:1"
MALLORY, VICTIM = at_page("mallory"), at_page("victim")


def _config(name: str) -> bytes:
    return json.dumps({"architecture": "amd64", "os": "linux", "config": {"Labels": {"name": name}},
                       "rootfs": {"type": "layers", "diff_ids": []}, "history": []}).encode()  # fmt: skip


def _id(name: str) -> str:
    return f"sha256:{hashlib.sha256(_config(name)).hexdigest()}"


def _named(tag: str) -> str:
    return f"docker.io/library/{tag}"


async def _bring(engine: Engine, who: Caller, what: str, *tags: str) -> None:
    check = engine.arrivals.of(who).check
    await asyncio.to_thread(engine.images.add, _config(what), [], [_named(tag) for tag in tags], check=check)


def test_an_image_is_its_owners_before_it_is_there(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(engine)
    world.policy = Policy()
    owners, change = engine.finding.owners, engine.images.index._database.change
    seen: list[Any] = []

    def changing(*statements: Any, **more: Any) -> None:
        seen.append((owners.of(Kind.IMAGE, _id("a")), owners.of(Kind.TAG, TAG)))
        change(*statements, **more)
        seen.append((owners.of(Kind.IMAGE, _id("a")), owners.of(Kind.TAG, TAG)))

    monkeypatch.setattr(engine.images.index._database, "change", changing)
    run(_bring(engine, MALLORY, "a", "tool:1"))
    assert seen == [((Owner("mallory"),), (Owner("mallory"),))] * 2
    assert engine.finding.images(VICTIM) == []
    run(engine.image_service.remove(MALLORY, "tool:1", False))
    assert seen[:4] == [((Owner("mallory"),), (Owner("mallory"),))] * 4, "and until it is gone"
    assert owners.of(Kind.IMAGE, _id("a")) == owners.of(Kind.TAG, TAG) == ()


def test_what_does_not_come_is_nobody_s(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what was somebody's before is so again."""
    world = World(engine)
    world.policy = Policy()
    owners = engine.finding.owners
    run(_bring(engine, MALLORY, "shared", "tool:2"))

    def full(*_: Any, **__: Any) -> None:
        raise ImageError("no space left on device")

    monkeypatch.setattr(engine.images.index._database, "change", full)
    for what, tag in (("a", "tool:1"), ("shared", "tool:3")):
        with pytest.raises(ImageError):
            run(_bring(engine, VICTIM, what, tag))
        assert owners.of(Kind.TAG, _named(tag)) == ()
    assert owners.of(Kind.IMAGE, _id("a")) == ()
    assert owners.of(Kind.IMAGE, _id("shared")) == owners.of(Kind.TAG, _named("tool:2")) == (Owner("mallory"),)


def test_who_has_gone_in_the_middle_still_owns_what_comes(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that brings an image is not ended by its client's leaving; nobody else gets the name meanwhile."""
    world = World(engine)
    world.policy = Policy()
    add = engine.images.index.enter

    async def leave() -> None:
        there, go_on = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def enter(*parts: Any) -> None:
            loop.call_soon_threadsafe(there.set)
            asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(10)
            add(*parts)

        monkeypatch.setattr(engine.images.index, "enter", enter)
        work = asyncio.ensure_future(_bring(engine, MALLORY, "a", "tool:1"))
        await there.wait()
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        monkeypatch.setattr(engine.images.index, "enter", add)
        go_on.set()
        while engine.images.index.tagged(TAG) != _id("a"):
            await asyncio.sleep(0.01)
        assert engine.finding.owners.of(Kind.TAG, TAG) == (Owner("mallory"),)
        with pytest.raises(Forbidden, match="another tenant's"):
            await _bring(engine, VICTIM, "b", "tool:1")

    run(leave())


def test_a_name_that_has_become_another_s_is_not_removed(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """`rmi x:1` beside its removal and another tenant's `tag X x:1`: it was theirs when they were asked first."""
    world = World(engine)
    world.policy = Policy()
    remove = engine.images.remove

    async def race() -> None:
        await _bring(engine, MALLORY, "a", "tool:1", "tool:2")
        await _bring(engine, VICTIM, "b", "other:1")
        loop = asyncio.get_running_loop()

        def late(*parts: Any) -> Any:
            monkeypatch.setattr(engine.images, "remove", remove)
            asyncio.run_coroutine_threadsafe(meanwhile(), loop).result(10)
            return remove(*parts)

        async def meanwhile() -> None:
            await engine.image_service.remove(MALLORY, "tool:1", False)
            await engine.image_service.tag(VICTIM, engine.images.index.find("other:1"), "tool:1")

        monkeypatch.setattr(engine.images, "remove", late)
        with pytest.raises((EngineError, ImageNotFound)):
            await engine.image_service.remove(MALLORY, "tool:1", False)
        assert engine.images.index.tagged(TAG) == _id("b")
        assert engine.finding.owners.of(Kind.TAG, TAG) == (Owner("victim"),)

    run(race())


_WHO = {"mallory": MALLORY, "victim": VICTIM}
_NAMES, _CONTENTS = ("tool:1", "tool:2"), ("a", "b")
_DO = st.tuples(st.sampled_from(["bring", "tag", "remove", "delete"]), st.sampled_from(list(_WHO)), st.sampled_from(_CONTENTS),
                st.sampled_from(_NAMES), st.sampled_from(["waits", "waits", "leaves"]))  # fmt: skip


_MANY = st.lists(_DO, min_size=4, max_size=7)
_OF_ONE = st.tuples(st.sampled_from(list(_WHO)), _MANY).map(
    lambda both: [(verb, both[0], what, name, "waits") for verb, _, what, name, _ in both[1]]
)


def _counted(method: Any, inside: list[int]) -> Any:
    def counting(*parts: Any, **more: Any) -> Any:
        inside.append(1)
        try:
            return method(*parts, **more)
        finally:
            inside.pop()

    return counting


def test_whatever_happens_at_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Operations of two tenants on the same names and contents, several at a time, some given up in the middle."""
    world = World(engine)
    world.policy = Policy()
    owners, index = engine.finding.owners, engine.images.index
    begun: set[tuple[str, str]] = set()  # (who, name or image) that they ever asked to have

    inside: list[int] = []  # a member for each thread of the store's
    for place, method in ((engine.images, "add"), (engine.images, "remove"), (index, "tag")):
        monkeypatch.setattr(place, method, _counted(getattr(place, method), inside))

    async def one(verb: str, user: str, what: str, name: str, stays: str) -> None:
        who = _WHO[user]

        async def work() -> None:
            if verb == "bring":
                begun.update({(user, _named(name)), (user, _id(what))})
                await _bring(engine, who, what, name)
            elif verb == "tag":
                begun.add((user, _named(name)))
                await engine.image_service.tag(who, engine.finding.image(who, _id(what), Verb.SEE), name)
            else:
                await engine.image_service.remove(who, name if verb == "remove" else _id(what), True)

        task = asyncio.ensure_future(work())
        if stays == "leaves":
            for _ in range(random.randrange(4)):
                await asyncio.sleep(0)
            task.cancel()
        with contextlib.suppress(EngineError, ImageError, asyncio.CancelledError):
            await task

    def check() -> dict[str, tuple[str, tuple[Owner, ...]]]:
        """What is there is somebody's who asked for it. What there is is asked first: on the loop nothing comes in between."""
        found = {}
        tags = {_named(name): index.tagged(_named(name)) for name in _NAMES}
        for key, image in [
            *tags.items(),
            *((_id(what), _id(what)) for what in _CONTENTS if engine.arrivals.there(_id(what))),
        ]:
            whose = owners.of(Kind.IMAGE if key == image else Kind.TAG, key)
            if image:
                assert whose, f"{key} is everybody's"
                assert all((owner.user, key) in begun for owner in whose), f"{key} is {whose}"
                found[key] = (image, whose)
        return found

    async def all_of(batches: list[list[tuple[str, str, str, str, str]]]) -> None:
        done = False

        async def watch() -> None:
            while not done:
                check()
                await asyncio.sleep(0)

        for batch in batches:
            before, done = check(), False
            watching = asyncio.ensure_future(watch())
            await asyncio.gather(*(one(*row) for row in batch))
            await asyncio.sleep(0.005)
            while inside:  # threads of those who have left
                await asyncio.sleep(0.001)
            done = True
            await watching
            after = check()
            users = {Owner(user) for _, user, *_ in batch}
            for key, (image, whose) in before.items():
                if not users.intersection(whose):
                    assert after[key][0] == image, f"{key} was of {whose}, who did nothing"
                    assert set(whose) <= set(after[key][1])
        for name in _NAMES:
            assert index.tagged(_named(name)) or not owners.of(Kind.TAG, _named(name))
        for what in _CONTENTS:
            assert engine.arrivals.there(_id(what)) or not owners.of(Kind.IMAGE, _id(what))

    @settings(max_examples=tries(8, 60), deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(_MANY | _OF_ONE, min_size=4, max_size=6))
    def property_(batches: list[list[tuple[str, str, str, str, str]]]) -> None:
        async def whole() -> None:
            try:
                await all_of(batches)
            finally:  # the next begins with nothing
                for what in _CONTENTS:
                    with contextlib.suppress(ImageError):
                        await asyncio.to_thread(engine.images.remove, _id(what), True)
                    owners.forget(Kind.IMAGE, _id(what))
                for name in _NAMES:
                    owners.forget(Kind.TAG, _named(name))
                begun.clear()

        run(whole())

    property_()
