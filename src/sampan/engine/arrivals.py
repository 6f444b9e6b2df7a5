"""Images that arrive, or get a name, for somebody: whether they may give them that name, and whose both are from then on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from sampan.engine.errors import Forbidden, NotFound
from sampan.engine.events import Events
from sampan.engine.owners import Owners
from sampan.engine.policy.caller import Caller
from sampan.engine.policy.gate import Gate
from sampan.engine.policy.operation import Kind, Operation, Verb
from sampan.engine.records import Records
from sampan.images.errors import ImageNotFound
from sampan.images.image import Image
from sampan.images.store import ImageStore
from sampan.oci import reference

_PATIENCE = 120.0  # seconds for the engine to note whose something is


class Arrivals:
    """Opens arrivals: one for each pull, load, import, commit, build or tag."""

    def __init__(self, images: ImageStore, owners: Owners, gate: Gate, records: Records, events: Events) -> None:
        self._images, self._owners, self._gate, self._records, self._events = images, owners, gate, records, events

    @contextlib.asynccontextmanager
    async def of(self, who: Caller, brings: bool = True) -> AsyncIterator[Arrival]:
        """While an image comes for somebody; without `brings` it is there already, and is only given a name."""
        found = Arrival(self._images, self._owners, self._gate, self._records, self._events, who, brings)
        try:
            yield found
        except (asyncio.CancelledError, GeneratorExit):
            await found.done(whole=False)
            raise
        except BaseException:
            await found.done(whole=True)
            raise
        await found.done(whole=True)


class Arrival:
    """One pull, load, import, commit, build or tag. `check` is for the store, which asks in whatever thread it works in."""

    def __init__(
        self,
        images: ImageStore,
        owners: Owners,
        gate: Gate,
        records: Records,
        events: Events,
        who: Caller,
        brings: bool,
    ) -> None:
        self._images, self._owners, self._gate, self._records, self._events = images, owners, gate, records, events
        self._who, self._brings = who, brings
        self._came: set[str] = set()  # ids of images that were not there before
        self._touched: dict[str, None] = {}  # ids of all
        self._named: dict[str, str] = {}  # tags that were no other image's, and the ids they get
        self._loop = asyncio.get_running_loop()
        self._claimed: set[tuple[Kind, str]] = set()  # what is theirs already, before it is there

    def check(self, image_id: str, tags: list[str]) -> None:
        """Whether they may give these tags to the image, and so take them from another. Raises Forbidden."""
        images, owners = self._images, self._owners
        for tag in tags:
            before = images.index.tagged(tag)
            if before and before != image_id:
                try:
                    self._gate.ask(self._who, Operation(Verb.WRITE, owners.subject(Kind.TAG, tag)))
                except NotFound:
                    name = reference.parse(tag).familiar
                    raise Forbidden(f"denied by the isolation policy: the name {name} is another tenant's") from None
            if before != image_id:
                self._named[tag] = image_id
            elif tag not in self._named and owners.of(Kind.TAG, tag):
                self._named[tag] = ""  # it has that name, of somebody's: now of one more's
        try:
            images.index.get(image_id)
        except ImageNotFound:
            self._came.add(image_id)
        self._touched[image_id] = None
        self._claim(image_id, tags)

    def _claim(self, image_id: str, tags: list[str]) -> None:
        """What is new is theirs before it is there: without an owner it would be everybody's, for a moment or, if the engine dies,
        for ever. The store's second question, within its lock, has nothing new. Raises Forbidden."""
        new = [(Kind.TAG, tag) for tag in tags if self._named.get(tag) == image_id]
        if image_id in self._came and self._brings:
            new.append((Kind.IMAGE, image_id))
        new = [key for key in new if key not in self._claimed]
        if not new:
            return
        try:
            asyncio.get_running_loop()
        except RuntimeError:  # a thread of the store's
            asyncio.run_coroutine_threadsafe(self._own(new), self._loop).result(_PATIENCE)
        else:
            self._own_now(new)

    async def _own(self, new: list[tuple[Kind, str]]) -> None:
        self._own_now(new)
        if self._gate.active:
            await self._records.flush()

    def _own_now(self, new: list[tuple[Kind, str]]) -> None:
        """On the engine's own thread."""
        owners, owner = self._owners, self._who.owner
        for kind, name in new:
            holder = owners.claims.setdefault((kind, name), owner) if kind == Kind.TAG else owner
            if holder != owner:
                shown = reference.parse(name).familiar
                raise Forbidden(f"denied by the isolation policy: the name {shown} is about to be another tenant's")
            self._claimed.add((kind, name))
            if kind == Kind.IMAGE:
                owners.add(kind, name, owner)
            elif not self._images.index.tagged(name):
                owners.set(kind, name, (owner,))

    async def done(self, whole: bool) -> None:
        """Notes whose is what has come, even if not all of it has; on the engine's own thread. What is theirs already and has not
        come is forgotten, if it was the `whole`: else a thread may still bring it. Raises DiskError."""
        images, owners, owner = self._images, self._owners, self._who.owner
        for image_id in self._touched if self._brings else ():
            try:
                images.index.get(image_id)
            except ImageNotFound:
                if whole and image_id in self._came:
                    owners.forget(Kind.IMAGE, image_id)
                continue
            if image_id in self._came or owners.of(Kind.IMAGE, image_id):
                owners.add(Kind.IMAGE, image_id, owner)
        for tag, image_id in self._named.items():
            now = images.index.tagged(tag)
            if not image_id:
                owners.add(Kind.TAG, tag, owner)
            elif now == image_id:
                owners.set(Kind.TAG, tag, (owner,))
            elif whole and not now and (Kind.TAG, tag) in self._claimed:
                owners.forget(Kind.TAG, tag)
        for key in self._claimed:
            owners.claims.pop(key, None)
        if self._gate.active:
            await self._records.flush()

    def announce(self, action: str, image: Image, actor: str, name: str) -> None:
        """Publishes an image's event."""
        owners = self._owners.of(Kind.IMAGE, image.id)
        self._events.publish("image", action, actor, {"name": name}, owners)
