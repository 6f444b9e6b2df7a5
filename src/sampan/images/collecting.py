"""Garbage collection: what no image needs is moved out of the way, which is quick, and then deleted.

Nothing goes on doubt. An image whose record can't be read may need any blob and layer, and a manifest that can't be
read may list any blob: then they stay until somebody removes or repairs the image.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sampan.images.errors import ImageError
from sampan.images.image import read_layers
from sampan.images.layerstore import chain_ids
from sampan.linux import filetree
from sampan.oci import manifest as oci

if TYPE_CHECKING:
    from sampan.images.database import Database
    from sampan.images.store import ImageStore


@dataclass(slots=True)
class Garbage:
    """What has been moved to `places`, and the digests of blobs that are gone."""

    places: list[str] = field(default_factory=list)
    blobs: list[str] = field(default_factory=list)
    size: int = 0


@dataclass(slots=True)
class _Needed:
    blobs: set[str] = field(default_factory=set)
    chains: set[str] = field(default_factory=set)
    all_blobs: bool = False  # for all that is known
    all_layers: bool = False


def sort_out(store: ImageStore, ledger: Database, root: str) -> Garbage:
    """Moves what nothing needs to a temporary directory. Nobody may begin to need something meanwhile."""
    needed = _needed(store, ledger)
    found = Garbage()
    try:
        place = tempfile.mkdtemp(dir=f"{root}/tmp")
        found.places.append(place)
    except OSError:  # a full disk: what is deleted one by one makes room for the next time
        place = ""
    if not needed.all_blobs:
        for digest in store.blobs.all():
            if digest not in needed.blobs:
                with contextlib.suppress(OSError):
                    found.size += store.blobs.take_out(digest, f"{place or root}/{digest[7:]}")
                    found.blobs.append(digest)
                    if not place:
                        os.unlink(f"{root}/{digest[7:]}")
        store.blobs.forget_leftovers(needed.blobs)
    if not needed.all_layers:
        found.places += store.take_out_layers(needed.chains, store.kept_layers(), place)
    return found


def _needed(store: ImageStore, ledger: Database) -> _Needed:
    needed = _Needed()
    for image_id, text in ledger.rows("SELECT id, layers FROM images"):
        layers = read_layers(text)
        if layers is None:
            print(f"sampand: the record of image {image_id} is damaged: nothing is collected", file=sys.stderr)
            needed.all_blobs = needed.all_layers = True
            break
        needed.blobs |= {str(image_id), *(layer.digest for layer in layers)}
        needed.chains |= set(chain_ids([layer.diff_id for layer in layers]))
    for (digest,) in ledger.rows("SELECT digest FROM manifests"):
        needed.blobs.add(digest)
        try:
            document = oci.parse(store.read_blob(digest, oci.MAX_SIZE))
        except (ImageError, oci.BadManifest) as error:
            print(f"sampand: no blobs are collected, since a manifest can't be read: {error}", file=sys.stderr)
            needed.all_blobs = True
            continue
        needed.blobs |= {part.digest for part in getattr(document, "layers", ())}
    needed.blobs |= {row[1] for row in ledger.rows("SELECT digest, gzip FROM compressed") if row[0] in needed.blobs}
    return needed


def finish(found: Garbage, ledger: Database) -> int:
    """Deletes what has been sorted out. Returns the bytes of its blobs."""
    for place in found.places:
        filetree.remove(place, ignore_errors=True)
    if found.blobs:
        with contextlib.suppress(ImageError):  # no more than notes about blobs that are gone
            ledger.change(
                *(("DELETE FROM sources WHERE digest = ?", (digest,)) for digest in found.blobs),
                *(("DELETE FROM compressed WHERE ? IN (digest, gzip)", (digest,)) for digest in found.blobs),
                ("DELETE FROM signatures WHERE digest NOT IN (SELECT digest FROM digests)", ()),
                removing=True,
            )
    ledger.has_room_again()
    return found.size
