"""Published ports and networks as `run` takes them: `-p` in all forms, `--network` with options."""

from __future__ import annotations

from sampan.cli.flags import UsageError, Values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def _range(text: str, what: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    if not first.isdecimal() or (dash and not last.isdecimal()) or len(text) > 19:
        raise UsageError(f"invalid {what}: {text!r}")
    low, high = int(first), int(last or first)
    if not 0 < low <= high < 65536:
        raise UsageError(f"invalid {what}: {text!r}")
    return low, high


def expand(text: str) -> list[str]:
    """ "80/tcp" and so on for each port of "80", "53/udp", "8000-8003". Raises UsageError."""
    numbers, _, protocol = text.partition("/")
    low, high = _range(numbers, "port")
    return [f"{number}/{protocol or 'tcp'}" for number in range(low, high + 1)]


def bindings(items: list[str]) -> dict[str, list[dict[str, str]]]:
    """PortBindings of `[[ADDRESS:]HOSTPORT:]PORT[/PROTOCOL]`, each port a number or a range. Raises UsageError."""
    found: dict[str, list[dict[str, str]]] = {}
    for item in items:
        if "=" in item:
            _long_form(item, found)
            continue
        whole, _, protocol = item.partition("/")
        protocol = (protocol or "tcp").lower()
        if protocol not in ("tcp", "udp", "sctp"):
            raise UsageError(f"invalid publish {item!r}: unknown protocol {protocol}")
        head, _, container = whole.rpartition(":")
        address, host = "", head
        if head.startswith("["):
            address, _, host = head[1:].partition("]")
            host = host.removeprefix(":")
        elif ":" in head:
            address, _, host = head.rpartition(":")
        _bind(found, address, host, container, protocol, item)
    return found


def _long_form(item: str, found: dict[str, list[dict[str, str]]]) -> None:
    fields = dict(part.partition("=")[::2] for part in item.split(","))
    unknown = set(fields) - {"target", "published", "protocol", "mode", "host_ip"}
    if unknown or "target" not in fields:
        raise UsageError(
            f"invalid publish {item!r}: {'unknown ' + ', '.join(sorted(unknown)) if unknown else 'no target'}"
        )
    _bind(
        found,
        fields.get("host_ip", ""),
        fields.get("published", ""),
        fields["target"],
        fields.get("protocol", "tcp"),
        item,
    )


def _bind(
    found: dict[str, list[dict[str, str]]], address: str, host: str, container: str, protocol: str, item: str
) -> None:
    low, high = _range(container, "containerPort")
    if host in ("", "0"):  # any that is free
        for number in range(low, high + 1):
            found.setdefault(f"{number}/{protocol}", []).append({"HostIp": address, "HostPort": ""})
        return
    host_low, host_high = _range(host, "hostPort")
    if high - low != host_high - host_low:
        if low != high:
            raise UsageError(f"invalid publish {item!r}: the ranges have different lengths")
        found.setdefault(f"{low}/{protocol}", []).append({"HostIp": address, "HostPort": host})  # any of the range
        return
    for offset in range(high - low + 1):
        row = {"HostIp": address, "HostPort": str(host_low + offset)}
        found.setdefault(f"{low + offset}/{protocol}", []).append(row)


def addresses(v: Values) -> dict[str, str]:
    """The IPAMConfig of --ip and --ip6."""
    given = {"IPv4Address": v.text("ip"), "IPv6Address": v.text("ip6")}
    return {key: text for key, text in given.items() if text}


def priority(text: str) -> int:
    """A gateway priority. Raises UsageError."""
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"invalid gw-priority {text!r}: a whole number") from None


def networks(v: Values) -> tuple[str, dict[str, Any] | None]:
    """(NetworkMode, EndpointsConfig) of the options about networks. Raises UsageError."""
    modes, endpoints = [], {}
    for item in v.items("network"):
        name, settings = _network(item)
        modes.append(name)
        endpoints[name] = settings
    mode = modes[0] if modes else "default"
    first = endpoints.get(mode, {})
    given = addresses(v)
    if given:
        first["IPAMConfig"] = {**first.get("IPAMConfig", {}), **given}
    if v.items("network-alias"):
        first["Aliases"] = [*first.get("Aliases", []), *v.items("network-alias")]
    if v.items("link-local-ip"):
        first.setdefault("IPAMConfig", {})["LinkLocalIPs"] = v.items("link-local-ip")
    if v.text("mac-address"):
        first["MacAddress"] = v.text("mac-address")
    if first or len(modes) > 1:
        endpoints[mode] = first
        return mode, endpoints
    return mode, None


def _network(item: str) -> tuple[str, dict[str, Any]]:
    """`name=NET,alias=A,ip=...` or just a name."""
    if "=" not in item:
        return item, {}
    settings: dict[str, Any] = {}
    name = ""
    for part in item.split(","):
        key, _, value = part.partition("=")
        if key == "name":
            name = value
        elif key == "alias":
            settings.setdefault("Aliases", []).append(value)
        elif key in ("ip", "ip6"):
            settings.setdefault("IPAMConfig", {})["IPv4Address" if key == "ip" else "IPv6Address"] = value
        elif key == "mac-address":
            settings["MacAddress"] = value
        elif key == "driver-opt":
            option, _, text = value.partition("=")
            settings.setdefault("DriverOpts", {})[option] = text
        elif key == "gw-priority":
            settings["GwPriority"] = priority(value)
        else:
            raise UsageError(f"invalid field {key!r} in --network {item!r}")
    if not name:
        raise UsageError(f"--network {item!r} has no name=")
    return name, settings
