"""What somebody names, found for them: the only way from a name of a request to a thing. Who may not see it gets the answer of
one that there is not; who may not do with it what they want is told so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from sampan.engine.container import Container
from sampan.engine.containers import Containers, Sees
from sampan.engine.errors import BadRequest, Conflict, NotFound
from sampan.engine.owners import Owners
from sampan.engine.policy.caller import Caller, Owner
from sampan.engine.policy.gate import Gate, subject_of
from sampan.engine.policy.operation import Kind, Operation, Subject, Verb
from sampan.images.errors import ImageNotFound
from sampan.images.image import Image
from sampan.images.index import Index
from sampan.network.errors import NetworkNotFound
from sampan.network.model import Network
from sampan.network.networks import Networks
from sampan.oci import reference
from sampan.volumes.local import LocalVolumes, Volume, VolumeNotFound


class Exec(Protocol):
    """As much of an exec as is asked about."""

    @property
    def container(self) -> Container: ...

    @property
    def extra(self) -> tuple[str, ...]:
        """What it has beyond its container."""


class Finding:
    """Finds for an engine. `find_exec` finds an exec by its id."""

    def __init__(
        self,
        gate: Gate,
        owners: Owners,
        containers: Containers,
        find_exec: Callable[[str], Exec],
        images: Index,
        volumes: LocalVolumes,
        networks: Networks,
    ) -> None:
        self._gate, self.owners = gate, owners
        self._containers, self._find_exec = containers, find_exec
        self._images, self._volumes, self._networks = images, volumes, networks

    # containers and machines

    def sees(self, who: Caller) -> Sees:
        """Which containers and machines somebody sees."""
        sight = self._gate.sight(who)
        return lambda container: sight(subject_of(container))

    def containers(self, who: Caller) -> list[Container]:
        """All containers and machines that somebody sees."""
        return list(filter(self.sees(who), self._containers.values()))

    def container(self, who: Caller, text: str, verb: Verb, extra: tuple[str, ...] = ()) -> Container:
        """A container by id, name or unique prefix. Raises NotFound, BadRequest, Forbidden."""
        found = self._containers.find(text, self.sees(who))
        self._gate.ask_container(who, verb, found, extra)
        return found

    def machine(self, who: Caller, text: str, verb: Verb) -> Container:
        """A system machine. Raises NotFound, BadRequest, Forbidden."""
        known = self.machines(who)
        matches = [c for c in known if text in (c.name, c.id)] or [c for c in known if text and c.id.startswith(text)]
        if len(matches) > 1:
            raise BadRequest(f"Multiple IDs found with provided prefix: {text}")
        if not matches:
            raise NotFound(f"No such virtual machine: {text}")
        self._gate.ask_container(who, verb, matches[0])
        return matches[0]

    def machines(self, who: Caller) -> list[Container]:
        """All system machines that somebody sees, the newest first."""
        found = [container for container in self.containers(who) if container.isolation == "machine"]
        return sorted(found, key=lambda container: -container.created)

    def execution(self, who: Caller, identifier: str, verb: Verb) -> Exec:
        """An exec by its id, which goes with its container. Raises NotFound, Forbidden."""
        session = self._find_exec(identifier)
        whole = subject_of(session.container)
        subject = Subject(Kind.EXEC, identifier, whole.owners, whole.isolation)
        self._gate.ask(who, Operation(verb, subject, extra=session.extra))
        if verb == Verb.START:
            self._gate.ask_container(who, Verb.EXEC, session.container, session.extra)
        return session

    # images

    def image(self, who: Caller, text: str, verb: Verb, usable: bool = False) -> Image:
        """An image by name or id. Raises ImageNotFound, Forbidden; ImageError for a broken one when it is to be `usable`."""
        image = self._images.usable(text) if usable else self._images.find(text)
        name = self._images.named(text)
        try:
            self._gate.ask(who, Operation(verb, self.owners.subject(Kind.IMAGE, image.id)))
            if name:
                named = Verb.USE if verb == Verb.USE else Verb.SEE
                self._gate.ask(who, Operation(named, self.owners.subject(Kind.TAG, name)))
        except NotFound:
            raise ImageNotFound(f"No such image: {reference.with_tag(text)}") from None
        return image

    def images(self, who: Caller) -> list[Image]:
        """All images that somebody sees, by such names as they see."""
        sees = self._gate.sight(who)
        found = [image for image in self._images.all() if sees(self.owners.subject(Kind.IMAGE, image.id))]
        return [self.shown(image, sees) for image in found]

    def shown(self, image: Image, sees: Callable[[Subject], bool]) -> Image:
        """An image with such names as somebody sees."""
        image.tags = [tag for tag in image.tags if sees(self.owners.subject(Kind.TAG, tag))]
        return image

    def digests(self, image: Image, sees: Callable[[Subject], bool]) -> list[str]:
        """The "name@digest" forms of an image that somebody sees. Those have no owners: who does not see all who have the image
        sees such of them as go with a tag that they see."""
        found, owners = self._images.digests(image), self.owners.of(Kind.IMAGE, image.id) or (Owner("?"),)
        if all(sees(Subject(Kind.IMAGE, image.id, (owner,))) for owner in owners):
            return found
        names = {reference.parse(tag).name for tag in image.tags if sees(self.owners.subject(Kind.TAG, tag))}
        return [text for text in found if reference.parse(text).name in names]

    # volumes and networks

    def check_volume(self, who: Caller, name: str, verb: Verb) -> None:
        """Raises Forbidden, VolumeNotFound; Conflict for a name that is to be used and is another's, which can't be hidden."""
        subject = self.owners.subject(Kind.VOLUME, name)
        if verb in (Verb.SEE, Verb.REMOVE) and not subject.owners and not self._volumes.exists(name):
            return  # there is nothing to be asked about, as whoever looks for it will see
        try:
            self._gate.ask(who, Operation(verb, subject))
        except NotFound:
            if verb in (Verb.USE, Verb.CREATE):
                raise Conflict(f"the volume name {name} is taken by another tenant") from None
            raise VolumeNotFound(f"get {name}: no such volume") from None

    def network(self, who: Caller, text: str, verb: Verb) -> Network:
        """A network by name, id or prefix. Raises NetworkNotFound, NetworkError, Forbidden."""
        found = self._networks.find(text)
        try:
            self._gate.ask(who, Operation(verb, self.owners.subject(Kind.NETWORK, found.id)))
        except NotFound:
            raise NetworkNotFound(f"network {text} not found") from None
        return found

    def network_or_broken(self, who: Caller, text: str, verb: Verb) -> Network | None:
        """As network(); None for one whose record can't be read, to be removed by who administers the engine: whose it was is not known."""
        if verb == Verb.REMOVE and self._networks.find_broken(text) is not None:
            self._gate.ask_engine(who, Verb.ADMINISTER)
            return None
        return self.network(who, text, verb)

    def networks(self, who: Caller) -> list[Network]:
        """All networks that somebody sees."""
        sees = self._gate.sight(who)
        return [network for network in self._networks.all.values()
                if sees(self.owners.subject(Kind.NETWORK, network.id))]  # fmt: skip

    def volumes(self, who: Caller) -> list[Volume]:
        """All volumes that somebody sees."""
        sees = self._gate.sight(who)
        return [volume for volume in self._volumes.all() if sees(self.owners.subject(Kind.VOLUME, volume.name))]
