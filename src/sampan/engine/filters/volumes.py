"""Filters of volumes."""

from __future__ import annotations

from collections.abc import Callable

from sampan.engine.filters import rules
from sampan.engine.filters.reading import Filters
from sampan.engine.filters.rules import Rule, Test
from sampan.volumes.local import Volume


def listed(wanted: Filters, used: Callable[[str], bool]) -> Test[Volume]:
    """The test of a list's filters; `used` says whether a container has the volume of a name. Raises BadRequest."""
    table: dict[str, Rule[Volume]] = {
        "dangling": rules.boolean(lambda volume: not used(volume.name)),
        "driver": rules.exactly(lambda volume: ("local",)),
        "name": rules.expressions(lambda volume: (volume.name,)),
        **rules.labels(lambda volume: volume.labels),
    }
    return rules.compile(table, wanted)


def pruned(wanted: Filters) -> Test[Volume]:
    """The test of a prune's filters; anonymous ones only unless `all` is true. Raises BadRequest."""
    everything = bool(wanted.get("all")) and rules.boolean_of("all", wanted["all"])
    table: dict[str, Rule[Volume]] = {"all": rules.ignored, **rules.labels(lambda volume: volume.labels)}
    test = rules.compile(table, wanted)
    return lambda volume: (everything or volume.anonymous) and test(volume)
