"""The commands that remove what nobody uses. Every filter goes to the engine, which applies it or refuses it."""

from __future__ import annotations

from typing import Any

from sampan.cli.arguments import confirmed, filters
from sampan.cli.flags import LIST, Flag, UsageError, parse
from sampan.cli.output import human
from sampan.client.connection import engine
from sampan.client.http import Http, query

_FORCE, _FILTER = Flag("force", "f"), Flag("filter", "", LIST)


def _freed(count: int) -> int:
    print(f"Total reclaimed space: {human(count)}")
    return 0


def _listed(title: str, names: list[str]) -> None:
    if names:
        print("\n".join([title, *names]), end="\n\n")


def _containers(http: Http, wanted: list[str]) -> int:
    answer = http.call("POST", "/containers/prune" + query(filters=filters(wanted)))
    _listed("Deleted Containers:", answer["ContainersDeleted"] or [])
    return int(answer["SpaceReclaimed"])


def _networks(http: Http, wanted: list[str]) -> None:
    answer = http.call("POST", "/networks/prune" + query(filters=filters(wanted)))
    _listed("Deleted Networks:", answer["NetworksDeleted"] or [])


def _volumes(http: Http, wanted: list[str], everything: bool) -> int:
    answer = http.call("POST", "/volumes/prune" + query(filters=filters([*wanted, *(["all=true"] * everything)])))
    _listed("Deleted Volumes:", answer["VolumesDeleted"] or [])
    return int(answer["SpaceReclaimed"])


def _images(http: Http, wanted: list[str], everything: bool) -> int:
    # A `dangling` that is asked for by a filter counts.
    chosen = [] if any(item.startswith("dangling=") for item in wanted) else [f"dangling={str(not everything).lower()}"]
    answer = http.call("POST", "/images/prune" + query(filters=filters([*wanted, *chosen])))
    rows: list[dict[str, Any]] = answer["ImagesDeleted"] or []
    _listed("Deleted Images:", [f"{key.lower()}: {name}" for row in rows for key, name in row.items()])
    return int(answer["SpaceReclaimed"])


def containers(args: list[str]) -> int:
    """container prune"""
    v, _ = parse([_FORCE, _FILTER], args)
    return _freed(_containers(engine(), v["filter"])) if confirmed("all stopped containers", v["force"]) else 0


def networks(args: list[str]) -> int:
    """network prune"""
    v, _ = parse([_FORCE, _FILTER], args)
    if confirmed("all custom networks not used by at least one container", v["force"]):
        _networks(engine(), v["filter"])
    return 0


def volumes(args: list[str]) -> int:
    """volume prune"""
    v, _ = parse([Flag("all", "a"), _FORCE, _FILTER], args)
    what = "all" if v["all"] else "all anonymous"
    if not confirmed(f"{what} volumes not used by at least one container", v["force"]):
        return 0
    return _freed(_volumes(engine(), v["filter"], v["all"]))


def images(args: list[str]) -> int:
    """image prune"""
    v, _ = parse([Flag("all", "a"), _FORCE, _FILTER], args)
    what = "all images without at least one container associated to them" if v["all"] else "all dangling images"
    return _freed(_images(engine(), v["filter"], v["all"])) if confirmed(what, v["force"]) else 0


def system(args: list[str]) -> int:
    """system prune"""
    v, _ = parse([Flag("all", "a"), _FORCE, Flag("volumes"), _FILTER], args)
    if v["volumes"] and any(item.startswith("until=") for item in v["filter"]):
        raise UsageError('the "until" filter is not supported with "--volumes"')
    if not confirmed("all stopped containers, unused networks and unused images", v["force"]):
        return 0
    http, wanted = engine(), v["filter"]
    freed = _containers(http, wanted)
    _networks(http, wanted)
    if v["volumes"]:
        freed += _volumes(http, wanted, everything=False)
    return _freed(freed + _images(http, wanted, v["all"]))
