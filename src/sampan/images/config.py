"""The configuration of an image (OCI image specification, config.md): read, checked and written here and nowhere else.

null is "not given", as Go writes it. What has no name here is kept in `rest` of the object that it stands in: other tools have written it
for their own readers.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Annotated, TypeVar

import msgspec

from sampan.images.errors import ImageError
from sampan.oci import documents, reference
from sampan.oci.manifest import Platform

INLINE = "sampan.cache"  # the steps that a build has made the image by: see build.cache
MAX_CONFIG = 8 << 20
MAX_LAYERS = 128
_DEEPEST = 64
_OF_ITS_MAKING = (INLINE, "container", "container_config", "docker_version", "id", "parent")  # members of `rest`
_BUILDKIT = "moby.buildkit."  # how their names begin, too
_Int64 = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]


class _Object(msgspec.Struct, frozen=True, kw_only=True):
    rest: Mapping[str, object] = {}


class HealthCheck(_Object, frozen=True, kw_only=True, rename="pascal"):
    """A health check; durations are nanoseconds. One without a test says nothing of it."""

    test: tuple[str, ...] = ()
    interval: _Int64 = 0
    timeout: _Int64 = 0
    start_period: _Int64 = 0
    start_interval: _Int64 = 0
    retries: _Int64 = 0


class Execution(_Object, frozen=True, kw_only=True, rename="pascal"):
    """The execution parameters: what a container has that says nothing else (the specification's `config`)."""

    user: str = ""
    working_dir: str = ""
    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    shell: tuple[str, ...] = ()  # what runs the shell form of a command
    labels: Mapping[str, str] = {}
    exposed_ports: Mapping[str, object] = {}  # Go's way of writing a set
    volumes: Mapping[str, object] = {}
    stop_signal: str = ""
    health_check: HealthCheck = msgspec.field(name="Healthcheck", default=HealthCheck())
    on_build: tuple[str, ...] = ()
    hostname: str = ""  # this and what follows is Docker's, and read by nobody
    domainname: str = ""
    image: str = ""


class History(_Object, frozen=True, kw_only=True):
    """How a layer was made, or what else was done (`empty_layer`)."""

    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


class ImageConfig(_Object, frozen=True, kw_only=True):
    """All that an image says of itself."""

    created: str = ""
    author: str = ""
    architecture: str = ""
    os: str = ""
    variant: str = ""
    os_version: str = msgspec.field(name="os.version", default="")
    os_features: tuple[str, ...] = msgspec.field(name="os.features", default=())
    execution: Execution = msgspec.field(name="config", default=Execution())
    diff_ids: tuple[str, ...] = msgspec.field(name="rootfs", default=())
    history: tuple[History, ...] = ()

    @property
    def platform(self) -> Platform:
        """What it is made for, as far as it says."""
        return Platform(self.os, self.architecture, self.variant)

    @property
    def inherited(self) -> ImageConfig:
        """What an image that is made of this one begins with: all but how this one was made."""
        rest = {key: value for key, value in self.rest.items()
                if key not in _OF_ITS_MAKING and not key.startswith(_BUILDKIT)}  # fmt: skip
        return msgspec.structs.replace(self, rest=rest)


_O = TypeVar("_O", bound=_Object)


@functools.cache
def _fields(kind: type[_Object]) -> dict[str, msgspec.structs.FieldInfo]:
    """The members that have names here."""
    return {field.encode_name: field for field in msgspec.structs.fields(kind) if field.name != "rest"}


def read_config(data: bytes) -> ImageConfig:
    """An image's configuration. Raises ImageError that names the member which is none."""
    if len(data) > MAX_CONFIG:
        raise ImageError(f"the image configuration is larger than {MAX_CONFIG} bytes")
    try:
        document = documents.loads(data)
        _check_depth(document)
        if isinstance(document, dict):
            document["rootfs"] = _diff_ids(document.get("rootfs"))
        return _object(ImageConfig, document, "")
    except ValueError as error:
        raise ImageError(f"the image configuration is damaged: {error}") from error


def write_config(config: ImageConfig) -> bytes:
    """The configuration as it is stored: its digest is the image's id."""
    document = members(config) | {"config": members(config.execution)}
    document["rootfs"] = {"type": "layers", "diff_ids": config.diff_ids}
    return json.dumps(document, separators=(",", ":")).encode()


def members(part: _Object) -> dict[str, object]:
    """An object's members that say something, for JSON."""
    given = {key: (getattr(part, field.name), field.default) for key, field in _fields(type(part)).items()}
    return {key: _plain(value) for key, (value, default) in given.items() if value and value != default} | dict(
        part.rest
    )


def _plain(value: object) -> object:
    if isinstance(value, _Object):
        return members(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _object(kind: type[_O], value: object, path: str) -> _O:
    if not isinstance(value, dict):
        raise ValueError(f"{path or 'it'} is of type {type(value).__name__}")
    known = _fields(kind)
    found = {
        known[key].name: _member(known[key].type, item, f"{path}.{key}".lstrip("."))
        for key, item in value.items()
        if key in known and item is not None
    }
    return kind(**found, rest={key: item for key, item in value.items() if key not in known})


def _member(kind: object, value: object, path: str) -> object:
    if isinstance(kind, type) and issubclass(kind, _Object):
        return _object(kind, value, path)
    if kind == tuple[History, ...] and isinstance(value, list):
        return tuple(_object(History, row, f"{path}[{index}]") for index, row in enumerate(value))
    if kind == Mapping[str, str] and isinstance(value, dict):
        value = {key: "" if item is None else item for key, item in value.items()}
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$")
        raise ValueError(f"{path}{where.rstrip('`')}: {what}") from None


def _diff_ids(rootfs: object) -> list[str]:
    if not isinstance(rootfs, dict):
        raise ValueError("it has no rootfs")
    found = rootfs.get("diff_ids")
    if not isinstance(found, list):
        raise ValueError("it has no rootfs.diff_ids")
    if len(found) > MAX_LAYERS:
        raise ValueError(f"it has more than {MAX_LAYERS} layers")
    for item in found:
        if not isinstance(item, str) or not reference.is_digest(item):
            raise ValueError(f"rootfs.diff_ids holds {str(item)[:80]!r}")
    return found


def _check_depth(value: object) -> None:
    level = [value]
    for _ in range(_DEEPEST):
        level = [item for each in level if isinstance(each, (dict, list))
                 for item in (each.values() if isinstance(each, dict) else each)]  # fmt: skip
        if not level:
            return
    raise ValueError(f"it is nested more than {_DEEPEST} deep")
