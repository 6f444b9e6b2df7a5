"""What rules look at, out of the API's request."""

from __future__ import annotations

import os
from typing import Any

from sampan.engine import spec
from sampan.engine.errors import BadRequest
from sampan.engine.policy.model import AUTO, CONTAINER, TENANT_LABEL, VM, Facts
from sampan.images.store import Image
from sampan.oci import reference

_HOST_MODES = (("NetworkMode", "--network"), ("PidMode", "--pid"), ("IpcMode", "--ipc"), ("UTSMode", "--uts"),
               ("CgroupnsMode", "--cgroupns"), ("UsernsMode", "--userns"))  # fmt: skip
_WEAKENING = ("seccomp", "apparmor", "systempaths", "label", "writable-cgroups")


def endpoints(body: dict[str, Any]) -> dict[str, Any]:
    """The networks that a request names, with what it wants of each."""
    return (body.get("NetworkingConfig") or {}).get("EndpointsConfig") or {}


def dangers(host: dict[str, Any]) -> list[str]:
    """The options of a HostConfig that weaken what keeps a container from the host's kernel (S049), as they are written."""
    found = ["--privileged"] if host.get("Privileged") else []
    found += [f"{flag} host" for key, flag in _HOST_MODES if host.get(key) == "host"]
    found += [f"--cap-add {name}" for name in _added(host) if f"CAP_{name}" not in spec.DEFAULT_CAPABILITIES]
    found += [f"--device {item.get('PathOnHost')}" for item in host.get("Devices") or []]
    found += ["--device-cgroup-rule" for _ in host.get("DeviceCgroupRules") or []]
    found += ["--gpus" for _ in host.get("DeviceRequests") or []]
    for option in host.get("SecurityOpt") or []:
        name, _, value = option.replace(":", "=", 1).partition("=")
        if name in _WEAKENING and (value not in ("", "builtin", "false")):
            found.append(f"--security-opt {name}={value if len(value) < 40 else '...'}")
    for key in ("MaskedPaths", "ReadonlyPaths"):
        if host.get(key) is not None:
            found.append(key)
    return found


def capabilities(host: dict[str, Any]) -> list[str]:
    """The capabilities asked for, without CAP_."""
    return ["ALL", *_added(host)] if host.get("Privileged") else _added(host)


def _added(host: dict[str, Any]) -> list[str]:
    return [str(name).upper().removeprefix("CAP_") for name in host.get("CapAdd") or []]


def host_paths(host: dict[str, Any]) -> list[str]:
    """The host's paths that a request wants mounted, with links resolved."""
    sources = [text.partition(":")[0] for text in host.get("Binds") or []]
    sources += [str(item.get("Source") or "") for item in host.get("Mounts") or [] if item.get("Type") == "bind"]
    return [os.path.realpath(source) for source in sources if source.startswith("/")]


def names(image: Image) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(every name of an image, complete and short; the registries in them)."""
    found, registries = [image.id], []
    for tag in image.tags:
        ref = reference.parse(tag)
        found += [str(ref), ref.familiar, ref.familiar_name]
        registries.append(ref.registry)
    return tuple(dict.fromkeys(found)), tuple(dict.fromkeys(registries))


def of_container(user: str, body: dict[str, Any], image: Image, signers: list[str], default: str) -> Facts:
    """The facts of a request to create a container; `default` is the isolation of one that names none. Raises BadRequest for an isolation that there is not."""
    host: dict[str, Any] = body.get("HostConfig") or {}
    labels: dict[str, str] = body.get("Labels") or {}
    every, registries = names(image)
    networks = dict.fromkeys([host.get("NetworkMode") or "default", *endpoints(body)])
    return Facts(user, labels.get(TENANT_LABEL, ""), every, registries, tuple(signers), tuple(sorted(labels.items())), tuple(networks),
                 tuple(capabilities(host)), tuple(dangers(host)), tuple(host_paths(host)), _asked(host, default))  # fmt: skip


def _asked(host: dict[str, Any], default: str) -> str:
    wanted = host.get("Isolation") or "default"
    wanted = default if wanted == "default" else wanted
    if wanted in ("", AUTO):
        return ""
    if wanted in (CONTAINER, "process"):
        return CONTAINER
    if wanted != VM:
        raise BadRequest(f"invalid isolation {wanted!r}: container, vm or auto")
    return VM
