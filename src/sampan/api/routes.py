"""Every path of the API, who answers it, and what it asks of the gate: a route that does not say so can't be made."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

from sampan.api import (
    attach,
    builds,
    comparisons,
    containers,
    execs,
    images,
    machines,
    metrics,
    networks,
    policy,
    registries,
    swarm,
    system,
    system_vms,
    transfer,
    volumes,
    websockets,
)
from sampan.api.access import Ask, Asks, Public
from sampan.engine.policy.operation import Kind, Verb
from sampan.engine.policy.rules import RULES

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Route:
    """One of them."""

    method: str
    path: str
    handler: Handler
    asks: Asks

    def __post_init__(self) -> None:
        """Raises TypeError for what the gate could not be asked."""
        if isinstance(self.asks, Public) and self.asks.reason:
            return
        if not isinstance(self.asks, Ask) or (self.asks.kind, self.asks.verb) not in RULES:
            raise TypeError(f"{self.method} {self.path} asks nothing that the gate knows: {self.asks}")
        if bool(self.asks.parameter) == (self.asks.kind == Kind.ENGINE or self.asks.inside):
            raise TypeError(f"{self.method} {self.path} does not say where its {self.asks.kind.value} is named")


def _container(verb: Verb) -> Ask:
    return Ask(verb, Kind.CONTAINER, "id")


def _exec(verb: Verb) -> Ask:
    return Ask(verb, Kind.EXEC, "id")


def _machine(verb: Verb) -> Ask:
    return Ask(verb, Kind.MACHINE, "name")


def _image(verb: Verb) -> Ask:
    return Ask(verb, Kind.IMAGE, "name")


def _volume(verb: Verb) -> Ask:
    return Ask(verb, Kind.VOLUME, "name")


def _network(verb: Verb) -> Ask:
    return Ask(verb, Kind.NETWORK, "id")


def _inside(verb: Verb, kind: Kind) -> Ask:
    return Ask(verb, kind, inside=True)


_NO_SWARM = Public("there is no swarm, and it says so")
_NO_PLUGIN = Public("there are no plugins, and it says so")


def _of_swarm() -> list[Route]:
    """The paths of Docker's swarm mode."""
    no = swarm.no_manager
    found = [
        Route("POST", "/swarm/init", swarm.no_swarm, _NO_SWARM),
        Route("POST", "/swarm/join", swarm.no_swarm, _NO_SWARM),
        Route("POST", "/swarm/leave", swarm.leave, _NO_SWARM),
        Route("GET", "/swarm", no, _NO_SWARM),
        Route("GET", "/swarm/unlockkey", no, _NO_SWARM),
        Route("POST", "/swarm/update", no, _NO_SWARM),
        Route("POST", "/swarm/unlock", no, _NO_SWARM),
        Route("PUT", "/volumes/{name}", no, _NO_SWARM),  # of volumes of a cluster
    ]
    for kind in ("nodes", "services", "tasks", "secrets", "configs"):
        found += [Route("GET", f"/{kind}", no, _NO_SWARM), Route("GET", f"/{kind}/{{id}}", no, _NO_SWARM)]
        if kind in ("services", "tasks"):
            found.append(Route("GET", f"/{kind}/{{id}}/logs", no, _NO_SWARM))
        if kind in ("services", "secrets", "configs"):
            found.append(Route("POST", f"/{kind}/create", no, _NO_SWARM))
        if kind != "tasks":
            found.append(Route("DELETE", f"/{kind}/{{id}}", no, _NO_SWARM))
            found.append(Route("POST", f"/{kind}/{{id}}/update", no, _NO_SWARM))
    return found


def _of_plugins() -> list[Route]:
    """The paths of plugins that ask for one, or for more than a list."""
    one = [("GET", "json"), *(("POST", verb) for verb in ("enable", "disable", "push", "upgrade", "set"))]
    return [
        Route("GET", "/plugins/privileges", swarm.no_plugins, _NO_PLUGIN),
        Route("POST", "/plugins/pull", swarm.no_plugins, _NO_PLUGIN),
        Route("POST", "/plugins/create", swarm.no_plugins, _NO_PLUGIN),
        *(Route(method, f"/plugins/{{name:.+}}/{verb}", swarm.no_plugin, _NO_PLUGIN) for method, verb in one),
        Route("DELETE", "/plugins/{name:.+}", swarm.no_plugin, _NO_PLUGIN),
    ]


ROUTES = [
    Route("GET", "/_ping", system.ping, Public("it says nothing but that an engine is here")),
    Route("HEAD", "/_ping", system.ping, Public("it says nothing but that an engine is here")),
    Route("GET", "/version", system.version, Public("the same for every engine of this version")),
    Route("GET", "/info", system.info, Ask(Verb.INFORM)),
    Route("GET", "/plugins", system.plugins, Public("there are none")),
    Route("GET", "/events", system.events, Ask(Verb.INFORM)),
    Route("GET", "/metrics", metrics.metrics, Ask(Verb.INFORM)),
    Route("GET", "/system/df", system.disk_usage, Ask(Verb.LIST)),
    Route("POST", "/containers/create", containers.create, _inside(Verb.CREATE, Kind.CONTAINER)),
    Route("GET", "/containers/json", containers.list_, Ask(Verb.LIST)),
    Route("POST", "/containers/prune", containers.prune, Ask(Verb.PRUNE)),
    Route("GET", "/containers/{id}/json", containers.inspect, _container(Verb.SEE)),
    Route("POST", "/containers/{id}/start", containers.start, _container(Verb.START)),
    Route("POST", "/containers/{id}/stop", containers.stop, _container(Verb.CONTROL)),
    Route("POST", "/containers/{id}/restart", containers.restart, _container(Verb.CONTROL)),
    Route("POST", "/containers/{id}/kill", containers.kill, _container(Verb.CONTROL)),
    Route("POST", "/containers/{id}/pause", containers.pause, _container(Verb.CONTROL)),
    Route("POST", "/containers/{id}/unpause", containers.unpause, _container(Verb.CONTROL)),
    Route("POST", "/containers/{id}/wait", containers.wait, _container(Verb.SEE)),
    Route("POST", "/containers/{id}/rename", containers.rename, _container(Verb.RENAME)),
    Route("POST", "/containers/{id}/update", containers.update, _container(Verb.UPDATE)),
    Route("POST", "/containers/{id}/resize", containers.resize, _container(Verb.CONTROL)),
    Route("GET", "/containers/{id}/top", containers.top, _container(Verb.READ)),
    Route("GET", "/containers/{id}/stats", containers.stats_, _container(Verb.SEE)),
    Route("DELETE", "/containers/{id}", containers.remove, _container(Verb.REMOVE)),
    Route("POST", "/containers/{id}/attach", attach.attach, _container(Verb.ATTACH)),
    Route("GET", "/containers/{id}/attach/ws", websockets.attach_ws, _container(Verb.ATTACH)),
    Route("GET", "/containers/{id}/logs", attach.logs, _container(Verb.LOGS)),
    Route("POST", "/containers/{id}/exec", execs.create, _container(Verb.EXEC)),
    Route("POST", "/exec/{id}/start", execs.start, _exec(Verb.START)),
    Route("POST", "/exec/{id}/resize", execs.resize, _exec(Verb.CONTROL)),
    Route("POST", "/exec/{id}/kill", execs.kill, _exec(Verb.CONTROL)),
    Route("GET", "/exec/{id}/json", execs.inspect, _exec(Verb.SEE)),
    Route("HEAD", "/containers/{id}/archive", transfer.head_archive, _container(Verb.READ)),
    Route("GET", "/containers/{id}/archive", transfer.get_archive, _container(Verb.READ)),
    Route("PUT", "/containers/{id}/archive", transfer.put_archive, _container(Verb.WRITE)),
    Route("GET", "/containers/{id}/export", transfer.export, _container(Verb.READ)),
    Route("GET", "/containers/{id}/changes", transfer.changes, _container(Verb.READ)),
    Route("POST", "/commit", transfer.commit, _inside(Verb.COMMIT, Kind.CONTAINER)),
    Route("GET", "/images/json", images.list_, Ask(Verb.LIST)),
    Route("GET", "/images/get", images.save, _inside(Verb.SAVE, Kind.IMAGE)),
    Route("GET", "/images/search", registries.search, Ask(Verb.PULL)),
    Route("POST", "/images/load", images.load, Ask(Verb.LOAD)),
    Route("POST", "/images/create", images.create, Ask(Verb.PULL)),
    Route("POST", "/images/prune", images.prune, Ask(Verb.PRUNE)),
    Route("GET", "/images/{name:.+}/json", images.inspect, _image(Verb.SEE)),
    Route("GET", "/images/{name:.+}/history", images.history, _image(Verb.SEE)),
    Route("GET", "/images/{name:.+}/get", images.save, _image(Verb.SAVE)),
    Route("POST", "/images/{name:.+}/push", registries.push, _inside(Verb.PUSH, Kind.IMAGE)),
    Route("POST", "/images/{name:.+}/tag", images.tag, _image(Verb.TAG)),
    Route("POST", "/auth", registries.auth, Ask(Verb.PULL)),
    Route("GET", "/distribution/{name:.+}/json", registries.distribution, Ask(Verb.PULL)),
    Route("GET", "/sampan/manifests/{name:.+}", registries.manifest, Ask(Verb.PULL)),
    Route("PUT", "/sampan/manifests/{name:.+}", registries.put_manifest, Ask(Verb.PULL)),
    Route("DELETE", "/images/{name:.+}", images.remove, _inside(Verb.REMOVE, Kind.IMAGE)),
    Route("POST", "/sampan/bootstrap", images.make, Ask(Verb.BOOTSTRAP)),
    Route("POST", "/build", builds.build, Ask(Verb.BUILD)),
    Route("POST", "/build/prune", builds.prune, Ask(Verb.ADMINISTER)),
    Route("POST", "/grpc", builds.grpc, Ask(Verb.BUILD)),
    Route("POST", "/session", builds.session, Ask(Verb.BUILD)),
    Route("POST", "/sampan/build", builds.build_here, Ask(Verb.BUILD)),
    Route("GET", "/sampan/containers/{id}/footprint", containers.footprint, _container(Verb.SEE)),
    Route("GET", "/sampan/containers/{id}/terminal", websockets.terminal, _container(Verb.EXEC)),
    Route("GET", "/sampan/overview", system.overview_, Ask(Verb.LIST)),
    Route("GET", "/sampan/comparisons", comparisons.list_, Ask(Verb.COMPARE)),
    Route("POST", "/sampan/comparisons", comparisons.keep, Ask(Verb.COMPARE)),
    Route("GET", "/sampan/comparisons/{name}", comparisons.show, Ask(Verb.COMPARE)),
    Route("POST", "/sampan/compare", comparisons.measure, Ask(Verb.COMPARE)),
    Route("POST", "/sampan/policy/check", policy.check, Ask(Verb.ADMINISTER)),
    Route("POST", "/sampan/policy/explain", policy.explain, Ask(Verb.INFORM)),
    Route("POST", "/sampan/vm/prepare", machines.prepare, Ask(Verb.INFORM)),
    Route("POST", "/sampan/vm/create", system_vms.create, _inside(Verb.CREATE, Kind.MACHINE)),
    Route("GET", "/sampan/vm/export", system_vms.export, _inside(Verb.EXPORT, Kind.MACHINE)),
    Route("GET", "/sampan/vm/json", system_vms.list_, Ask(Verb.LIST)),
    Route("GET", "/sampan/vm/{name}/json", system_vms.inspect, _machine(Verb.SEE)),
    Route("POST", "/sampan/vm/{name}/start", system_vms.start, _machine(Verb.START)),
    Route("POST", "/sampan/vm/{name}/stop", system_vms.stop, _machine(Verb.CONTROL)),
    Route("POST", "/sampan/vm/{name}/{action:kill|pause|unpause|reset}", system_vms.act, _machine(Verb.CONTROL)),
    Route("POST", "/sampan/vm/{name}/snapshots/{snapshot}/{action}", system_vms.snapshot, _machine(Verb.SNAPSHOT)),
    Route("DELETE", "/sampan/vm/{name}", system_vms.remove, _machine(Verb.REMOVE)),
    Route("POST", "/volumes/create", volumes.create, _inside(Verb.CREATE, Kind.VOLUME)),
    Route("POST", "/volumes/prune", volumes.prune, Ask(Verb.PRUNE)),
    Route("GET", "/volumes", volumes.list_, Ask(Verb.LIST)),
    Route("GET", "/volumes/{name}", volumes.inspect, _volume(Verb.SEE)),
    Route("DELETE", "/volumes/{name}", volumes.remove, _volume(Verb.REMOVE)),
    Route("GET", "/networks", networks.list_, Ask(Verb.LIST)),
    Route("POST", "/networks/create", networks.create, _inside(Verb.CREATE, Kind.NETWORK)),
    Route("POST", "/networks/prune", networks.prune, Ask(Verb.PRUNE)),
    Route("GET", "/networks/{id}", networks.inspect, _network(Verb.SEE)),
    Route("DELETE", "/networks/{id}", networks.remove, _network(Verb.REMOVE)),
    Route("POST", "/networks/{id}/connect", networks.connect, _network(Verb.CONNECT)),
    Route("POST", "/networks/{id}/disconnect", networks.disconnect, _network(Verb.CONNECT)),
    Route("GET", "/containers/{id}/checkpoints", swarm.checkpoints, _container(Verb.SEE)),
    Route("POST", "/containers/{id}/checkpoints", swarm.checkpoints, _container(Verb.CONTROL)),
    Route("DELETE", "/containers/{id}/checkpoints/{checkpoint}", swarm.checkpoints, _container(Verb.CONTROL)),
    *_of_swarm(),
    *_of_plugins(),
]
