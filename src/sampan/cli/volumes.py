"""The commands on volumes."""

from __future__ import annotations

from sampan.cli.arguments import each, filters
from sampan.cli.flags import Values
from sampan.cli.options import pairs
from sampan.cli.output import rows_out
from sampan.client.connection import engine
from sampan.client.http import Http, query


@each
def rm(http: Http, name: str, v: Values) -> None:
    """volume rm"""
    http.call("DELETE", f"/volumes/{name}" + query(force=v.on("force")))


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
    rows = [{"Driver": row["Driver"], "Name": row["Name"]} for row in found]
    return rows_out(rows, [("DRIVER", "Driver"), ("VOLUME NAME", "Name")], v.text("format"))
