"""Volumes for somebody: made, removed, and who uses them. A volume is its maker's before it is there, and no one is made while one
of its name is removed: it would be nobody's, and so everybody's."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import Counter
from collections.abc import AsyncIterator, Iterable

from sampan.engine import pools
from sampan.engine.container import Container
from sampan.engine.containers import Containers
from sampan.engine.errors import Conflict
from sampan.engine.events import Events
from sampan.engine.finding import Finding
from sampan.engine.owners import Owners
from sampan.engine.policy.caller import Caller, Owner
from sampan.engine.policy.gate import Gate
from sampan.engine.policy.operation import Kind, Verb
from sampan.engine.records import Records
from sampan.volumes.local import LocalVolumes, Volume, VolumeError, VolumeNotFound


class VolumeService:
    """What is done with the local volumes of an engine."""

    def __init__(
        self,
        volumes: LocalVolumes,
        containers: Containers,
        owners: Owners,
        gate: Gate,
        finding: Finding,
        records: Records,
        events: Events,
    ) -> None:
        self._volumes, self._containers, self._owners, self._gate = volumes, containers, owners, gate
        self._finding, self._records, self._events = finding, records, events
        self._making: Counter[str] = Counter()  # volumes that somebody is about to make, or to use
        self._removing: set[str] = set()  # volumes that somebody removes
        self._changed = asyncio.Condition()  # one of the two has become less

    def users(self, name: str, among: Iterable[Container] | None = None) -> list[str]:
        """The ids of the containers, of these or of all, that have a volume."""
        known = self._containers.values() if among is None else among
        return [c.id for c in known if any(row.name == name for row in c.mounts)]

    async def create(
        self, who: Caller, name: str, labels: dict[str, str], options: dict[str, str], anonymous: bool
    ) -> Volume:
        """Makes one, or finds the one that there is with these options. Raises VolumeError, VolumeConflict, Conflict, Forbidden."""
        self._finding.check_volume(who, name, Verb.CREATE)
        if options.get("device", "").startswith("/"):
            await asyncio.to_thread(
                lambda: self._gate.may_have(who, os.path.realpath(options["device"]), options["device"])
            )
        async with self.making([name], who.owner):
            volume = await asyncio.to_thread(self._volumes.create, name, labels, options, anonymous)
        self._announce("create", name, (who.owner,))
        return volume

    async def remove(self, who: Caller, name: str) -> None:
        """Deletes a volume. Raises Conflict when a container has it, naming those that are seen; VolumeNotFound."""
        if self.users(name):
            shown = self.users(name, self._finding.containers(who))
            raise Conflict(f"remove {name}: volume is in use - [{', '.join(shown)}]")
        await self.delete(name)

    async def delete(self, name: str) -> None:
        """Deletes a volume that no container has. Raises VolumeNotFound."""
        async with self._taking_away(name):
            whose = self._owners.of(Kind.VOLUME, name)
            await pools.run("remove", self._volumes.remove, name)
            self._owners.forget(Kind.VOLUME, name)
        self._announce("destroy", name, whose)

    def was_not_there(self, who: Caller, name: str) -> None:
        """Says that one is gone which there was not, as `rm --force` does."""
        self._announce("destroy", name, (who.owner,))

    def _announce(self, action: str, name: str, owners: tuple[Owner, ...]) -> None:
        self._events.publish("volume", action, name, {"driver": "local"}, owners)

    @contextlib.asynccontextmanager
    async def making(self, names: list[str], owner: Owner) -> AsyncIterator[None]:
        """While volumes are made, or used if they are there; none of them is removed meanwhile. A new one is its maker's before it is
        there; whose those are that were not made is forgotten by the last of all who were about to make them. Raises DiskError, Conflict.
        """
        before = {name: self._owners.of(Kind.VOLUME, name) for name in names}
        async with self._changed:  # all at once: who waits has none that another waits for
            await self._changed.wait_for(lambda: self._removing.isdisjoint(names))
            for name in names:
                if self._owners.of(Kind.VOLUME, name) not in (before[name], (), (owner,)):
                    raise Conflict(f"the volume name {name} is taken by another tenant")
            self._making.update(names)
        whole = True  # whether nobody can make them any more
        try:
            for name in names:
                if not self._owners.of(Kind.VOLUME, name) and not self._volumes.exists(name):
                    self._owners.set(Kind.VOLUME, name, (owner,))
            if names and self._gate.active:
                await self._records.flush()  # without a record of it on disk they would be everybody's
            yield
        except (asyncio.CancelledError, GeneratorExit):
            whole = False
            raise
        finally:
            for name in names:
                self._making[name] -= 1
                if not self._making[name]:
                    del self._making[name]
                    if whole and not self._volumes.exists(name):
                        self._owners.forget(Kind.VOLUME, name)
            async with self._changed:
                self._changed.notify_all()

    @contextlib.asynccontextmanager
    async def _taking_away(self, name: str) -> AsyncIterator[None]:
        """While a volume is removed, and whose it was is forgotten: nobody makes one of that name meanwhile, which would be nobody's.
        Raises VolumeNotFound when it has become another's before it was our turn.
        """
        before = self._owners.of(Kind.VOLUME, name)
        async with self._changed:
            await self._changed.wait_for(lambda: not self.is_wanted(name) and name not in self._removing)
            if self._owners.of(Kind.VOLUME, name) != before:
                raise VolumeNotFound(f"get {name}: no such volume")
            self._removing.add(name)
        try:
            yield
        finally:
            self._removing.discard(name)
            async with self._changed:
                self._changed.notify_all()

    def is_wanted(self, name: str) -> bool:
        """Whether somebody is about to make this volume, or to use it."""
        return self._making[name] > 0

    def delete_anonymous(self, container: Container) -> None:
        """Deletes the anonymous volumes of a container that is gone, which no other has. Blocks."""
        used = {row.name for other in self._containers.values() for row in other.mounts}
        for row in container.mounts:
            name = row.name
            with contextlib.suppress(VolumeError, VolumeNotFound):  # somebody else was first
                if name and name not in used and not self.is_wanted(name) and self._volumes.get(name).anonymous:
                    self._volumes.remove(name)
                    self._owners.forget(Kind.VOLUME, name)
