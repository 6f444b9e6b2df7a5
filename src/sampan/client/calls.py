"""What the two clients have in common: options as the API's objects, answers as values. No I/O."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sampan import sizes
from sampan.client.http import APIError, query, quote
from sampan.oci.reference import split

Object = dict[str, Any]  # an object of the API, as the engine sends it
__all__ = ["Completed", "Object", "config", "filters", "query", "quote", "update"]


@dataclass(frozen=True)
class Completed:
    """How a process ended and what it wrote. With a terminal everything is in `stdout`."""

    exit_code: int
    stdout: bytes
    stderr: bytes


def size(value: int | str | None) -> int | None:
    """Bytes of 5, "64m" or "1.5g". Raises ValueError."""
    return sizes.parse(value) if isinstance(value, str) else value


def env_list(values: Mapping[str, str] | Iterable[str] | None) -> list[str] | None:
    """ "NAME=value" strings of a mapping or of such strings."""
    if values is None:
        return None
    if isinstance(values, Mapping):
        return [f"{name}={value}" for name, value in values.items()]
    return list(values)


def filters(given: Mapping[str, object] | None) -> str | None:
    """The API's `filters` parameter of {"label": "a", "status": ["exited"]}."""
    if not given:
        return None
    return json.dumps({key: [str(v).lower() if isinstance(v, bool) else str(v) for v in (value if isinstance(value, list) else [value])]
                       for key, value in given.items()})  # fmt: skip


def restart_policy(text: str | None) -> Object | None:
    """ "always", "unless-stopped", "on-failure:3" as the API's object."""
    if not text:
        return None
    name, _, count = text.partition(":")
    return {"Name": name, "MaximumRetryCount": int(count or 0)}


def port_maps(given: Mapping[str | int, object] | None) -> tuple[Object | None, Object | None]:
    """ExposedPorts and PortBindings of {80: 8080, "53/udp": ("127.0.0.1", 5353), 443: None}."""
    if given is None:
        return None, None
    bindings: Object = {}
    for container_port, host in given.items():
        key = str(container_port) if "/" in str(container_port) else f"{container_port}/tcp"
        address, port = host if isinstance(host, tuple) else ("", host)
        bindings[key] = [{"HostIp": address, "HostPort": "" if port is None else str(port)}]
    return {key: {} for key in bindings}, bindings


def config(
    image: str,
    command: str | list[str] | None = None,
    *,
    entrypoint: str | list[str] | None = None,
    environment: Mapping[str, str] | Iterable[str] | None = None,
    user: str | None = None,
    working_dir: str | None = None,
    hostname: str | None = None,
    tty: bool = False,
    stdin_open: bool = False,
    labels: Mapping[str, str] | None = None,
    stop_signal: str | None = None,
    volumes: list[str] | None = None,
    tmpfs: Mapping[str, str] | None = None,
    network: str | None = None,
    ports: Mapping[str | int, object] | None = None,
    memory: int | str | None = None,
    cpus: float | None = None,
    pids_limit: int | None = None,
    cap_add: list[str] | None = None,
    cap_drop: list[str] | None = None,
    security_opt: list[str] | None = None,
    privileged: bool = False,
    read_only: bool = False,
    init: bool = False,
    auto_remove: bool = False,
    restart: str | None = None,
    isolation: str | None = None,
    host_config: Mapping[str, object] | None = None,
    **other: object,
) -> Object:
    """The body of POST /containers/create.

    `volumes` are "source:target[:ro]"; `ports` maps container ports to host ports; `memory` takes
    "64m". `host_config` and further keywords go into HostConfig and the body as they are, in the
    API's spelling.
    """
    exposed, bindings = port_maps(ports)
    host = {
        "Binds": volumes,
        "Tmpfs": dict(tmpfs) if tmpfs else None,
        "NetworkMode": network,
        "PortBindings": bindings,
        "Memory": size(memory),
        "NanoCpus": None if cpus is None else round(cpus * 10**9),
        "PidsLimit": pids_limit,
        "CapAdd": cap_add,
        "CapDrop": cap_drop,
        "SecurityOpt": security_opt,
        "Privileged": privileged or None,
        "ReadonlyRootfs": read_only or None,
        "Init": init or None,
        "AutoRemove": auto_remove or None,
        "RestartPolicy": restart_policy(restart),
        "Isolation": isolation,
        **(host_config or {}),
    }
    body = {
        "Image": image,
        "Cmd": _words(command),
        "Entrypoint": _words(entrypoint),
        "Env": env_list(environment),
        "User": user,
        "WorkingDir": working_dir,
        "Hostname": hostname,
        "Tty": tty or None,
        "OpenStdin": stdin_open or None,
        "StdinOnce": stdin_open or None,
        "Labels": dict(labels) if labels else None,
        "StopSignal": stop_signal,
        "ExposedPorts": exposed,
        "HostConfig": {key: value for key, value in host.items() if value is not None},
        **other,
    }
    return {key: value for key, value in body.items() if value is not None}


def _words(command: str | list[str] | None) -> list[str] | None:
    return command.split() if isinstance(command, str) else command


def exec_config(
    command: str | list[str] | None,
    environment: Mapping[str, str] | None = None,
    user: str = "",
    working_dir: str = "",
    tty: bool = False,
    privileged: bool = False,
    stdin: bool = False,
) -> Object:
    """The body of POST /containers/{id}/exec."""
    return {
        "Cmd": _words(command),
        "Env": env_list(environment) or [],
        "User": user,
        "WorkingDir": working_dir,
        "Tty": tty,
        "Privileged": privileged,
        "AttachStdin": stdin,
        "AttachStdout": True,
        "AttachStderr": True,
    }


def network(
    name: str,
    driver: str,
    subnet: str | None,
    gateway: str | None,
    internal: bool,
    ipv6: bool,
    labels: Mapping[str, str] | None,
    options: Mapping[str, str] | None,
) -> Object:
    """The body of POST /networks/create."""
    pool = {key: value for key, value in (("Subnet", subnet), ("Gateway", gateway)) if value}
    return {
        "Name": name,
        "Driver": driver,
        "Internal": internal,
        "EnableIPv6": ipv6,
        "Labels": dict(labels or {}),
        "Options": dict(options or {}),
        "IPAM": {"Config": [pool] if pool else []},
    }


def endpoint(container: str, aliases: list[str] | None, ip: str | None) -> Object:
    """The body of POST /networks/{id}/connect."""
    settings: Object = {"Aliases": aliases or []}
    if ip:
        settings["IPAMConfig"] = {"IPv4Address": ip}
    return {"Container": container, "EndpointConfig": settings}


def auth_header(auth: Mapping[str, str] | None) -> str:
    """The header line of registry credentials {"username": ..., "password": ...}."""
    if not auth:
        return ""
    return f"X-Registry-Auth: {base64.urlsafe_b64encode(json.dumps(dict(auth)).encode()).decode()}\r\n"


def reference(name: str) -> tuple[str, str]:
    """(repository, tag or digest) of an image's name; the tag is "latest" when there is none."""
    repository, tag = split(name)
    return repository, tag or ("" if "@" in name else "latest")


def build(
    path: str, tags: list[str], dockerfile: str, args: Mapping[str, str] | None, target: str, platform: str,
    no_cache: bool, pull: bool, secrets: Mapping[str, bytes] | None, labels: Mapping[str, str] | None, network: str,
) -> Object:  # fmt: skip
    """The body of a build of a directory."""
    body = {"context": os.path.realpath(path), "tags": tags, "dockerfile": dockerfile, "buildargs": dict(args or {}), "target": target,
            "platform": platform, "nocache": no_cache, "pull": pull, "labels": dict(labels or {}), "network": network}  # fmt: skip
    return body | {"secrets": {name: base64.b64encode(data).decode() for name, data in (secrets or {}).items()}}


def told(message: Object) -> Object:
    """A message of a pull, push or build. Raises APIError for the one that says it failed."""
    if "error" in message:
        raise APIError(500, str(message["error"]))
    return message


def update(memory: int | str | None, cpus: float | None, pids_limit: int | None, restart: str | None) -> Object:
    """The body of POST /containers/{id}/update."""
    body = {
        "Memory": size(memory),
        "NanoCpus": None if cpus is None else round(cpus * 10**9),
        "PidsLimit": pids_limit,
        "RestartPolicy": restart_policy(restart),
    }
    return {key: value for key, value in body.items() if value is not None}
