"""Filters of containers: Docker's `ps` and `container prune`, and `isolation`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sampan.engine.container import Container
from sampan.engine.containers import Containers, Sees
from sampan.engine.filters import images, rules
from sampan.engine.filters.reading import Filters, invalid
from sampan.engine.filters.rules import Rule, Test
from sampan.engine.model import HealthStatus
from sampan.images.store import ImageStore
from sampan.network.model import Network
from sampan.network.networks import Networks

_STATES = ("created", "running", "paused", "restarting", "removing", "exited", "dead")
_HEALTH = ("starting", "healthy", "unhealthy", "none")


def labels_of(container: Container) -> Mapping[str, str] | None:
    """A container's labels."""
    found: Mapping[str, str] | None = container.config.labels
    return found


def _names(container: Container) -> Iterable[str]:
    return (f"/{container.name}", container.name)


def _volumes(container: Container) -> Iterable[str]:
    for row in container.mounts:
        yield from (row.name or row.source, row.destination)


def _exit_code(container: Container) -> int | None:
    ended = not container.running and bool(container.state.started_at)
    return container.state.exit_code if ended else None


def _health(container: Container) -> str:
    return container.health.status if container.health else HealthStatus.NONE


def _published(container: Container) -> Iterable[str]:
    return (f"{row.host_port}/{row.protocol}" for row in container.ports)


def _exposed(container: Container) -> Iterable[str]:
    yield from (f"{row.container_port}/{row.protocol}" for row in container.ports)
    for key in container.config.exposed_ports:
        yield key if "/" in key else f"{key}/tcp"


def _ports(key: str, values: list[str]) -> set[str]:
    """The ports of "80", "80/udp" and "8000-8080/tcp"."""
    found: set[str] = set()
    for value in values:
        numbers, _, protocol = value.partition("/")
        first, dash, last = numbers.partition("-")
        low = rules.whole(key, first) if first.isdecimal() else -1
        high = rules.whole(key, last) if dash and last.isdecimal() else -1 if dash else low
        if protocol.lower() not in ("", "tcp", "udp", "sctp") or not 0 <= low <= high <= 65535:
            raise invalid(key, value)
        found.update(f"{number}/{protocol.lower() or 'tcp'}" for number in range(low, high + 1))
    return found


def _networks(known: Networks) -> Rule[Container]:
    def rule(key: str, values: list[str]) -> Test[Container]:
        def on(container: Container, network: Network | None, value: str) -> bool:
            mode = container.host_config.network_mode
            names = set(container.networks) | ({mode} if mode in ("host", "none") else set())
            return value in names or (network is not None and network.name in names)

        # A network's id, or the beginning of one, means its name.
        pairs: list[tuple[Network | None, str]] = [(None, value) for value in values]
        pairs += [(n, v) for v in values for n in known.all.values() if v and n.id.startswith(v)]
        return lambda container: any(on(container, network, value) for network, value in pairs)

    return rule


def _edge(containers: Containers, sees: Sees, after: bool) -> Rule[Container]:
    """Made before, or after, each of the containers that the values name."""

    def rule(key: str, values: list[str]) -> Test[Container]:
        moments = [containers.find(value, sees).created for value in values]
        return (lambda c: c.created > max(moments)) if after else (lambda c: c.created < min(moments))

    return rule


def _ancestor(store: ImageStore) -> Rule[Container]:
    def rule(key: str, values: list[str]) -> Test[Container]:
        wanted = images.descendants(store.index, values)
        return lambda container: container.image in wanted

    return rule


def _isolation(key: str, values: list[str]) -> Test[Container]:
    known = {"container": "container", "default": "container", "process": "container", "vm": "vm", "machine": "machine"}
    for value in values:
        if value not in known:
            raise invalid(key, value)
    wanted = {known[value] for value in values}
    return lambda container: container.isolation in wanted


def is_container(container: Container) -> bool:
    """Whether lists have it that are not asked for system VMs (`--filter isolation=machine`). Docker's clients clean up by lists
    (`docker rm -f $(docker ps -aq)`, Testcontainers, Compose): with a container its writable layer goes, with a system VM its disk."""
    return container.isolation != "machine"


def listed(
    containers: Containers, networks: Networks, store: ImageStore, sees: Sees, wanted: Filters
) -> Test[Container]:
    """The test of a list's filters. Raises BadRequest; NotFound for a container that `before` or `since` names."""
    table: dict[str, Rule[Container]] = {
        "ancestor": _ancestor(store),
        "before": _edge(containers, sees, after=False),
        "exited": rules.number(_exit_code),
        "expose": rules.ignored,
        "health": rules.one_of(_HEALTH, _health),
        "id": rules.expressions(lambda container: (container.id,)),
        "is-task": rules.boolean(lambda container: False),
        "isolation": _isolation,
        "name": rules.expressions(_names),
        "network": _networks(networks),
        "publish": rules.ignored,
        "since": _edge(containers, sees, after=True),
        "status": rules.one_of(_STATES, lambda container: container.state.status),
        "volume": rules.exactly(_volumes),
        **rules.labels(labels_of),
    }
    test = rules.compile(table, wanted)
    published = _ports("publish", wanted.get("publish", []))
    exposed = _ports("expose", wanted.get("expose", []))
    if not published and not exposed:
        return test
    # Docker's: a port of either kind will do when both are asked for.
    return lambda c: test(c) and not (published.isdisjoint(_published(c)) and exposed.isdisjoint(_exposed(c)))


def select(
    seen: Iterable[Container], passes: Test[Container], wanted: Filters, everything: bool, limit: int | None
) -> list[Container]:
    """Those of a list, newest first, `limit` of them at most: without `everything`, a limit or a filter of states only such as run."""
    implied = everything or limit or wanted.get("status") or wanted.get("exited")
    rows = [
        container
        for container in seen
        if (wanted.get("isolation") or is_container(container))
        and (implied or container.running or container.state.restarting)
        and passes(container)
    ]
    rows.sort(key=lambda container: -container.created)
    return rows[:limit] if limit and limit > 0 else rows


_PRUNE: dict[str, Rule[Container]] = {
    "until": rules.until(lambda container: container.created),
    **rules.labels(labels_of),
}


def pruned(wanted: Filters) -> Test[Container]:
    """The test of a prune's filters. Raises BadRequest."""
    return rules.compile(_PRUNE, wanted)
