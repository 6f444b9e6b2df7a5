"""The command `network`."""

from __future__ import annotations

from typing import Any

from sampan.cli import ports, pruning
from sampan.cli.arguments import each, filters, need
from sampan.cli.flags import LIST, STR, Flag, UsageError, parse
from sampan.cli.options import pairs
from sampan.cli.output import rows_out
from sampan.cli.system import inspect
from sampan.client.connection import engine
from sampan.client.http import Http, query

_USAGE = "network connect|create|disconnect|inspect|ls|prune|rm"


def network(args: list[str]) -> int:
    """network connect|create|disconnect|inspect|ls|prune|rm"""
    need(args, 1, _USAGE)
    verb, rest = args[0], args[1:]
    if verb == "inspect":
        return inspect(["--type", "network", *rest])
    if verb in ("rm", "remove"):
        return each(
            "rm NETWORK...", [Flag("force", "f")], lambda http, name, v: http.call("DELETE", f"/networks/{name}")
        )(rest)
    if verb == "prune":
        return pruning.networks(rest)
    verbs = {
        "create": _create,
        "ls": _list,
        "list": _list,
        "connect": _connect,
        "disconnect": _disconnect,
    }
    if verb not in verbs:
        raise UsageError(f"unknown command: sampan network {verb}")
    return verbs[verb](engine(), rest)


def _create(http: Http, args: list[str]) -> int:
    flags = [
        Flag("driver", "d", STR, "Driver to manage the network", "bridge"),
        Flag("subnet", "", LIST),
        Flag("gateway", "", LIST),
        Flag("ip-range", "", LIST),
        Flag("aux-address", "", LIST),
        Flag("ipv6"),
        Flag("internal"),
        Flag("attachable"),
        Flag("opt", "o", LIST),
        Flag("label", "", LIST),
        Flag("ipam-driver", "", STR),
        Flag("ipam-opt", "", LIST),
    ]
    v, names = parse(flags, args)
    need(names, 1, "network create NETWORK")
    body: dict[str, Any] = {
        "Name": names[0],
        "Driver": v["driver"],
        "EnableIPv6": v["ipv6"],
        "Internal": v["internal"],
        "Attachable": v["attachable"],
        "Options": pairs(v["opt"]),
        "Labels": pairs(v["label"]),
        "IPAM": {"Driver": v["ipam-driver"] or "default", "Options": pairs(v["ipam-opt"]), "Config": _pools(v)},
    }
    print(http.call("POST", "/networks/create", body)["Id"])
    return 0


def _pools(v: dict[str, Any]) -> list[dict[str, Any]]:
    """One row a subnet; gateways, ranges and auxiliary addresses go to the subnet they are in."""
    import ipaddress

    rows = [{"Subnet": subnet} for subnet in v["subnet"]]
    rest = [("Gateway", text, text) for text in v["gateway"]] + [("IPRange", text, text) for text in v["ip-range"]]
    rest += [("AuxiliaryAddresses", item.partition("=")[2], item) for item in v["aux-address"]]
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


def _list(http: Http, args: list[str]) -> int:
    v, _ = parse([Flag("filter", "f", LIST), Flag("quiet", "q"), Flag("no-trunc"), Flag("format", "", STR)], args)
    found = http.call("GET", "/networks" + query(filters=filters(v["filter"])))
    short = None if v["no-trunc"] else 12
    if v["quiet"]:
        print("".join(f"{row['Id'][:short]}\n" for row in found), end="")
        return 0
    rows = [{"ID": row["Id"][:short], "Name": row["Name"], "Driver": row["Driver"], "Scope": row["Scope"]}
            for row in sorted(found, key=lambda row: row["Name"])]  # fmt: skip
    return rows_out(
        rows, [("NETWORK ID", "ID"), ("NAME", "Name"), ("DRIVER", "Driver"), ("SCOPE", "Scope")], v["format"]
    )


def _connect(http: Http, args: list[str]) -> int:
    flags = [Flag("alias", "", LIST), Flag("ip", "", STR), Flag("ip6", "", STR), Flag("driver-opt", "", LIST),
             Flag("link", "", LIST), Flag("link-local-ip", "", LIST), Flag("mac-address", "", STR)]  # fmt: skip
    v, names = parse(flags, args)
    need(names, 2, "network connect NETWORK CONTAINER")
    addresses = ports.addresses(v)
    settings: dict[str, Any] = {"Aliases": v["alias"], "DriverOpts": pairs(v["driver-opt"]), "Links": v["link"]}
    if addresses:
        settings["IPAMConfig"] = addresses
    if v["mac-address"]:
        settings["MacAddress"] = v["mac-address"]
    body = {"Container": names[1], "EndpointConfig": {key: value for key, value in settings.items() if value}}
    http.call("POST", f"/networks/{names[0]}/connect", body)
    return 0


def _disconnect(http: Http, args: list[str]) -> int:
    v, names = parse([Flag("force", "f")], args)
    need(names, 2, "network disconnect NETWORK CONTAINER")
    http.call("POST", f"/networks/{names[0]}/disconnect", {"Container": names[1], "Force": v["force"]})
    return 0
