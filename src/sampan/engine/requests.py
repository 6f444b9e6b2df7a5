"""What a request for a container means: every name in it resolved, as facts that the gate decides on and values that are made."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from sampan.engine import image_config, mounts
from sampan.engine.container import Container
from sampan.engine.errors import BadRequest, NotFound
from sampan.engine.finding import Finding
from sampan.engine.model import Config, CreateRequest, EndpointSettings, HostConfig, MountType
from sampan.engine.network.networking import Networking
from sampan.engine.policy import facts as facts_of
from sampan.engine.policy.caller import Caller, Owner
from sampan.engine.policy.gate import Gate
from sampan.engine.policy.model import Facts
from sampan.engine.policy.operation import Verb
from sampan.images.image import Image
from sampan.network.errors import NetworkNotFound

replace = msgspec.structs.replace


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a container is to be, with every name in it resolved: what the gate decides on and what is made are these values."""

    config: Config
    host_config: HostConfig
    facts: Facts
    networks: dict[str, EndpointSettings]
    mounts: list[mounts.Planned]
    warnings: list[str]


class Requests:
    """Resolves requests of containers. `isolation`: of those that do not say: "", "vm" or "auto"."""

    def __init__(self, finding: Finding, gate: Gate, networking: Networking, isolation: str) -> None:
        self._finding, self._gate, self._networking, self.isolation = finding, gate, networking, isolation

    def normalise(self, who: Caller, request: CreateRequest, image: Image) -> Wanted:
        """Resolves what a request names: containers by the ids of such as the caller may share, networks by their names, mounts to
        what they show; and has the image fill in what it leaves out. Raises BadRequest, NotFound, Forbidden."""
        config = image_config.merged(request.config, image_config.read(image.config.execution))
        host, finding = request.host_config, self._finding
        lent = [text.partition(":") for text in host.volumes_from]
        lenders = [(self._other(who, name), mode) for name, _, mode in lent]
        own = [text for settings in request.endpoints.values() for text in settings.links]  # they hold on all networks
        links = [text.partition(":") for text in dict.fromkeys((*host.links, *own))]
        host = replace(
            host,
            pid_mode=self._shared(who, "PidMode", host.pid_mode),
            ipc_mode=self._shared(who, "IpcMode", host.ipc_mode),
            network_mode=self._shared(who, "NetworkMode", host.network_mode),
            links=tuple(f"{self._other(who, at).id}:{alias or at}" for at, _, alias in links),
        )
        try:
            mode, planned, warnings = self._networking.plan(who, host, request.endpoints, config.mac_address)
        except (NetworkNotFound, NotFound) as error:
            raise BadRequest(str(error)) from None
        host = replace(host, network_mode=mode)
        rows = mounts.plan(config, host, lenders)
        for row in rows:
            if row.mount.kind is MountType.VOLUME:
                finding.check_volume(who, row.mount.name, Verb.USE)
        labels = request.config.labels
        owner, names = Owner(who.user, facts_of.claim(labels)), self._gate.names(who, image)
        facts = facts_of.make(owner, image.id, names, self._gate.signers(image), labels, host, planned, [row.mount for row in rows],
                              facts_of.isolation(host, self.isolation))  # fmt: skip
        return Wanted(config, host, facts, planned, rows, warnings)

    def _shared(self, who: Caller, key: str, mode: str) -> str:
        """A namespace's mode, with a container by its id. Raises BadRequest, NotFound, Forbidden."""
        if mode.startswith("container:"):
            return f"container:{self._other(who, mode[10:]).id}"
        if key != "NetworkMode" and mode not in ("", "host", "private", "shareable", "none"):
            raise BadRequest(f"invalid {key}: {mode}")
        return mode

    def _other(self, who: Caller, name: str) -> Container:
        """A container that another has something of. That there is none is a fault of the request's: a client that gets 404 for
        what it wants to run pulls its image. Raises BadRequest, Forbidden."""
        try:
            return self._finding.container(who, name, Verb.SHARE)
        except NotFound as error:
            raise BadRequest(str(error)) from None

    def explained(self, who: Caller, request: CreateRequest, image: Image) -> Facts:
        """What would be decided on if somebody asked for this container; nothing is made. Raises what create raises."""
        return self.normalise(who, request, image).facts
