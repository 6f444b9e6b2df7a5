"""The database of images after damage: what could not be read of it is found again in the files beside it."""

from __future__ import annotations

import contextlib
import json
import os
import time

import msgspec

from sampan.images.blobs import Blobs
from sampan.images.config import read_config
from sampan.images.database import Database, Statement
from sampan.images.errors import ImageError
from sampan.images.image import read_layers
from sampan.linux.files import regular
from sampan.oci import manifest as oci

_SMALL = oci.MAX_SIZE


class _Entry(msgspec.Struct):
    """An image's file in the index's directory (Index.enter)."""

    layers: str
    loaded: float


def rebuild(database: Database, blobs: Blobs, index: str) -> tuple[int, int]:
    """Enters images that are not in the database. Returns how many images there are, and how many of them have no name."""
    known = {row[0] for row in database.rows("SELECT id FROM images")}
    changes: list[Statement] = []
    for image_id, layers, loaded in _from_index(index):
        if image_id not in known and blobs.has(image_id):
            known.add(image_id)
            changes.append(("INSERT INTO images VALUES (?, ?, ?)", (image_id, layers, loaded)))
    for digest, document in _manifests(blobs):
        image_id = document.config.digest
        with contextlib.suppress(ImageError):
            diff_ids = read_config(blobs.read(image_id)).diff_ids
            if len(diff_ids) != len(document.layers):
                continue
            rows = [[row.digest, row.size, diff_id, row.media_type or oci.OCI_LAYER]
                    for row, diff_id in zip(document.layers, diff_ids, strict=True)]  # fmt: skip
            if image_id not in known:
                known.add(image_id)
                changes.append(("INSERT INTO images VALUES (?, ?, ?)", (image_id, json.dumps(rows), time.time())))
            changes.append(("INSERT OR IGNORE INTO manifests VALUES (?, ?)", (image_id, digest)))
    if changes:
        database.change(*changes)
    named = {row[0] for row in database.rows("SELECT id FROM tags UNION SELECT id FROM digests")}
    return len(known), len(known - named)


def _from_index(index: str) -> list[tuple[str, str, float]]:
    found = []
    for name in os.listdir(index):
        with (
            contextlib.suppress(OSError, ValueError, RecursionError),
            open(f"{index}/{name}", "rb", opener=regular) as file,
        ):
            entry = msgspec.json.decode(file.read(1 << 20), type=_Entry)
            if len(name) == 69 and read_layers(entry.layers) is not None:
                found.append((f"sha256:{name[:64]}", entry.layers, entry.loaded))
    return found


def _manifests(blobs: Blobs) -> list[tuple[str, oci.Manifest]]:
    found = []
    for digest in blobs.all():
        with contextlib.suppress(OSError, ImageError, oci.BadManifest):
            if os.stat(blobs.path(digest)).st_size <= _SMALL:
                with open(blobs.path(digest), "rb", opener=regular) as file:
                    if file.read(1) != b"{":
                        continue
                document = oci.parse(blobs.read(digest, _SMALL))
                if isinstance(document, oci.Manifest):
                    found.append((digest, document))
    return found
