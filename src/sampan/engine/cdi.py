"""Devices by name, as their vendors describe them: the Container Device Interface (CDI, version 0.8 and older).

A description says what a container with the device gets besides: nodes, mounts, variables, hooks. Descriptions are the administrator's:
who names a device gets all that its description says.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import msgspec

from sampan.engine import devices
from sampan.engine.errors import BadRequest
from sampan.engine.model import Device, DeviceRequest
from sampan.oci.runtime_spec import Hook, Spec

directories = ["/etc/cdi", "/var/run/cdi"]  # sampand --cdi-spec-dir; later ones are stronger
_GPU = "nvidia.com/gpu"  # what --gpus means
_STAGES = ("createContainer",)
_LARGEST = 8 << 20
_T = TypeVar("_T")


class _Object(msgspec.Struct, frozen=True, rename="camel"):
    """An object of a description; what it says besides, other versions know of."""


class _Node(_Object, frozen=True, rename="camel"):
    path: str
    host_path: str = ""
    permissions: str = ""


class _Mount(_Object, frozen=True, rename="camel"):
    host_path: str
    container_path: str
    options: tuple[str, ...] = ()
    type: str = ""


class _Hook(_Object, frozen=True, rename="camel"):
    hook_name: str
    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    timeout: int | None = None


class Edits(_Object, frozen=True, rename="camel"):
    """What a container gets of a device."""

    env: tuple[str, ...] = ()
    device_nodes: tuple[_Node, ...] = ()
    mounts: tuple[_Mount, ...] = ()
    hooks: tuple[_Hook, ...] = ()
    additional_gids: tuple[int, ...] = msgspec.field(name="additionalGids", default=())

    def plus(self, other: Edits) -> Edits:
        """Both, in this order; what is in both is there once."""
        return Edits(
            **{
                name: tuple(dict.fromkeys((*getattr(self, name), *getattr(other, name))))
                for name in self.__struct_fields__
            }
        )


class _Named(_Object, frozen=True, rename="camel"):
    name: str
    container_edits: Edits = Edits()


class _Description(_Object, frozen=True, rename="camel"):
    cdi_version: str = msgspec.field(name="cdiVersion")
    kind: str
    devices: tuple[_Named, ...] = ()
    container_edits: Edits = Edits()


def _read(path: str) -> _Description:
    """Raises BadRequest that names the file."""
    try:
        with open(path, "rb") as file:
            data = file.read(_LARGEST + 1)
        if len(data) > _LARGEST:
            raise BadRequest(f"{path}: larger than {_LARGEST} bytes")
        document = msgspec.json.decode(data) if path.endswith(".json") else _yaml(path, data)
        return msgspec.convert(document, _Description)
    except OSError as error:
        raise BadRequest(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"{path} is no CDI specification: {str(error)[:200]}") from None


def _yaml(path: str, data: bytes) -> object:
    try:
        yaml = importlib.import_module("yaml")  # not ours: the vendors' tools write it, and all of them can write JSON
    except ImportError:
        raise BadRequest(
            f"{path}: reading YAML needs PyYAML: apt-get install python3-yaml, or write the file as JSON"
        ) from None
    try:
        found: object = yaml.safe_load(data)
    except yaml.YAMLError as error:
        raise BadRequest(f"{path} is no CDI specification: {str(error)[:200]}") from None
    return found


def _descriptions() -> Iterator[_Description]:
    for directory in directories:
        try:
            names = sorted(os.listdir(directory))
        except OSError:
            continue
        for name in names:
            if name.endswith((".json", ".yaml", ".yml")):
                yield _read(f"{directory}/{name}")


def edits(requests: Iterable[DeviceRequest]) -> Edits:
    """What a container gets of the devices that it asks for. Raises BadRequest for those that there are not."""
    known: dict[str, dict[str, tuple[Edits, Edits]]] = {}
    for found in _descriptions():
        rows = {row.name: (found.container_edits, row.container_edits) for row in found.devices}
        known.setdefault(found.kind, {}).update(rows)
    whole = Edits()
    for request in requests:
        for name in _names(request, known):
            kind, _, device = name.partition("=")
            if device not in known.get(kind, {}):
                raise BadRequest(f"CDI device injection failed: unresolvable CDI devices {name}")
            for part in known[kind][device]:
                whole = whole.plus(part)
    for hook in whole.hooks:
        if hook.hook_name not in _STAGES:
            raise BadRequest(
                f"CDI hook {hook.path}: {hook.hook_name} hooks are not run here, only {', '.join(_STAGES)}"
            )
    return whole


def _names(request: DeviceRequest, known: dict[str, Any]) -> list[str]:
    """The full names of the devices that a request means. Raises BadRequest."""
    if request.driver == "cdi":
        return list(request.device_ids)
    gpus = known.get(_GPU, {})
    wanted = {word for kind in request.capabilities for word in kind}
    if request.driver not in ("", "nvidia") or "gpu" not in wanted or not gpus:
        kinds = " ".join(f"[{' '.join(kind)}]" for kind in request.capabilities)
        raise BadRequest(
            f'could not select device driver "{request.driver}" with capabilities: [{kinds}]: there is no CDI specification of {_GPU} in '
            f"{' or '.join(directories)}; give device nodes with --device"
        )
    if request.device_ids:
        return [f"{_GPU}={name}" for name in request.device_ids]
    if request.count < 0 and "all" in gpus:
        return [f"{_GPU}=all"]
    single = [name for name in gpus if name != "all"]
    if request.count > len(single):
        raise BadRequest(f"could not select {request.count} GPUs: there are {len(single)}")
    return [f"{_GPU}={name}" for name in (single if request.count < 0 else single[: request.count])]


def apply(spec: Spec, found: Edits) -> None:
    """Puts it into a specification. Raises BadRequest."""
    process, linux = spec["process"], spec["linux"]
    given = {text.partition("=")[0] for text in found.env}
    process["env"] = [*(text for text in process["env"] if text.partition("=")[0] not in given), *found.env]
    rules = linux["resources"]["devices"]
    for row in found.device_nodes:
        node = devices.node(Device(row.host_path or row.path, row.path, row.permissions))
        linux["devices"].append(node)
        rules.append(devices.allowed(node))
    for mount in found.mounts:
        if not os.path.isabs(mount.host_path) or not os.path.isabs(mount.container_path):
            raise BadRequest(f"CDI mount {mount.host_path}: absolute paths are wanted")
        options = [*mount.options] if {"bind", "rbind"} & set(mount.options) else [*mount.options, "rbind"]
        spec["mounts"].append(
            {
                "destination": mount.container_path,
                "type": mount.type or "bind",
                "source": mount.host_path,
                "options": options,
            }
        )
    if found.additional_gids:
        groups = process["user"].setdefault("additionalGroups", [])
        groups += [str(number) for number in found.additional_gids]
    if found.hooks:
        spec["hooks"] = {stage: [_hook(hook) for hook in found.hooks if hook.hook_name == stage] for stage in _STAGES}


def _hook(hook: _Hook) -> Hook:
    found: Hook = {"path": hook.path, "args": list(hook.args) or [hook.path], "env": list(hook.env)}
    if hook.timeout:
        found["timeout"] = hook.timeout
    return found
