"""Removing images and volumes for somebody, and with them whose they were."""

from __future__ import annotations

from sampan.engine import pools
from sampan.engine.engine import Engine
from sampan.engine.policy.caller import Caller
from sampan.engine.policy.operation import Kind, Operation, Verb
from sampan.images.errors import ImageNotFound


async def image(engine: Engine, who: Caller, text: str, force: bool) -> list[dict[str, str]]:
    """Takes a name from an image, or deletes it; returns the API's rows. To delete an image one must own it, to take a name away
    the name. Raises ImageNotFound, ImageInUse, Forbidden.
    """
    owners, gate = engine.finding.owners, engine.gate
    found = engine.finding.image(who, text, Verb.SEE)
    name = engine.images.index.named(text)
    if name:
        gate.ask(who, Operation(Verb.WRITE, owners.subject(Kind.TAG, name)))
    if not name or found.tags == [name]:
        gate.ask(who, Operation(Verb.REMOVE, owners.subject(Kind.IMAGE, found.id)))
    whose = owners.of(Kind.IMAGE, found.id)
    rows = await pools.run("remove", engine.images.remove, text, force, engine.containers.image_user)
    for row in rows:
        action, what = ("untag", row["Untagged"]) if "Untagged" in row else ("delete", row["Deleted"])
        engine.events.publish("image", action, found.id, {"name": what}, whose)
    for tag in [name, *found.tags]:
        if tag and not engine.images.index.tagged(tag):
            owners.forget(Kind.TAG, tag)
    try:
        engine.images.index.get(found.id)
    except ImageNotFound:
        owners.forget(Kind.IMAGE, found.id)
    return rows


async def volume(engine: Engine, name: str) -> None:
    """Deletes a volume that nobody uses. Raises VolumeNotFound."""
    owners = engine.finding.owners
    async with engine.finding.removing_volume(name):
        whose = owners.of(Kind.VOLUME, name)
        await pools.run("remove", engine.volumes.remove, name)
        owners.forget(Kind.VOLUME, name)
    engine.events.publish("volume", "destroy", name, {"driver": "local"}, whose)
