"""The commands on volumes."""

from __future__ import annotations

from sampan.cli.arguments import each, filters
from sampan.cli.flags import Values
from sampan.cli.options import pairs
from sampan.cli.output import Row, human, rows_out
from sampan.client.connection import engine
from sampan.client.http import Http, at, query

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


@each
def rm(http: Http, name: str, v: Values) -> None:
    """volume rm"""
    http.call("DELETE", at("/volumes/{}", name) + query(force=v.on("force")))


def create(v: Values, names: list[str]) -> int:
    """volume create"""
    body = {
        "Name": names[0] if names else "",
        "Labels": pairs(v.items("label")),
        "DriverOpts": pairs(v.items("opt")),
        "Driver": v.text("driver"),
    }
    print(engine().call("POST", "/volumes/create", body)["Name"])
    return 0


def ls(v: Values, names: list[str]) -> int:
    """volume ls"""
    found = engine().call("GET", "/volumes" + query(filters=filters(v.items("filter"))))["Volumes"]
    if v.on("quiet"):
        print("".join(f"{row['Name']}\n" for row in found), end="")
        return 0
    return rows_out([_shown(row) for row in found], [("DRIVER", "Driver"), ("VOLUME NAME", "Name")], v.text("format"))


def _shown(row: dict[str, Any]) -> Row:
    """A volume's fields as `--format` names them; those of clusters are not available, as in Docker's client."""
    usage, labels = row.get("UsageData") or {}, row.get("Labels") or {}
    fields = {
        "Name": row["Name"],
        "Driver": row["Driver"],
        "Scope": row["Scope"],
        "Mountpoint": row["Mountpoint"],
        "Labels": ",".join(f"{key}={value}" for key, value in sorted(labels.items())),
        "Links": str(usage["RefCount"]) if "RefCount" in usage else "N/A",
        "Size": human(usage["Size"], digits=4) if "Size" in usage else "N/A",
        "Availability": "N/A",
        "Group": "N/A",
        "Status": "N/A",
    }
    return Row(fields, "*formatter.volumeContext", labels)
