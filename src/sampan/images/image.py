"""An image and its layers as the store knows them."""

from __future__ import annotations

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from sampan.images.config import ImageConfig
from sampan.oci import manifest as oci
from sampan.oci import reference


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer as it came: digest and size of the blob, and the digest of the plain tar."""

    digest: str
    size: int
    diff_id: str
    media_type: str = "application/vnd.oci.image.layer.v1.tar"


def chain_ids(diff_ids: Sequence[str]) -> list[str]:
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
    config: ImageConfig
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


def shared_sizes(images: list[Image]) -> dict[str, int]:
    """By image id, the bytes of those of its layers that others of these images have as well."""
    chains = {image.id: chain_ids([layer.diff_id for layer in image.layers]) for image in images}
    users = Counter(chain for found in chains.values() for chain in found)
    return {
        image.id: sum(
            layer.size for layer, chain in zip(image.layers, chains[image.id], strict=True) if users[chain] > 1
        )
        for image in images
    }


def manifest_of(image_id: str, config_size: int, layers: list[Layer]) -> bytes:
    """The manifest of an image with its layers as they are there, or as they are sent."""
    rows = tuple(oci.Descriptor(layer.media_type, layer.digest, layer.size) for layer in layers)
    return oci.write(oci.Manifest(oci.OCI_MANIFEST, oci.Descriptor(oci.OCI_CONFIG, image_id, config_size), rows))


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
