"""An image that comes, or gets a name, for somebody: whether they may give it that name, and whose both are from then on."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from sampan.engine.errors import Forbidden, NotFound
from sampan.engine.policy.caller import Caller
from sampan.engine.policy.operation import Kind, Operation, Verb
from sampan.images.errors import ImageNotFound
from sampan.images.store import Image
from sampan.oci import reference

if TYPE_CHECKING:
    from sampan.engine.engine import Engine


class Bringing:
    """One pull, load, import, commit, build or tag. `check` is for the store, which asks in whatever thread it works in."""

    def __init__(self, engine: Engine, who: Caller, brings: bool) -> None:
        self._engine, self._who, self._brings = engine, who, brings
        self._came: set[str] = set()  # ids of images that were not there before
        self._touched: dict[str, None] = {}  # ids of all
        self._named: dict[str, str] = {}  # tags that were no other image's, and the ids they get

    def check(self, image_id: str, tags: list[str]) -> None:
        """Whether they may give these tags to the image, and so take them from another. Raises Forbidden."""
        images, owners = self._engine.images, self._engine.finding.owners
        for tag in tags:
            before = images.tagged(tag)
            if before and before != image_id:
                try:
                    self._engine.gate.ask(self._who, Operation(Verb.WRITE, owners.subject(Kind.TAG, tag)))
                except NotFound:
                    name = reference.parse(tag).familiar
                    raise Forbidden(f"denied by the isolation policy: the name {name} is another tenant's") from None
            if before != image_id:
                self._named[tag] = image_id
            elif tag not in self._named and owners.of(Kind.TAG, tag):
                self._named[tag] = ""  # it has that name, of somebody's: now of one more's
        try:
            images.get(image_id)
        except ImageNotFound:
            self._came.add(image_id)
        self._touched[image_id] = None

    async def done(self) -> None:
        """Notes whose is what has come, even if not all of it has; on the engine's own thread. Raises DiskError."""
        images, owners, owner = self._engine.images, self._engine.finding.owners, self._who.owner
        for image_id in self._touched if self._brings else ():
            with contextlib.suppress(ImageNotFound):
                images.get(image_id)
                if image_id in self._came or owners.of(Kind.IMAGE, image_id):
                    owners.add(Kind.IMAGE, image_id, owner)
        for tag, image_id in self._named.items():
            if not image_id:
                owners.add(Kind.TAG, tag, owner)
            elif images.tagged(tag) == image_id:
                owners.set(Kind.TAG, tag, (owner,))
        if self._engine.gate.active:
            await self._engine.store.flush()

    def announce(self, action: str, image: Image, actor: str, name: str) -> None:
        """Publishes an image's event."""
        owners = self._engine.finding.owners.of(Kind.IMAGE, image.id)
        self._engine.events.publish("image", action, actor, {"name": name}, owners)


@contextlib.asynccontextmanager
async def bringing(engine: Engine, who: Caller, brings: bool = True) -> AsyncIterator[Bringing]:
    """While an image comes for somebody; without `brings` it is there already, and is only given a name."""
    found = Bringing(engine, who, brings)
    try:
        yield found
    finally:
        await found.done()
