"""Filters of networks."""

from __future__ import annotations

from collections.abc import Callable

from sampan.engine.filters import rules
from sampan.engine.filters.reading import Filters
from sampan.engine.filters.rules import Rule, Test
from sampan.network.model import Network


def listed(wanted: Filters, used: Callable[[Network], bool]) -> Test[Network]:
    """The test of a list's filters; `used` says whether a container is on it or will be. Raises BadRequest."""
    table: dict[str, Rule[Network]] = {
        "dangling": rules.boolean(lambda network: not network.predefined and not used(network)),
        "driver": rules.exactly(lambda network: (network.driver,)),
        "id": rules.expressions(lambda network: (network.id,)),
        "name": rules.expressions(lambda network: (network.name,)),
        "scope": rules.one_of(("local", "global", "swarm"), lambda network: "local"),
        "type": rules.one_of(("builtin", "custom"), lambda network: "builtin" if network.predefined else "custom"),
        **rules.labels(lambda network: network.labels),
    }
    return rules.compile(table, wanted)


_PRUNE: dict[str, Rule[Network]] = {
    "until": rules.until(lambda network: network.created),
    **rules.labels(lambda network: network.labels),
}


def pruned(wanted: Filters) -> Test[Network]:
    """The test of a prune's filters. Raises BadRequest."""
    return rules.compile(_PRUNE, wanted)
