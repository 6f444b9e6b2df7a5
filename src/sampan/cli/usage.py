"""system df: what takes room on the disk."""

from __future__ import annotations

from sampan.cli.flags import UsageError, Values
from sampan.cli.listing import size
from sampan.cli.output import Row, human, quoted, rows_out, since, table
from sampan.client.connection import engine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_COLUMNS = [
    ("TYPE", "Type"),
    ("TOTAL", "TotalCount"),
    ("ACTIVE", "Active"),
    ("SIZE", "Size"),
    ("RECLAIMABLE", "Reclaimable"),
]


def df(v: Values, names: list[str]) -> int:
    """system df"""
    if v.on("verbose") and v.text("format"):
        raise UsageError("the verbose listing has one form: --verbose and --format exclude each other", 1)
    found = engine().call("GET", "/system/df")
    if v.on("verbose"):
        _verbose(found)
        return 0
    return rows_out(_rows(found), _COLUMNS, v.text("format"))


def _rows(found: dict[str, Any]) -> list[Row]:
    images, containers, volumes = found["Images"] or [], found["Containers"] or [], found["Volumes"] or []
    builds = found.get("BuildCache") or []
    used = sum(
        row["Size"] - row["SharedSize"]
        for row in images
        if row["Containers"] and -1 not in (row["Size"], row["SharedSize"])
    )
    active = [row for row in containers if row["State"] in ("running", "paused", "restarting")]
    sizes = [(row["UsageData"]["RefCount"], max(row["UsageData"]["Size"], 0)) for row in volumes]
    return [
        _row("Images", len(images), sum(1 for row in images if row["Containers"]), found["LayersSize"], found["LayersSize"] - used),
        _row("Containers", len(containers), len(active), _written(containers), _written(containers) - _written(active)),
        _row("Local Volumes", len(volumes), sum(1 for count, _ in sizes if count), sum(size for _, size in sizes),
             sum(size for count, size in sizes if not count)),
        _row("Build Cache", len(builds), sum(1 for row in builds if row["InUse"]), _cached(builds),
             sum(row["Size"] for row in builds if not row["InUse"] and not row["Shared"]), percent=False),
    ]  # fmt: skip


def _cached(builds: list[dict[str, Any]]) -> int:
    """Bytes that only the build cache holds."""
    return sum(row["Size"] for row in builds if not row["Shared"])


def _written(containers: list[dict[str, Any]]) -> int:
    return sum(row.get("SizeRw") or 0 for row in containers)


def _row(kind: str, total: int, active: int, size: int, free: int, percent: bool = True) -> Row:
    part = f" ({free * 100 // size}%)" if percent and size > 0 else ""
    fields = {
        "Type": kind,
        "TotalCount": str(total),
        "Active": str(active),
        "Size": human(size, digits=4),
        "Reclaimable": f"{human(free, digits=4)}{part}",
    }
    return Row(fields, "*formatter.diskUsageContext")


def _verbose(found: dict[str, Any]) -> None:
    """Four tables: each image, container, volume and step of builds."""
    print("Images space usage:\n")
    rows = [["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE", "SHARED SIZE", "UNIQUE SIZE", "CONTAINERS"]]
    for row in found["Images"] or []:
        repository, _, tag = (row["RepoTags"] or ["<none>:<none>"])[0].rpartition(":")
        known = row["SharedSize"] != -1
        own = row["Size"] - row["SharedSize"]
        shares = [human(each, digits=4) if known else "N/A" for each in (row["SharedSize"], own)]
        rows.append(
            [
                repository,
                tag,
                row["Id"][7:19],
                since(row["Created"]),
                human(row["Size"]),
                *shares,
                str(row["Containers"]),
            ]
        )
    table(rows)
    print("\nContainers space usage:\n")
    rows = [["CONTAINER ID", "IMAGE", "COMMAND", "LOCAL VOLUMES", "SIZE", "CREATED", "STATUS", "NAMES"]]
    for row in found["Containers"] or []:
        volumes = sum(mount.get("Type") == "volume" for mount in row.get("Mounts") or [])
        command = row["Command"] if len(row["Command"]) <= 20 else row["Command"][:19] + "…"
        names = ",".join(name.removeprefix("/") for name in row["Names"])
        rows.append([row["Id"][:12], row["Image"], quoted(command), str(volumes), size({"SizeRw": row.get("SizeRw")}), since(row["Created"]), row["Status"], names])  # fmt: skip
    table(rows)
    print("\nLocal Volumes space usage:\n")
    usage = [(row["Name"], row["UsageData"]) for row in found["Volumes"] or []]
    table(
        [
            ["VOLUME NAME", "LINKS", "SIZE"],
            *([name, str(one["RefCount"]), human(max(one["Size"], 0), digits=4)] for name, one in usage),
        ]
    )
    import datetime  # of no other listing

    builds = found.get("BuildCache") or []
    print(f"\nBuild cache usage: {human(_cached(builds), digits=4)}\n")
    rows = [["CACHE ID", "CACHE TYPE", "SIZE", "CREATED", "LAST USED", "USAGE", "SHARED"]]
    for row in builds:
        rows.append([row["ID"][:12], row["Type"], human(row["Size"]), *(since(datetime.datetime.fromisoformat(row[key]).timestamp()) for key in ("CreatedAt", "LastUsedAt")), str(row["UsageCount"]), str(row["Shared"]).lower()])  # fmt: skip
    table(rows)
