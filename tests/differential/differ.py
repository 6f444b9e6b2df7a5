"""What is different between two answers: (kind, where, theirs, ours)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tests.differential import normal
from tests.differential.sides import Answer

HEADERS = ("content-type", "location", "x-docker-container-path-stat")


@dataclass(frozen=True)
class Difference:
    """`kind`: status, head, missing, extra, type, value, message; of commands exit, out, err."""

    kind: str
    where: str
    theirs: str
    ours: str

    def __str__(self) -> str:
        return f"{self.kind} {self.where}: docker {self.theirs[:300]} / sampan {self.ours[:300]}"


def compare(theirs: Answer, ours: Answer, their_places: dict[str, str], our_places: dict[str, str]) -> list[Difference]:
    if theirs.command:
        return list(_commands(theirs, ours, their_places, our_places))
    found = []
    if theirs.status != ours.status:
        found.append(
            Difference(
                "status",
                f"{theirs.status} {ours.status}",
                f"{theirs.status} {theirs.body[:200]!r}",
                f"{ours.status} {ours.body[:200]!r}",
            )
        )
        return found
    for name in HEADERS:
        a, b = (one.head.get(name, "-").partition(";")[0] for one in (theirs, ours))
        if (name == "x-docker-container-path-stat") and "-" not in (a, b):
            a, b = _stat(a), _stat(b)
        if a != b:
            found.append(Difference("head", name, a, b))
    walk(normal.body(theirs, their_places), normal.body(ours, our_places), "", found)
    return found


def _stat(value: str) -> str:
    import base64

    stat = json.loads(base64.b64decode(value))
    stat.pop("mtime")
    return json.dumps(stat, sort_keys=True)


def _commands(theirs: Answer, ours: Answer, their_places: dict[str, str], our_places: dict[str, str]) -> Any:
    if theirs.status != ours.status:
        yield Difference(
            "exit",
            f"{theirs.status} {ours.status}",
            f"{theirs.status} {theirs.stderr[-200:]!r}",
            f"{ours.status} {ours.stderr[-200:]!r}",
        )
        return
    a, b = normal.lines(theirs.body, their_places), normal.lines(ours.body, our_places)
    if a != b:
        try:
            found: list[Difference] = []
            walk(json.loads("\n".join(a)), json.loads("\n".join(b)), "", found)
            yield from found
        except ValueError:
            line = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
            yield Difference("out", "", repr(a[line : line + 3]), repr(b[line : line + 3]))
    a, b = normal.lines(theirs.stderr, their_places)[:1], normal.lines(ours.stderr, our_places)[:1]
    if a != b:
        yield Difference("err", "", repr(a), repr(b))


def _order(items: list[Any]) -> list[Any]:
    """Lists of networks and volumes have no order."""
    if items and all(
        isinstance(item, dict) and ("Scope" in item or "Mountpoint" in item) and "Name" in item for item in items
    ):
        return sorted(items, key=lambda item: str(item["Name"]))
    return items


def walk(a: Any, b: Any, where: str, found: list[Difference]) -> None:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in a.keys() | b.keys():
            if key not in b:
                found.append(Difference("missing", f"{where}.{key}", json.dumps(a[key]), ""))
            elif key not in a:
                found.append(Difference("extra", f"{where}.{key}", "", json.dumps(b[key])))
            else:
                walk(a[key], b[key], f"{where}.{key}", found)
    elif isinstance(a, list) and isinstance(b, list):
        a, b = _order(a), _order(b)
        if len(a) != len(b) or not any(isinstance(item, dict | list) for item in a):
            if a != b:
                found.append(Difference("value", f"{where}[]", json.dumps(a), json.dumps(b)))
        else:
            for one, other in zip(a, b, strict=True):
                walk(one, other, f"{where}[]", found)
    elif type(a) is not type(b):
        found.append(Difference("type", where, json.dumps(a), json.dumps(b)))
    elif a != b:
        found.append(Difference("message" if where == ".message" else "value", where, json.dumps(a), json.dumps(b)))
