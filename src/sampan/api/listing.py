"""Containers as the API shows them: filters, the rows of a list, the whole of inspect."""

from __future__ import annotations

import datetime
import time
from typing import Any

from sampan.engine.container import ZERO_TIME, Container, timestamp
from sampan.engine.engine import Engine
from sampan.engine.filters.containers import listed
from sampan.engine.filters.reading import Filters
from sampan.engine.policy.caller import Caller
from sampan.images.errors import ImageNotFound
from sampan.linux import filetree
from sampan.network.model import Endpoint, Network
from sampan.runtime import init_program


def select(engine: Engine, who: Caller, wanted: Filters, everything: bool, limit: int | None) -> list[Container]:
    """The containers of a list that somebody sees, newest first. Raises BadRequest for a filter that is unknown or has a bad value."""
    passes = listed(engine, engine.finding.sees(who), wanted)
    implied = everything or limit or wanted.get("status") or wanted.get("exited")
    rows = [
        c
        for c in engine.finding.containers(who)
        if not c.system and (implied or c.running or c.state["Status"] == "restarting") and passes(c)
    ]
    rows.sort(key=lambda container: -container.created)
    return rows[:limit] if limit and limit > 0 else rows


def _ago(text: str) -> str:
    moment_ = datetime.datetime.fromisoformat(text[:19] + "+00:00")
    seconds = int(time.time() - moment_.timestamp())
    for unit, size in (("week", 604800), ("day", 86400), ("hour", 3600), ("minute", 60)):
        count = seconds // size
        if count >= (2 if unit in ("week", "day") else 1):
            if count == 1:
                return f"About {'an' if unit == 'hour' else 'a'} {unit}"
            return f"{count} {unit}s"
    return "Less than a second" if seconds < 1 else "1 second" if seconds == 1 else f"{seconds} seconds"


def status_text(container: Container) -> str:
    """The STATUS column: "Up 5 minutes (healthy)", "Exited (0) 2 hours ago"."""
    state = container.state
    if state["Status"] in ("running", "paused"):
        extra = " (Paused)" if state["Paused"] else ""
        if container.health:
            word = container.health["Status"]
            extra += f" (health: {word})" if word == "starting" else f" ({word})"
        return f"Up {_ago(state['StartedAt'])}{extra}"
    if state["Status"] == "restarting":
        return f"Restarting ({state['ExitCode']}) {_ago(state['FinishedAt'])} ago"
    if state["Status"] == "exited" and state["FinishedAt"] != ZERO_TIME:
        return f"Exited ({state['ExitCode']}) {_ago(state['FinishedAt'])} ago"
    return str(state["Status"]).capitalize()


def _mounts(container: Container) -> list[dict[str, Any]]:
    keys = ("Type", "Name", "Source", "Destination", "Driver", "Mode", "RW", "Propagation")
    return [{key: row[key] for key in keys if key in row} for row in container.mounts]


def _links(engine: Engine, container: Container) -> list[str] | None:
    """As Docker writes them: whose name is what in which container."""
    found = [text.partition(":") for text in container.host_config.get("Links") or []]
    return [
        f"/{engine.containers[i].name}:/{container.name}/{alias}" for i, _, alias in found if i in engine.containers
    ] or None


def _networks(engine: Engine, container: Container) -> dict[str, Any]:
    mode = container.host_config.get("NetworkMode", "none")
    if mode.startswith("container:"):
        return {}
    if mode in ("host", "none"):
        return {mode: _endpoint(engine.networking.networks.find(mode), None, {})}
    found = {}
    for name, settings in container.networks.items():
        network = engine.networking.networks.named(name)
        if network is not None:
            found[name] = _endpoint(network, network.endpoints.get(container.id), settings)
            if network.has_names:
                own = [container.name, *(settings.get("Aliases") or []), container.id[:12]]
                found[name]["DNSNames"] = list(dict.fromkeys(own))
    return found


def _endpoint(network: Network, endpoint: Endpoint | None, settings: dict[str, Any]) -> dict[str, Any]:
    row, row6 = network.row(4), network.row(6)
    active = endpoint is not None
    ipv4, _, length = (endpoint.ipv4 if endpoint else "").partition("/")
    ipv6, _, length6 = (endpoint.ipv6 if endpoint else "").partition("/")
    return {
        "IPAMConfig": settings.get("IPAMConfig") or None,
        "Links": settings.get("Links") or None,
        "Aliases": settings.get("Aliases") or None,
        "MacAddress": endpoint.mac if endpoint else settings.get("MacAddress") or "",
        "DriverOpts": settings.get("DriverOpts") or None,
        "GwPriority": settings.get("GwPriority") or 0,
        "NetworkID": network.id if active or not network.has_names else "",
        "EndpointID": endpoint.id if endpoint else "",
        "Gateway": row["Gateway"] if active and row and not network.internal else "",
        "IPAddress": ipv4,
        "IPPrefixLen": int(length or 0),
        "IPv6Gateway": row6["Gateway"] if active and row6 and not network.internal else "",
        "GlobalIPv6Address": ipv6,
        "GlobalIPv6PrefixLen": int(length6 or 0),
        "DNSNames": None,
    }


def _port_map(container: Container) -> dict[str, Any]:
    ports: dict[str, Any] = dict.fromkeys(container.config.get("ExposedPorts") or {})
    for row in container.ports:
        rows = ports.get(f"{row['container_port']}/{row['protocol']}") or []
        rows.append({"HostIp": row["host_ip"], "HostPort": str(row["host_port"])})
        ports[f"{row['container_port']}/{row['protocol']}"] = rows
    return ports


def _port_rows(container: Container) -> list[dict[str, Any]]:
    rows = []
    for key, bindings in (_port_map(container) if container.running else {}).items():
        number, _, protocol = key.partition("/")
        plain = {"PrivatePort": int(number), "Type": protocol or "tcp"}
        rows += [{"IP": b["HostIp"], "PublicPort": int(b["HostPort"]), **plain} for b in bindings or []] or [plain]
    return rows


def tree_size(path: str) -> int:
    """Bytes on disk below a directory."""
    return filetree.measure(path)[0]


def _command(container: Container) -> tuple[str, list[str]]:
    args = [*(container.config.get("Entrypoint") or []), *(container.config.get("Cmd") or [])]
    return (args[0], args[1:]) if args else ("", [])


def summary(engine: Engine, container: Container) -> dict[str, Any]:
    """A row of GET /containers/json."""
    path, args = _command(container)
    row = {
        "Id": container.id,
        "Names": [f"/{container.name}"],
        "Image": container.image_name,
        "ImageID": container.image,
        "Command": " ".join([path, *args]),
        "Created": container.created // 10**9,
        "Ports": _port_rows(container),
        "Labels": container.config.get("Labels") or {},
        "State": container.state["Status"],
        "Status": status_text(container),
        "HostConfig": {"NetworkMode": container.host_config.get("NetworkMode")},
        "NetworkSettings": {"Networks": _networks(engine, container)},
        "Mounts": _mounts(container),
    }
    return row


def sizes(engine: Engine, container: Container) -> dict[str, int]:
    """The members that `size=1` adds. Walks its files: for a thread."""
    written = tree_size(f"{engine.containers.directory(container)}/upper")
    try:
        image = engine.images.get(container.image).size
    except ImageNotFound:  # its record is lost: the container can be listed and removed all the same
        image = 0
    return {"SizeRw": written, "SizeRootFs": written + image}


def details(engine: Engine, container: Container) -> dict[str, Any]:
    """The whole of GET /containers/{id}/json."""
    path, args = _command(container)
    directory = engine.containers.directory(container)
    state = dict(container.state)
    if container.health:
        state["Health"] = container.health
    networks = _networks(engine, container)
    host = {"Init": None, **container.host_config, "Links": _links(engine, container)}
    if host.get("Init"):
        path, args = init_program.find() or path, ["--", path, *args]
    result: dict[str, Any] = {
        "Id": container.id,
        "Created": timestamp(container.created),
        "Path": path,
        "Args": args,
        "State": state,
        "Image": container.image,
        "ResolvConfPath": f"{directory}/resolv.conf",
        "HostnamePath": f"{directory}/hostname",
        "HostsPath": f"{directory}/hosts",
        "LogPath": f"{directory}/log",
        "Name": f"/{container.name}",
        "RestartCount": container.restart_count,
        "Driver": "overlay2",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": [e.id for e in engine.execs.values() if e.container is container and e.running] or None,
        "HostConfig": host,
        "Owner": container.owner,
        "IsolationReasons": container.decision,
        "GraphDriver": {"Name": "overlay2", "Data": {"UpperDir": f"{directory}/upper", "WorkDir": f"{directory}/work"}},
        "Mounts": _mounts(container),
        "Config": container.config,
        "NetworkSettings": {
            "Bridge": "",
            "SandboxID": "",
            "SandboxKey": f"/proc/{state['Pid']}/ns/net" if container.running else "",
            "Ports": _port_map(container) if container.running else {},
            "Networks": networks,
            **{
                key: networks.get("bridge", {}).get(key, "")
                for key in ("Gateway", "IPAddress", "MacAddress", "EndpointID")
            },
            "IPPrefixLen": networks.get("bridge", {}).get("IPPrefixLen", 0),
        },
    }
    return result
