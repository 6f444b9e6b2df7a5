"""--use-api-socket: a container that may speak to the engine as its user does, and log in where the user is logged in."""

from __future__ import annotations

import io
import json
import tarfile

from sampan.cli import credentials
from sampan.client.connection import socket_path
from sampan.client.http import Http, at, query

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SOCKET, _DIRECTORY = "/var/run/docker.sock", "/run/secrets/docker"


def add(body: dict[str, Any]) -> None:
    """Adds the engine's socket, and where the credentials are, to the request for a container."""
    body["HostConfig"].setdefault("Mounts", []).append({"Type": "bind", "Source": socket_path(), "Target": _SOCKET})
    body["Env"] = [*(body.get("Env") or []), f"DOCKER_CONFIG={_DIRECTORY}"]


def put(http: Http, container: str) -> None:
    """Gives the container the user's credentials. Raises APIError, UsageError."""
    data = json.dumps({"auths": credentials.every()}).encode()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in ("run", "run/secrets", _DIRECTORY[1:]):
            member = tarfile.TarInfo(name)
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(member)
        member = tarfile.TarInfo(f"{_DIRECTORY[1:]}/config.json")
        member.size, member.mode = len(data), 0o600
        tar.addfile(member, io.BytesIO(data))
    http.send("PUT", at("/containers/{}/archive", container) + query(path="/"), stream=iter([out.getvalue()])).read()
