"""ps: the table of containers."""

from __future__ import annotations

from sampan.cli.arguments import filters
from sampan.cli.flags import Values
from sampan.cli.output import Row, human, quoted, rows_out, since, stamp
from sampan.client.connection import engine
from sampan.client.http import query

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_COLUMNS = [("CONTAINER ID", "ID"), ("IMAGE", "Image"), ("COMMAND", "Command"), ("CREATED", "RunningFor"), ("STATUS", "Status"),
            ("PORTS", "Ports"), ("NAMES", "Names")]  # fmt: skip


def ps(v: Values, names: list[str]) -> int:
    """ps"""
    last = v.number("last") or 0
    limit = 1 if v.on("latest") else last if last > 0 else None
    form = v.text("format")
    sized = v.on("size") or ".Size" in form or "json ." in form  # which costs the engine a look at every file
    wanted = query(all=v.on("all") or None, limit=limit, size=sized or None, filters=filters(v.items("filter")))
    rows = engine().call("GET", f"/containers/json{wanted}")
    if v.on("quiet"):
        for row in rows:
            print(row["Id"] if v.on("no-trunc") else row["Id"][:12])
        return 0
    columns = [*_COLUMNS, ("SIZE", "Size")] if v.on("size") else _COLUMNS
    return rows_out([_shown(row, v.on("no-trunc")) for row in rows], columns, form)


def _shown(row: dict[str, Any], whole: bool) -> Row:
    """A container's fields as `--format` names them."""
    command = row["Command"] if whole or len(row["Command"]) <= 20 else row["Command"][:19] + "…"
    fields = {
        "ID": row["Id"] if whole else row["Id"][:12],
        "Image": row["Image"],
        "Command": quoted(command),
        "CreatedAt": stamp(row["Created"]),
        "RunningFor": since(row["Created"]),
        "Status": row["Status"],
        "Ports": ports(row["Ports"]),
        "Names": ",".join(name.removeprefix("/") for name in row["Names"]),
        "Labels": ",".join(f"{key}={value}" for key, value in sorted(row["Labels"].items())),
        "State": row["State"],
        "Size": size(row),
        "Mounts": ",".join(mount.get("Name") or mount["Source"] for mount in row.get("Mounts") or []),
        "LocalVolumes": str(sum(mount.get("Type") == "volume" for mount in row.get("Mounts") or [])),
        "Networks": ",".join((row.get("NetworkSettings") or {}).get("Networks") or {}),
        "Platform": None,
    }
    return Row(fields, "*formatter.ContainerContext", row["Labels"])


def size(row: dict[str, Any]) -> str:
    """The SIZE column: what a container has written, and with its image."""
    written, whole = row.get("SizeRw") or 0, row.get("SizeRootFs") or 0
    return f"{human(written)} (virtual {human(whole)})" if whole else human(written)


def ports(rows: list[dict[str, Any]]) -> str:
    """The PORTS column: "0.0.0.0:8080->80/tcp, 443/tcp"."""
    shown = []
    for row in rows:
        address = f"[{row['IP']}]" if ":" in row.get("IP", "") else row.get("IP", "")
        public = f"{address}:{row['PublicPort']}->" if "PublicPort" in row else ""
        shown.append(f"{public}{row['PrivatePort']}/{row['Type']}")
    return ", ".join(shown)
