"""Filters of events."""

from __future__ import annotations

from collections.abc import Iterable

from sampan.engine.events import Event
from sampan.engine.filters import rules
from sampan.engine.filters.reading import Filters
from sampan.engine.filters.rules import Rule, Test


def _attributes(event: Event) -> dict[str, str]:
    found: dict[str, str] = event["Actor"]["Attributes"]
    return found


def _of(kind: str) -> Rule[Event]:
    """Events of one kind of object, by the beginning of its id or name."""

    def rule(key: str, values: list[str]) -> Test[Event]:
        test = rules.starts(_names)(key, values)
        return lambda event: event["Type"] == kind and test(event)

    return rule


def _names(event: Event) -> Iterable[str]:
    return (event["Actor"]["ID"], _attributes(event).get("name", ""))


def _actions(key: str, values: list[str]) -> Test[Event]:
    """An action, or what stands before its colon ("health_status", "exec_start")."""
    prefixes = tuple(f"{value}:" for value in values)
    return lambda event: event["Action"] in values or event["Action"].startswith(prefixes)


def _image(event: Event) -> Iterable[str]:
    """An image's own events, and those of containers made from it; with the tag and without."""
    name = _attributes(event).get("name" if event["Type"] == "image" else "image", "")
    for text in (event["Actor"]["ID"], name):
        yield text
        repository, colon, tag = text.rpartition(":")
        if colon and "/" not in tag:
            yield repository


TABLE: dict[str, Rule[Event]] = {
    "action": _actions,
    "event": _actions,
    "container": _of("container"),
    "daemon": _of("daemon"),
    "image": rules.exactly(_image),
    "machine": _of("machine"),
    "network": _of("network"),
    "policy": _of("policy"),
    "volume": _of("volume"),
    "scope": rules.exactly(lambda event: (event["scope"],)),
    "type": rules.exactly(lambda event: (event["Type"],)),
    **dict.fromkeys(("config", "node", "plugin", "secret", "service"), rules.nothing),
    **rules.labels(_attributes),
}


def wanted(filters: Filters) -> Test[Event]:
    """The test of the filters of GET /events. Raises BadRequest."""
    return rules.compile(TABLE, filters)
