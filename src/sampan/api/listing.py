"""Containers as the API shows them: filters, the rows of a list, the whole of inspect."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from sampan.api import encode
from sampan.api.encode import Json
from sampan.engine import spec
from sampan.engine.container import Container, timestamp
from sampan.engine.containers import Containers
from sampan.engine.creation import RUNTIME
from sampan.engine.execs import Execs
from sampan.engine.model import EndpointSettings, HealthStatus, Status
from sampan.images.errors import ImageNotFound
from sampan.images.store import ImageStore
from sampan.linux import filetree
from sampan.network.model import Endpoint, Network
from sampan.network.networks import Networks
from sampan.runtime import init_program


def _ago(moment: int) -> str:
    seconds = int(time.time() - moment // 10**9)
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
    if state.running:
        extra = " (Paused)" if state.paused else ""
        if container.health:
            word = container.health.status
            extra += f" (health: {word})" if word is HealthStatus.STARTING else f" ({word})"
        return f"Up {_ago(state.started_at)}{extra}"
    if state.restarting:
        return f"Restarting ({state.exit_code}) {_ago(state.finished_at)} ago"
    if state.status is Status.EXITED and state.finished_at:
        return f"Exited ({state.exit_code}) {_ago(state.finished_at)} ago"
    return state.status.capitalize()


def _links(containers: Mapping[str, Container], container: Container) -> list[str] | None:
    """As Docker writes them: whose name is what in which container."""
    found = [text.partition(":") for text in container.host_config.links]
    return [f"/{containers[i].name}:/{container.name}/{alias}" for i, _, alias in found if i in containers] or None


def _networks(networks: Networks, container: Container) -> dict[str, Any]:
    mode = container.host_config.network_mode or "none"
    if mode.startswith("container:"):
        return {}
    if mode in ("host", "none"):
        return {mode: _endpoint(networks.find(mode), None, EndpointSettings())}
    found = {}
    for name, settings in container.networks.items():
        network = networks.named(name)
        if network is not None:
            found[name] = _endpoint(network, network.endpoints.get(container.id), settings)
            if network.has_names or network.endpoints.get(container.id):
                own = [container.name, *settings.aliases, container.id[:12]]
                found[name]["DNSNames"] = list(dict.fromkeys(own))
    return found


def _endpoint(network: Network, endpoint: Endpoint | None, settings: EndpointSettings) -> Json:
    pool, pool6 = network.pool(4), network.pool(6)
    active = endpoint is not None
    ipv4, _, length = (endpoint.ipv4 if endpoint else "").partition("/")
    ipv6, _, length6 = (endpoint.ipv6 if endpoint else "").partition("/")
    return encode.endpoint_settings(settings) | {
        "MacAddress": endpoint.mac if endpoint else settings.mac,
        "NetworkID": network.id if active or not network.has_names else "",
        "EndpointID": endpoint.id if endpoint else "",
        "Gateway": pool.gateway if active and pool and not network.internal else "",
        "IPAddress": ipv4,
        "IPPrefixLen": int(length or 0),
        "IPv6Gateway": pool6.gateway if active and pool6 and not network.internal else "",
        "GlobalIPv6Address": ipv6,
        "GlobalIPv6PrefixLen": int(length6 or 0),
        "DNSNames": None,
    }


def _port_map(container: Container) -> dict[str, list[Json] | None]:
    return encode.port_map(container.config.exposed_ports, container.ports) if container.running else {}


def _port_rows(container: Container) -> list[Json]:
    rows: list[Json] = []
    published = container.ports if container.running else []
    for key in _port_map(container):
        number, _, protocol = key.partition("/")
        plain: Json = {"PrivatePort": int(number), "Type": protocol or "tcp"}
        found = [row for row in published if f"{row.container_port}/{row.protocol}" == key]
        rows += [{"IP": row.host_ip, "PublicPort": row.host_port, **plain} for row in found] or [plain]
    return rows


def tree_size(path: str) -> int:
    """Bytes on disk below a directory."""
    return filetree.measure(path)[0]


def _command(container: Container) -> tuple[str, list[str]]:
    args = [*(container.config.entrypoint or ()), *container.config.cmd]
    return (args[0], args[1:]) if args else ("", [])


def summary(networks: Networks, container: Container) -> dict[str, object]:
    """A row of GET /containers/json."""
    path, args = _command(container)
    row = {
        "Id": container.id,
        "Names": [f"/{container.name}"],
        "Image": container.image_name,
        "ImageID": container.image,
        "Command": " ".join([path, *(f"'{word}'" if " " in word else word for word in args)]),
        "Created": container.created // 10**9,
        "Ports": _port_rows(container),
        "Labels": dict(container.config.labels),
        "State": container.state.status,
        "Status": status_text(container),
        "HostConfig": {"NetworkMode": container.host_config.network_mode},
        "NetworkSettings": {"Networks": _networks(networks, container)},
        "Mounts": encode.mounts(container.mounts),
    }
    return row


def sizes(containers: Containers, images: ImageStore, container: Container) -> dict[str, int]:
    """The members that `size=1` adds. Walks its files: for a thread."""
    written = tree_size(f"{containers.directory(container)}/upper")
    try:
        image = images.index.get(container.image).size
    except ImageNotFound:  # its record is lost: the container can be listed and removed all the same
        image = 0
    return {"SizeRw": written, "SizeRootFs": written + image}


def details(containers: Containers, networks: Networks, execs: Execs, container: Container) -> dict[str, Any]:
    """The whole of GET /containers/{id}/json."""
    path, args = _command(container)
    directory = containers.directory(container)
    endpoints = _networks(networks, container)
    # As Docker: what holds where nothing was asked for.
    added = {
        "Links": _links(containers, container),
        "Runtime": container.host_config.runtime or RUNTIME,
        "CgroupnsMode": container.host_config.cgroup_namespace or "private",
        "IpcMode": container.host_config.ipc_mode or "private",
        **spec.hidden_paths(container.host_config),
    }
    host = encode.host_config(container.host_config) | added
    if container.host_config.init:
        path, args = init_program.find() or path, ["--", path, *args]
    result: dict[str, Any] = {
        "Id": container.id,
        "Created": timestamp(container.created),
        "Path": path,
        "Args": args,
        "State": encode.state(container.state, container.health),
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
        "ExecIDs": execs.running_in(container) or None,
        "HostConfig": host,
        "Owner": container.owner,
        "IsolationReasons": container.decision,
        "GraphDriver": {"Name": "overlay2", "Data": {"UpperDir": f"{directory}/upper", "WorkDir": f"{directory}/work"}},
        "Mounts": encode.mounts(container.mounts),
        "Config": encode.config(container.config),
        "NetworkSettings": {
            "Bridge": "",
            "HairpinMode": False,
            "LinkLocalIPv6Address": "",
            "LinkLocalIPv6PrefixLen": 0,
            "SecondaryIPAddresses": None,
            "SecondaryIPv6Addresses": None,
            "SandboxID": "",
            "SandboxKey": f"/proc/{container.state.pid}/ns/net" if container.running else "",
            "Ports": _port_map(container),
            "Networks": endpoints,
            **{
                key: endpoints.get("bridge", {}).get(key, "")
                for key in ("Gateway", "IPAddress", "MacAddress", "EndpointID", "IPv6Gateway", "GlobalIPv6Address")
            },
            **{key: endpoints.get("bridge", {}).get(key, 0) for key in ("IPPrefixLen", "GlobalIPv6PrefixLen")},
        },
    }
    return result
