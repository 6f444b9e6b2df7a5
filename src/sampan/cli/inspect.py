"""inspect, of all kinds of objects."""

from __future__ import annotations

import json

from sampan.cli.arguments import platform
from sampan.cli.flags import UsageError, Values
from sampan.cli.output import object_out
from sampan.cli.session import fail
from sampan.client.connection import engine
from sampan.client.http import APIError, at, query

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_PATHS = {
    "container": "/containers/{}/json",
    "image": "/images/{}/json",
    "volume": "/volumes/{}",
    "network": "/networks/{}",
}


def anything(v: Values, names: list[str]) -> int:
    """inspect: the first kind that has the name, or the one of --type."""
    kind = v.text("type")
    if kind and kind not in _PATHS:
        raise UsageError(f'unknown type: "{kind}": must be one of {", ".join(_PATHS)}', 1)
    return _show([kind] if kind else _PATHS, v, names, {"container": _size(v)})


def containers(v: Values, names: list[str]) -> int:
    """container inspect"""
    return _show(["container"], v, names, {"container": _size(v)})


def _size(v: Values) -> str:
    return "?size=1" if v.on("size") else ""


def images(v: Values, names: list[str]) -> int:
    """image inspect"""
    return _show(["image"], v, names, {"image": query(platform=platform(v.text("platform")))})


def networks(v: Values, names: list[str]) -> int:
    """network inspect"""
    return _show(["network"], v, names, {"network": query(verbose=v.on("verbose") or None)})


def volumes(v: Values, names: list[str]) -> int:
    """volume inspect"""
    return _show(["volume"], v, names, {})


def _show(kinds: Iterable[str], v: Values, names: list[str], queries: dict[str, str]) -> int:
    http, found, status = engine(), [], 0
    for name in names:
        for kind in kinds:
            try:
                found.append(http.call("GET", at(_PATHS[kind], name) + queries.get(kind, "")))
                break
            except APIError as error:
                if error.status != 404:
                    raise
        else:
            status = fail(APIError(404, f"no such object: {name}"), 1)
    form = v.text("format")
    if form in ("", "json"):
        indent, separators = (4, None) if not form else (None, (",", ":"))
        print(json.dumps(found, indent=indent, separators=separators, ensure_ascii=False))
        return status
    for item in found:
        status = object_out(item, form) or status
    return status
