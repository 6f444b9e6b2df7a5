"""Manifests and indexes: parsed, checked, and the choice of a platform. No I/O.

Sources: image-spec (manifest.md, image-index.md) and Docker's image manifest version 2, schema 2.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

from sampan.oci import documents, reference

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_SCHEMA1 = ("application/vnd.docker.distribution.manifest.v1+prettyjws", "application/vnd.docker.distribution.manifest.v1+json")  # fmt: skip
MANIFESTS, INDEXES = (OCI_MANIFEST, DOCKER_MANIFEST), (OCI_INDEX, DOCKER_LIST)
MAX_SIZE = 4 << 20
_MAX_LAYERS = 128
_MAX_BLOB = 1 << 40


class BadManifest(ValueError):
    """The document is no manifest we can trust."""


@dataclass(frozen=True, slots=True)
class Platform:
    """Operating system, architecture and variant, as in "linux/arm/v7"; empty parts match all."""

    os: str = ""
    architecture: str = ""
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What a document says of another: its type, digest and size in bytes."""

    media_type: str
    digest: str
    size: int
    platform: Platform = Platform()


@dataclass(frozen=True, slots=True)
class Manifest:
    """An image: its configuration and its layers from the bottom up."""

    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True)
class Index:
    """Manifests for several platforms."""

    media_type: str
    manifests: tuple[Descriptor, ...]


def host_platform() -> Platform:
    """This machine's."""
    machine = os.uname().machine
    names = {"x86_64": ("amd64", ""), "aarch64": ("arm64", ""), "armv7l": ("arm", "v7"), "i686": ("386", "")}
    architecture, variant = names.get(machine, (machine, ""))
    return Platform("linux", architecture, variant)


def parse_platform(text: str) -> Platform:
    """Reads "linux/arm/v7", "arm64" or "linux". Raises BadManifest."""
    parts = text.lower().split("/")
    aliases = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "i386": "386", "armhf": "arm", "armel": "arm"}
    if not all(parts) or len(parts) > 3:
        raise BadManifest(f"invalid platform {text!r}: expected OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT")
    if len(parts) == 1:
        system, rest = (
            ("linux", parts) if parts[0] not in ("linux", "windows") else (parts[0], [host_platform().architecture])
        )
    else:
        system, rest = parts[0], parts[1:]
    return Platform(system, aliases.get(rest[0], rest[0]), rest[1] if len(rest) > 1 else "")


def read_platform(value: object) -> Platform:
    """A platform as an object of the image specification has it. Raises BadManifest."""
    fields = [value.get(key) or "" for key in ("os", "architecture", "variant")] if isinstance(value, dict) else [None]
    texts = [field for field in fields if isinstance(field, str)]
    if len(texts) != len(fields):
        raise BadManifest("failed to parse platform: an object of strings is wanted")
    found = Platform(*texts)
    if not found.os and not found.architecture and found.variant:
        raise BadManifest("optional platform fields provided, but OS and Architecture are missing")
    if not found.os or not found.architecture:
        raise BadManifest("both OS and Architecture must be provided")
    return found


def fits(own: Platform, wanted: Platform) -> bool:
    """Whether what is made for one platform runs where another is wanted; what it does not say, fits."""
    if (own.os or wanted.os, own.architecture or wanted.architecture) != (wanted.os, wanted.architecture):
        return False
    return not own.variant or not wanted.variant or own.variant in _variants(wanted)


def parse(data: bytes, content_type: str = "") -> Manifest | Index:
    """Reads a document. Its own mediaType, its content and the Content-Type must agree (S021). Raises BadManifest."""
    if len(data) > MAX_SIZE:
        raise BadManifest(f"the manifest is larger than {MAX_SIZE} bytes")
    try:
        document = documents.loads(data, _unique)
    except ValueError as error:
        raise BadManifest(f"the manifest is damaged: {error}") from None
    if not isinstance(document, dict):
        raise BadManifest("the manifest is no JSON object")
    content_type = content_type.partition(";")[0].strip()
    if document.get("schemaVersion") == 1 or content_type in DOCKER_SCHEMA1:
        raise BadManifest(
            "the image has a manifest of schema 1, which is deprecated and unsupported: push it again with a newer client"
        )
    if document.get("schemaVersion") != 2:
        raise BadManifest(f"unknown manifest schema {document.get('schemaVersion')!r}")
    if "manifests" in document and ("layers" in document or "config" in document):
        raise BadManifest("the document is an index and a manifest at once: refused")
    own = document.get("mediaType") or ""
    if own and content_type and own != content_type and content_type in (*MANIFESTS, *INDEXES):
        raise BadManifest(f"the registry calls it {content_type}, the document itself {own}: refused")
    kind = own or content_type
    if "manifests" in document:
        if kind and kind not in INDEXES:
            raise BadManifest(f"unknown media type {kind!r} of an index")
        rows = tuple(_descriptor(row) for row in _list(document["manifests"]))
        return Index(kind or OCI_INDEX, rows)
    if kind and kind not in MANIFESTS:
        raise BadManifest(f"unknown media type {kind!r} of a manifest")
    layers = _list(document.get("layers"))
    if len(layers) > _MAX_LAYERS:
        raise BadManifest(f"the image has more than {_MAX_LAYERS} layers")
    return Manifest(
        kind or OCI_MANIFEST, _descriptor(document.get("config")), tuple(_descriptor(row) for row in layers)
    )


def write(manifest: Manifest) -> bytes:
    """The document of a manifest."""
    document = {
        "schemaVersion": 2,
        "mediaType": manifest.media_type,
        "config": _row(manifest.config),
        "layers": [_row(layer) for layer in manifest.layers],
    }
    return json.dumps(document, separators=(",", ":")).encode()


def _row(descriptor: Descriptor) -> dict[str, str | int]:
    return {"mediaType": descriptor.media_type, "digest": descriptor.digest, "size": descriptor.size}


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key appears twice")
    return found


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise BadManifest("the manifest has no list of layers or manifests")
    return value


def _descriptor(value: object) -> Descriptor:
    if not isinstance(value, dict):
        raise BadManifest("a descriptor is no JSON object")
    digest, size, kind = value.get("digest"), value.get("size"), value.get("mediaType") or ""
    if not isinstance(digest, str) or not reference.is_digest(digest) or not digest.startswith("sha256:"):
        raise BadManifest(f"unsupported digest {str(digest)[:80]!r}")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= _MAX_BLOB:
        raise BadManifest(f"{digest}: impossible size {str(size)[:40]}")
    if not isinstance(kind, str):
        raise BadManifest(f"{digest}: its media type is no text")
    platform = value.get("platform")
    platform = platform if isinstance(platform, dict) else {}
    fields = (platform.get(key) for key in ("os", "architecture", "variant"))
    return Descriptor(kind, digest, size, Platform(*(field if isinstance(field, str) else "" for field in fields)))


def choose(index: Index, wanted: Platform) -> Descriptor:
    """The manifest for a platform; a lesser variant will do where the wanted one is missing. Raises BadManifest."""
    known = [row for row in index.manifests if row.media_type in MANIFESTS]
    same = [row for row in known if (row.platform.os or wanted.os, row.platform.architecture or wanted.architecture)
            == (wanted.os, wanted.architecture)]  # fmt: skip
    for variant in _variants(wanted):
        for row in same:
            if row.platform.variant == variant:
                return row
    if same and not wanted.variant:
        return same[0]
    have = ", ".join(sorted({str(row.platform) for row in known if row.platform.os not in ("", "unknown")}))
    raise BadManifest(f"no matching manifest for {wanted} in the manifest list entries (it has {have or 'none'})")


def _variants(wanted: Platform) -> list[str]:
    """Those that run on the wanted one, the best first."""
    if wanted.architecture == "arm64":
        return list(dict.fromkeys([wanted.variant, "v8", ""]))
    if wanted.architecture == "arm" and wanted.variant[:1] == "v" and wanted.variant[1:].isdecimal():
        return [f"v{number}" for number in range(int(wanted.variant[1:]), 4, -1)] + [""]
    return list(dict.fromkeys([wanted.variant, ""]))
