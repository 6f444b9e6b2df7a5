"""Garbage collection: what no image needs is moved out of the way, which is quick, and then deleted.

Nothing goes on doubt. An image whose record can't be read may need any blob and layer, and a manifest that can't be
read may list any blob: then they stay until somebody removes or repairs the image.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from sampan.images.blobs import Blobs
from sampan.images.errors import ImageError
from sampan.images.image import chain_ids
from sampan.images.index import Index
from sampan.images.layers import Layers
from sampan.linux import filetree
from sampan.oci import manifest as oci

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Garbage:
    """What has been moved to `places`, the digests of blobs that are gone, and their bytes."""

    places: list[str] = field(default_factory=list)
    blobs: list[str] = field(default_factory=list)
    size: int = 0


@dataclass(slots=True)
class Needed:
    """What images need: digests of blobs, chain IDs of layers; `all_blobs`, `all_layers`: whatever there is, on doubt."""

    blobs: set[str] = field(default_factory=set)
    chains: set[str] = field(default_factory=set)
    all_blobs: bool = False
    all_layers: bool = False


class GarbageCollector:
    """Collects when something has been removed and nobody holds the store; methods may be called from any thread."""

    def __init__(self, root: str, index: Index, blobs: Blobs, layers: Layers, before: Callable[[], None]) -> None:
        """`before` is called when something is about to go."""
        self._root, self._index, self._blobs, self._layers, self._before = root, index, blobs, layers, before
        self._holds, self._due, self._lock = 0, False, threading.Lock()
        self.kept_layers: Callable[[], set[int]] = set  # layer directories that something else needs: the build cache

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """While this lasts no garbage is collected: what has no image yet is about to get one (P038)."""
        with self._lock:
            self._holds += 1
        try:
            yield
        finally:
            with self._lock:
                self._holds -= 1
                due = self._due and not self._holds
            if due:
                _beside_a_loop(self.collect)

    def collect(self) -> int:
        """Deletes blobs and layers that no image needs, now or when the last hold ends. Returns the bytes of blobs freed."""
        with self._lock:
            self._due = self._holds > 0
            if self._due:
                return 0
            self._before()
            garbage = self._sort_out()
        for place in garbage.places:
            filetree.remove(place, ignore_errors=True)
        self._index.forget_blobs(garbage.blobs)
        return garbage.size

    def _sort_out(self) -> Garbage:
        """Moves what nothing needs to a temporary directory. Nobody may begin to need something meanwhile."""
        needed = find_needed(self._index, self._blobs)
        found = Garbage()
        try:
            place = tempfile.mkdtemp(dir=f"{self._root}/tmp")
            found.places.append(place)
        except OSError:  # a full disk: what is deleted one by one makes room for the next time
            place = ""
        if not needed.all_blobs:
            for digest in self._blobs.all():
                if digest not in needed.blobs:
                    with contextlib.suppress(OSError):
                        found.size += self._blobs.take_out(digest, f"{place or self._root}/{digest[7:]}")
                        found.blobs.append(digest)
                        if not place:
                            os.unlink(f"{self._root}/{digest[7:]}")
            self._blobs.forget_leftovers(needed.blobs)
        if not needed.all_layers:
            found.places += self._layers.take_out(needed.chains, self.kept_layers(), place)
        return found


def find_needed(index: Index, blobs: Blobs) -> Needed:
    """What the images of the index need."""
    needed = Needed()
    for image_id, layers in index.layers_by_image():
        if layers is None:
            _log.warning(f"the record of image {image_id} is damaged: nothing is collected")
            needed.all_blobs = needed.all_layers = True
            break
        needed.blobs |= {image_id, *(layer.digest for layer in layers)}
        needed.chains |= set(chain_ids([layer.diff_id for layer in layers]))
    for digest in index.all_manifests():
        needed.blobs.add(digest)
        try:
            document = oci.parse(blobs.read(digest, oci.MAX_SIZE))
        except (ImageError, oci.BadManifest) as error:
            _log.warning(f"no blobs are collected, since a manifest can't be read: {error}")
            needed.all_blobs = True
            continue
        needed.blobs |= {part.digest for part in getattr(document, "layers", ())}
    needed.blobs |= {gzip for digest, gzip in index.gzips() if digest in needed.blobs}
    return needed


def _beside_a_loop(work: Callable[[], int]) -> None:
    """Calls it; in a thread when this one runs an event loop."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        work()
        return
    loop.run_in_executor(None, work)
