"""An image and its layers as the store knows them, and what a configuration must look like for the rest of the engine to read it."""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sampan.images.errors import ImageError
from sampan.oci import documents, reference

MAX_CONFIG = 8 << 20
MAX_LAYERS = 128
_DEEPEST = 64
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer as it came: digest and size of the blob, and the digest of the plain tar."""

    digest: str
    size: int
    diff_id: str
    media_type: str = "application/vnd.oci.image.layer.v1.tar"


def chain_ids(diff_ids: list[str]) -> list[str]:
    """The chain ID after each layer (image-spec, config.md)."""
    chain: list[str] = []
    for diff_id in diff_ids:
        text = f"{chain[-1]} {diff_id}" if chain else diff_id
        chain.append(diff_id if not chain else f"sha256:{hashlib.sha256(text.encode()).hexdigest()}")
    return chain


@dataclass(slots=True)
class Image:
    """An image in the store. `id` is the digest of its configuration; `broken` says why that can't be read."""

    id: str
    config: dict[str, Any]
    layers: list[Layer]
    loaded: float
    tags: list[str] = field(default_factory=list)
    broken: str = ""

    @property
    def size(self) -> int:
        """Bytes of all layers as stored."""
        return sum(layer.size for layer in self.layers)

    @property
    def name(self) -> str:
        """What people call it: a tag, or the short id."""
        return reference.parse(self.tags[0]).familiar if self.tags else self.id[7:19]


def checked_config(data: bytes) -> dict[str, Any]:
    """An image configuration (image-spec, config.md) whose fields have the types that its readers expect. Raises ImageError."""
    if len(data) > MAX_CONFIG:
        raise ImageError(f"the image configuration is larger than {MAX_CONFIG} bytes")
    try:
        parsed = documents.loads(data)
    except (ValueError, RecursionError) as error:
        raise ImageError(f"the image configuration is damaged: {error}") from error
    try:
        _check(parsed)
    except _Wrong as error:
        raise ImageError(f"the image configuration is damaged: {error}") from None
    found: dict[str, Any] = parsed
    return found


class _Wrong(Exception):
    pass


def _check(document: object) -> None:
    _depth(document)
    parsed = _of(document, dict, "it")
    rootfs = _of(parsed.get("rootfs"), dict, "rootfs")
    diff_ids = _of(rootfs.get("diff_ids"), list, "rootfs.diff_ids")
    if len(diff_ids) > MAX_LAYERS:
        raise _Wrong(f"it has more than {MAX_LAYERS} layers")
    for item in diff_ids:
        if not isinstance(item, str) or not reference.is_digest(item):
            raise _Wrong(f"rootfs.diff_ids holds {str(item)[:80]!r}")
    for key in ("created", "author", "architecture", "os", "variant", "os.version"):
        _maybe(parsed.get(key), str, key)
    for row in _maybe(parsed.get("history"), list, "history") or []:
        _of(row, dict, "history")
        for key in ("created", "created_by", "comment", "author"):
            _maybe(row.get(key), str, f"history.{key}")
    config = _maybe(parsed.get("config"), dict, "config") or {}
    for key in ("User", "WorkingDir", "StopSignal", "Hostname", "Domainname", "Image"):
        _maybe(config.get(key), str, f"config.{key}")
    for key in ("Env", "Cmd", "Entrypoint", "OnBuild", "Shell"):
        for item in _maybe(config.get(key), list, f"config.{key}") or []:
            _of(item, str, f"config.{key}")
    for key in ("Labels", "Volumes", "ExposedPorts", "Healthcheck"):
        _maybe(config.get(key), dict, f"config.{key}")
    for value in (config.get("Labels") or {}).values():
        _maybe(value, str, "config.Labels")


def _maybe(value: object, kind: type[_T], what: str) -> _T | None:
    return None if value is None else _of(value, kind, what)


def _of(value: object, kind: type[_T], what: str) -> _T:
    if not isinstance(value, kind):
        raise _Wrong(f"{what} is {'missing' if value is None else f'of type {type(value).__name__}'}")
    return value


def _depth(value: object) -> None:
    level = [value]
    for _ in range(_DEEPEST):
        level = [item for each in level if isinstance(each, (dict, list))
                 for item in (each.values() if isinstance(each, dict) else each)]  # fmt: skip
        if not level:
            return
    raise _Wrong(f"it is nested more than {_DEEPEST} deep")


def layers_text(layers: list[Layer]) -> str:
    """The layers as the database has them."""
    return json.dumps([[layer.digest, layer.size, layer.diff_id, layer.media_type] for layer in layers])


def read_layers(text: object) -> list[Layer] | None:
    """The layers as the database has them, or None when the row is damaged."""
    found = _layers(text) if isinstance(text, str) else None
    return None if found is None else list(found)


@functools.lru_cache(256)  # each start asks four times
def _layers(text: str) -> tuple[Layer, ...] | None:
    try:
        rows = json.loads(text)
        found = [Layer(str(digest), int(size), str(diff_id), str(kind)) for digest, size, diff_id, kind in rows]
    except (ValueError, TypeError, RecursionError):
        return None
    good = all(reference.is_digest(row.digest) and reference.is_digest(row.diff_id) for row in found)
    return tuple(found) if good else None
