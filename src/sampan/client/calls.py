"""What the two clients have in common: arguments as the API's objects, answers as values. No I/O. For those of containers see `options`."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sampan.client.http import APIError, at, query
from sampan.oci.reference import split

Object = dict[str, Any]  # an object of the API, as the engine sends it
# Where a method named `list` hides the type.
Objects = list[Object]
Names = list[str]
__all__ = ["Completed", "Names", "Object", "Objects", "at", "filters", "query"]


@dataclass(frozen=True)
class Completed:
    """How a process ended and what it wrote. With a terminal everything is in `stdout`."""

    exit_code: int
    stdout: bytes
    stderr: bytes


def filters(given: Mapping[str, object] | None) -> str | None:
    """The API's `filters` parameter of {"label": "a", "status": ["exited"]}."""
    if not given:
        return None
    return json.dumps({key: [str(v).lower() if isinstance(v, bool) else str(v) for v in (value if isinstance(value, list) else [value])]
                       for key, value in given.items()})  # fmt: skip


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
