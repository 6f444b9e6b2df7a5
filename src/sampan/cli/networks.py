"""The command `network`."""

from __future__ import annotations

from sampan.cli import ports
from sampan.cli.arguments import each, filters
from sampan.cli.flags import UsageError, Values
from sampan.cli.options import pairs
from sampan.cli.output import Row, rows_out
from sampan.client.connection import engine
from sampan.client.http import APIError, Http, at, query

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


@each
def rm(http: Http, name: str, v: Values) -> None:
    """network rm"""
    try:
        http.call("DELETE", at("/networks/{}", name))
    except APIError as error:
        if error.status != 404 or not v.on("force"):
            raise


def create(v: Values, names: list[str]) -> int:
    """network create"""
    if not v.on("ipv4"):
        raise UsageError("--ipv4=false: every network has IPv4 addresses", 1)
    if v.text("scope") not in ("", "local"):
        raise UsageError(f"--scope {v.text('scope')}: networks are local", 1)
    body: dict[str, Any] = {
        "Name": names[0],
        "Driver": v.text("driver"),
        "EnableIPv6": v.on("ipv6"),
        "Internal": v.on("internal"),
        "Attachable": v.on("attachable"),
        "Ingress": v.on("ingress"),
        "ConfigOnly": v.on("config-only"),
        "ConfigFrom": {"Network": v.text("config-from")},
        "Options": pairs(v.items("opt")),
        "Labels": pairs(v.items("label")),
        "IPAM": {
            "Driver": v.text("ipam-driver") or "default",
            "Options": pairs(v.items("ipam-opt")),
            "Config": _pools(v),
        },
    }
    print(engine().call("POST", "/networks/create", body)["Id"])
    return 0


def _pools(v: Values) -> list[dict[str, object]]:
    """One row a subnet; gateways, ranges and auxiliary addresses go to the subnet they are in."""
    import ipaddress

    rows: list[dict[str, Any]] = [{"Subnet": subnet} for subnet in v.items("subnet")]
    rest = [("Gateway", text, text) for text in v.items("gateway")] + [
        ("IPRange", text, text) for text in v.items("ip-range")
    ]
    rest += [("AuxiliaryAddresses", item.partition("=")[2], item) for item in v.items("aux-address")]
    for key, address, item in rest:
        try:
            wanted = ipaddress.ip_address(address.partition("/")[0])
            row = next((r for r in rows if wanted in ipaddress.ip_network(r["Subnet"], strict=False)), None)
        except ValueError as error:
            raise UsageError(f"invalid address {address!r}: {error}") from None
        if row is None:
            raise UsageError(f"no matching subnet for {key.lower()} {address}")
        if key == "AuxiliaryAddresses":
            row.setdefault(key, {})[item.partition("=")[0]] = address
        else:
            row[key] = address
    return rows


def ls(v: Values, names: list[str]) -> int:
    """network ls"""
    found = engine().call("GET", "/networks" + query(filters=filters(v.items("filter"))))
    short = None if v.on("no-trunc") else 12
    if v.on("quiet"):
        print("".join(f"{row['Id'][:short]}\n" for row in found), end="")
        return 0
    rows = [_shown(row, short) for row in sorted(found, key=lambda row: row["Name"])]
    columns = [("NETWORK ID", "ID"), ("NAME", "Name"), ("DRIVER", "Driver"), ("SCOPE", "Scope")]
    return rows_out(rows, columns, v.text("format"))


def _shown(row: dict[str, Any], short: int | None) -> Row:
    """A network's fields as `--format` names them."""
    labels = row.get("Labels") or {}
    fields = {
        "ID": row["Id"][:short],
        "Name": row["Name"],
        "Driver": row["Driver"],
        "Scope": row["Scope"],
        "IPv4": _yes(row.get("EnableIPv4")),
        "IPv6": _yes(row.get("EnableIPv6")),
        "Internal": _yes(row.get("Internal")),
        "Labels": ",".join(f"{key}={value}" for key, value in sorted(labels.items())),
        "CreatedAt": _moment(row["Created"]),
    }
    return Row(fields, "*network.networkContext", labels)


def _yes(value: object) -> str:
    return "true" if value else "false"


def _moment(text: str) -> str:
    """A time of the engine as Go prints it: "2026-11-29 01:21:53.847199123 +0000 UTC"."""
    return f"{text.removesuffix('Z').replace('T', ' ')} +0000 UTC" if text.endswith("Z") else text


def connect(v: Values, names: list[str]) -> int:
    """network connect"""
    addresses: dict[str, Any] = {**ports.addresses(v)}
    if v.items("link-local-ip"):
        addresses["LinkLocalIPs"] = v.items("link-local-ip")
    settings: dict[str, Any] = {
        "Aliases": v.items("alias"),
        "DriverOpts": pairs(v.items("driver-opt")),
        "Links": v.items("link"),
        "GwPriority": v.number("gw-priority"),
    }
    if addresses:
        settings["IPAMConfig"] = addresses
    if v.text("mac-address"):
        settings["MacAddress"] = v.text("mac-address")
    body = {"Container": names[1], "EndpointConfig": {key: value for key, value in settings.items() if value}}
    engine().call("POST", at("/networks/{}/connect", names[0]), body)
    return 0


def disconnect(v: Values, names: list[str]) -> int:
    """network disconnect"""
    engine().call("POST", at("/networks/{}/disconnect", names[0]), {"Container": names[1], "Force": v.on("force")})
    return 0
