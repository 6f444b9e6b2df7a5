"""images --tree: each image with the platforms that it is for below it."""

from __future__ import annotations

from sampan.cli.output import human, table
from sampan.client.connection import engine
from sampan.client.http import query

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def show(wanted: str | None, everything: bool) -> int:
    """Prints the images that pass the filters."""
    found = engine().call("GET", "/images/json" + query(filters=wanted, all=everything or None, manifests=True))
    rows = [["IMAGE", "ID", "DISK USAGE", "CONTENT SIZE", "IN USE"]]
    for image in sorted(found, key=lambda image: (image["RepoTags"] or ["<untagged>"])[0]):
        parts = image.get("Manifests") or []
        names = image["RepoTags"] or ["<untagged>"]
        total, content = (sum(part["Size"][key] for part in parts) for key in ("Total", "Content"))
        used = "U" if any(part["ImageData"]["Containers"] for part in parts) else ""
        rows += [[name, "", "", "", ""] for name in names[:-1]]
        rows.append([names[-1], image["Id"][7:19], human(total), human(content), used])
        rows += [_part(part, last=part is parts[-1]) for part in parts]
    table(rows)
    return 0


def _part(part: dict[str, Any], last: bool) -> list[str]:
    """The line of one platform."""
    data, size = part["ImageData"], part["Size"]
    platform = "/".join(data["Platform"][key] for key in ("os", "architecture", "variant") if data["Platform"].get(key))
    used = "U" if data["Containers"] else ""
    return [
        f"{'└─' if last else '├─'} {platform}",
        part["ID"][7:19],
        human(size["Total"]),
        human(size["Content"]),
        used,
    ]
