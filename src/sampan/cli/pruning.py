"""The commands that remove what nobody uses. Every filter goes to the engine, which applies it or refuses it."""

from __future__ import annotations

from sampan.cli.arguments import confirmed, filters
from sampan.cli.flags import UsageError, Values
from sampan.cli.options import size
from sampan.cli.output import human
from sampan.cli.session import warn
from sampan.client.connection import engine
from sampan.client.http import APIError, Http, query

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def _freed(count: int) -> int:
    print(f"Total reclaimed space: {human(count, digits=4)}")
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


def _builds(http: Http, wanted: list[str], everything: bool, keep: int | None = None) -> tuple[int, list[str]]:
    """(bytes freed, keys of what is gone)."""
    asked = query(filters=filters(wanted), all=everything or None, **{"keep-storage": keep})
    answer = http.call("POST", f"/build/prune{asked}")
    return int(answer["SpaceReclaimed"]), answer["CachesDeleted"] or []


def containers(v: Values, names: list[str]) -> int:
    """container prune"""
    return _freed(_containers(engine(), v.items("filter"))) if confirmed("all stopped containers", v.on("force")) else 0


def networks(v: Values, names: list[str]) -> int:
    """network prune"""
    if confirmed("all custom networks not used by at least one container", v.on("force")):
        _networks(engine(), v.items("filter"))
    return 0


def volumes(v: Values, names: list[str]) -> int:
    """volume prune"""
    what = "all" if v.on("all") else "all anonymous"
    if not confirmed(f"{what} volumes not used by at least one container", v.on("force")):
        return 0
    return _freed(_volumes(engine(), v.items("filter"), v.on("all")))


def images(v: Values, names: list[str]) -> int:
    """image prune"""
    what = "all images without at least one container associated to them" if v.on("all") else "all dangling images"
    return _freed(_images(engine(), v.items("filter"), v.on("all"))) if confirmed(what, v.on("force")) else 0


def system(v: Values, names: list[str]) -> int:
    """system prune"""
    if v.on("volumes") and any(item.startswith("until=") for item in v.items("filter")):
        raise UsageError('the "until" filter is not supported with "--volumes"')
    if not confirmed(_everything(v), v.on("force")):
        return 0
    http, wanted = engine(), v.items("filter")
    freed = _containers(http, wanted)
    _networks(http, wanted)
    if v.on("volumes"):
        freed += _volumes(http, wanted, everything=False)
    freed += _images(http, wanted, v.on("all"))
    try:
        cache, keys = _builds(http, wanted, v.on("all"))
    except APIError as error:
        if error.status != 403:  # who may remove their own things, but not what all have built
            raise
        warn(f"the build cache stays: {error}")
        return _freed(freed)
    _listed("Deleted build cache objects:", keys)
    return _freed(freed + cache)


def _everything(v: Values) -> str:
    """What `system prune` removes, as Docker's asks for it."""
    rows = ["all stopped containers", "all networks not used by at least one container"]
    rows += ["all anonymous volumes not used by at least one container"] * v.on("volumes")
    rows += ["all images without at least one container associated to them", "all build cache"] if v.on("all") else [
        "all dangling images", "unused build cache"]  # fmt: skip
    return ":\n" + "".join(f"  - {row}\n" for row in rows)


def builder(v: Values, names: list[str]) -> int:
    """builder prune"""
    if not confirmed("all build cache" if v.on("all") else "all dangling build cache", v.on("force")):
        return 0
    keep = size(v.text("keep-storage"), "keep-storage") if v.text("keep-storage") else None
    freed, keys = _builds(engine(), v.items("filter"), v.on("all"), keep)
    for key in keys:
        print(key[:25])
    return _freed(freed)
