"""Images that come, get a name, or go, for somebody: whether they may, and whose images and names are from then on.

Whose they are changes only while the store holds its lock on names (Index.changing), together with what is there: before it comes,
after it is gone. So nobody's coming meets another's going, and what is asked is asked of what is changed. A thread of the store's
does both, to its end, whoever has stopped waiting for it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from sampan.engine.errors import Forbidden, NotFound
from sampan.engine.events import Events
from sampan.engine.finding import Finding
from sampan.engine.owners import Owners
from sampan.engine.policy.caller import Caller, Owner
from sampan.engine.policy.gate import Gate
from sampan.engine.policy.operation import Kind, Operation, Verb
from sampan.engine.records import Records
from sampan.images.errors import ImageNotFound
from sampan.images.image import Image
from sampan.images.store import ImageStore
from sampan.oci import reference

_PATIENCE = 120.0  # seconds for the engine to note whose something is
_Key = tuple[Kind, str]


class Arrivals:
    """Makes arrivals: one for each pull, load, import, commit, build or tag; and departures."""

    def __init__(
        self, images: ImageStore, owners: Owners, finding: Finding, gate: Gate, records: Records, events: Events
    ) -> None:
        self.images, self.owners, self.finding, self.gate, self._events = images, owners, finding, gate, events
        self._records = records

    def of(self, who: Caller, brings: bool = True) -> Arrival:
        """Of an image that comes for somebody; without `brings` it is there already, and is only given a name."""
        return Arrival(self, who, brings)

    def leaving(self, who: Caller, text: str) -> Departure:
        """Of what somebody removes, as they call it."""
        return Departure(self, who, text)

    async def note(self, owners: dict[_Key, tuple[Owner, ...]]) -> None:
        """These are whose they are, on disk when this returns. Raises DiskError; then nothing has changed."""
        before = {key: self.owners.of(*key) for key in owners}
        try:
            for key, whose in owners.items():
                self.owners.set(*key, whose)
            if self.gate.active:
                await self._records.flush()
        except BaseException:
            await self.restore(before)
            raise

    async def restore(self, owners: dict[_Key, tuple[Owner, ...]]) -> None:
        """These are whose they were."""
        for key, whose in owners.items():
            self.owners.restore(*key, whose)

    def there(self, image_id: str) -> bool:
        """Whether there is an image of that id."""
        try:
            self.images.index.get(image_id)
        except ImageNotFound:
            return False
        return True

    def announce(self, action: str, image: Image, actor: str, name: str) -> None:
        """Publishes an image's event."""
        attributes = {**image.config.execution.labels, "name": name}
        self._events.publish("image", action, actor, attributes, self.owners.of(Kind.IMAGE, image.id))


class Arrival:
    """One pull, load, import, commit, build or tag."""

    def __init__(self, arrivals: Arrivals, who: Caller, brings: bool) -> None:
        self._all, self._who, self._brings = arrivals, who, brings
        self._run = _runner()

    @contextlib.contextmanager
    def check(self, image_id: str, tags: list[str]) -> Iterator[None]:
        """An index.Check: whether they may give these tags to the image, and so take them from another. What is new is theirs before
        it is there: else it would be everybody's, for a moment or, if the engine dies, for ever. Raises Forbidden, DiskError."""
        before = self._run(self._claim(image_id, tags))
        try:
            yield
        except BaseException:
            self._run(self._all.restore(before))
            raise

    async def _claim(self, image_id: str, tags: list[str]) -> dict[_Key, tuple[Owner, ...]]:
        """Whose all this was before."""
        owners, owner = self._all.owners, (self._who.owner,)
        wanted: dict[_Key, tuple[Owner, ...]] = {}
        for tag in tags:
            key, holder = (Kind.TAG, tag), self._all.images.index.tagged(tag)
            if holder not in ("", image_id):
                self._ask(tag)
            wanted[key] = _joined(owners.of(*key), owner) if holder == image_id else owner
        if self._brings:
            key = (Kind.IMAGE, image_id)
            wanted[key] = _joined(owners.of(*key), owner) if self._all.there(image_id) else owner
        before = {key: owners.of(*key) for key in wanted}
        await self._all.note(wanted)
        return before

    def _ask(self, tag: str) -> None:
        try:
            self._all.gate.ask(self._who, Operation(Verb.WRITE, self._all.owners.subject(Kind.TAG, tag)))
        except NotFound:
            name = reference.parse(tag).familiar
            raise Forbidden(f"denied by the isolation policy: the name {name} is another tenant's") from None

    def announce(self, action: str, image: Image, actor: str, name: str) -> None:
        """Publishes an image's event."""
        self._all.announce(action, image, actor, name)


class Departure:
    """One removal of a name or an image: which it was, and whose."""

    def __init__(self, arrivals: Arrivals, who: Caller, text: str) -> None:
        self._all, self._who, self._text = arrivals, who, text
        self._run = _runner()
        self.image = ""
        self.whose: tuple[Owner, ...] = ()

    @contextlib.contextmanager
    def check(self, image: Image) -> Iterator[None]:
        """A removal.RemovalCheck: to delete an image one must own it, to take a name away the name. What is gone is nobody's any more.
        Raises ImageNotFound, Forbidden."""
        self._run(self._ask(image))
        yield
        self._run(self._forget(image))

    async def _ask(self, image: Image) -> None:
        self._all.finding.image(self._who, self._text, Verb.SEE)
        name = self._all.images.index.named(self._text)
        if name:
            self._all.gate.ask(self._who, Operation(Verb.WRITE, self._all.owners.subject(Kind.TAG, name)))
        if not name or image.tags == [name]:
            self._all.gate.ask(self._who, Operation(Verb.REMOVE, self._all.owners.subject(Kind.IMAGE, image.id)))
        self.image, self.whose = image.id, self._all.owners.of(Kind.IMAGE, image.id)

    async def _forget(self, image: Image) -> None:
        for tag in image.tags:
            if not self._all.images.index.tagged(tag):
                self._all.owners.forget(Kind.TAG, tag)
        if not self._all.there(image.id):
            self._all.owners.forget(Kind.IMAGE, image.id)


def _joined(had: tuple[Owner, ...], owner: tuple[Owner]) -> tuple[Owner, ...]:
    """Whose it is when one more brings it: what is the engine's stays so."""
    return tuple(dict.fromkeys((*had, *owner))) if had else ()


def _runner() -> Callable[..., Any]:
    """Runs a coroutine on the engine's loop, for a thread that waits for it while it holds the store's lock."""
    loop = asyncio.get_running_loop()

    def run(work: Any) -> Any:
        future = asyncio.run_coroutine_threadsafe(work, loop)
        try:
            return future.result(_PATIENCE)
        except TimeoutError:
            future.cancel()
            raise

    return run
