"""From a layer's blob to its directory: staged by itself, then committed on top of the layers below it."""

from __future__ import annotations

import os
from collections.abc import Sequence

from sampan.images import compression, unpack_worker
from sampan.images.blobs import Blobs
from sampan.images.config import MAX_LAYERS
from sampan.images.errors import ImageError
from sampan.images.extract import Extractor
from sampan.images.image import chain_ids
from sampan.images.layer import NeedsLower, inherit_implied
from sampan.images.layers import Layers
from sampan.images.unpack_worker import Staged
from sampan.linux import filetree, mount


class Unpacker:
    """Makes layers of blobs. Methods block: call them from a thread."""

    def __init__(self, blobs: Blobs, layers: Layers) -> None:
        self._blobs, self._layers = blobs, layers

    def unpack(self, layer_digest: str, diff_ids: Sequence[str], again: bool = False) -> None:
        """Unpacks the last of `diff_ids` on top of the others, unless that chain is there already. `again`: see Layers.trusted."""
        if self._layers.has(diff_ids, again):
            return
        if not self._blobs.has(layer_digest):
            raise self._blobs.damaged(layer_digest, "missing")
        directory = self._layers.new_stage()
        try:
            staged = unpack_worker.stage(self._blobs.path(layer_digest), f"{directory}/fs")
        except BaseException as error:
            filetree.remove(directory, ignore_errors=True)
            if isinstance(error, ImageError):
                self._blobs.check(layer_digest)  # a damaged blob is the better explanation
                raise ImageError(f"layer {layer_digest}: {error}") from error
            raise
        self.commit(layer_digest, diff_ids, directory, staged)

    def commit(self, layer_digest: str, diff_ids: Sequence[str], directory: str, staged: Staged) -> None:
        """Makes a staged layer the last of `diff_ids`, whose others are there. Raises ImageError; the stage is gone then."""
        chain = chain_ids(diff_ids)
        try:
            if len(chain) > MAX_LAYERS:
                raise ImageError(f"the image has more than {MAX_LAYERS} layers")
            if staged.diff_id != diff_ids[-1]:
                self._blobs.check(layer_digest)
                raise ImageError(
                    f"layer {layer_digest} unpacks to {staged.diff_id}, not to {diff_ids[-1]} as the image says"
                )
            if not self._fits_below(directory, staged, chain[:-1]):
                filetree.remove(f"{directory}/fs")
                os.mkdir(f"{directory}/fs", 0o755)
                self._unpack_on_overlay(directory, layer_digest, chain[:-1])
            number = self._layers.commit(directory)
        except BaseException:
            filetree.remove(directory, ignore_errors=True)
            raise
        self._layers.replace(chain[-1], number)

    def _fits_below(self, directory: str, staged: Staged, parents: list[str]) -> bool:
        """Settles the stage's implied directories. False when the layer has to be unpacked on an overlay."""
        if not staged.complete:
            return False
        if not parents or not staged.implied:
            return True
        lower = mount.overlay([*self._layers.directories(parents), self._layers.mountpoints_directory()], None, None)
        upper = os.open(f"{directory}/fs", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            inherit_implied(upper, staged.implied, lower)
            return True
        except NeedsLower:
            return False
        finally:
            os.close(lower)
            os.close(upper)

    def _unpack_on_overlay(self, directory: str, digest: str, parents: list[str]) -> None:
        upper = f"{directory}/fs"
        if parents:
            os.mkdir(f"{directory}/work", 0o700)
            rootfd = mount.overlay(self._layers.directories(parents), upper, f"{directory}/work")
        else:
            rootfd = os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with self._blobs.open(digest) as blob:
                try:
                    Extractor(rootfd, whiteouts=True).extract(compression.decompress(blob))
                except compression.ERRORS as error:
                    raise ImageError(f"layer {digest}: {error}") from error
        finally:
            os.close(rootfd)
        filetree.remove(f"{directory}/work", ignore_errors=True)
