"""The shapes of request bodies, checked before the engine sees them."""

from __future__ import annotations

from typing import Any

from sampan.api.conform import (
    Reader,
    anything,
    conform,
    flag,
    mapping,
    strings,
    struct,
    text,
    texts,
)
from sampan.api.fields import HOST_CONFIG

VolumeCreate = struct(
    {"Name": text, "Driver": text, "DriverOpts": texts, "Labels": texts, "ClusterVolumeSpec": anything}
)
Auth = struct(
    {
        "username": text, "password": text, "email": text, "auth": text, "serveraddress": text, "identitytoken": text,
        "registrytoken": text,
    }
)  # fmt: skip
AuthConfigs = mapping(Auth)
Manifest = struct({"Content": text})

BuildArgs = mapping(text, null=True)
Build = struct(
    {
        "context": text, "tags": strings, "dockerfile": text, "buildargs": BuildArgs, "target": text, "platform": text, "nocache": flag,
        "nocachefilter": strings, "pull": flag, "labels": texts, "network": text, "secrets": texts, "ssh": texts, "contexts": texts,
        "entitlements": strings, "host": HOST_CONFIG.read, "squash": flag, "cachefrom": strings, "inlinecache": flag, "text": text,
        "ignore": text, "remote": text, "auths": AuthConfigs, "output": struct({"type": text, "dest": text}, {"type": "image", "dest": ""}),
        "quiet": flag,
    }
)  # fmt: skip


def check(body: object, shape: Reader, path: str = "") -> Any:
    """The body in the shape. Raises BadRequest naming the member that has it not."""
    return conform(body, shape, path)
