"""The image store: blobs, layers, the index and garbage collection put together, and what needs several of them."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import os

from sampan.images import compression, schema
from sampan.images.blobs import Blobs
from sampan.images.config import read_config
from sampan.images.database import Statement
from sampan.images.errors import ImageError
from sampan.images.garbage import GarbageCollector
from sampan.images.image import Image, Layer, chain_ids
from sampan.images.index import Check, Index
from sampan.images.layers import Layers
from sampan.images.removal import Removal, RemovalCheck, UserOf, everybody, nobody
from sampan.images.session import Session
from sampan.images.unpacker import Unpacker
from sampan.linux import durable, filetree
from sampan.oci import manifest as oci


class ImageStore:
    """The images below one directory. Methods block: call them from a thread."""

    def __init__(self, root: str, session: str = "") -> None:
        """`session`: a file that does not outlive a stop of the host, to tell by whether there has been one."""
        self.root, self.temporary = root, f"{root}/tmp"  # `temporary`: for what need not survive
        os.makedirs(self.temporary, 0o700, exist_ok=True)
        with contextlib.suppress(OSError):  # read-only: what is there can be used
            os.chmod(root, 0o700)
        for leftover in os.listdir(self.temporary):
            filetree.remove(f"{self.temporary}/{leftover}", ignore_errors=True)
        self._session = Session(root, session)
        self.layers = Layers(root, self._session.cut_short)
        self._session.begin(self.layers.doubtful)
        with contextlib.suppress(OSError):  # read-only
            durable.remove_leftovers(root)
        database = schema.open_database(f"{root}/images.db", f"{root}/damaged")
        self.blobs = Blobs(root, functools.partial(schema.owner_of, database))
        self.index = Index(database, self.blobs, f"{root}/index")
        self.unpacker = Unpacker(self.blobs, self.layers)
        self._lower: dict[str, list[str]] = {}  # lower directories by image id, until garbage is collected
        self.garbage = GarbageCollector(root, self.index, self.blobs, self.layers, self._lower.clear)
        self._removal = Removal(self.index)
        self.hold, self.using = self.garbage.hold, self._removal.using

    def close(self) -> None:
        """Ends the use of the store: all layers are on disk, and the next to open it knows that."""
        with contextlib.suppress(OSError):  # else it is for the next to check
            self.layers.seal()
            if not self.layers.doubtful:
                self._session.end()
        self.index.close()

    def free(self) -> int:
        """Bytes that are free on the disk of the store."""
        found = os.statvfs(self.root)
        return found.f_bavail * found.f_frsize

    def prepared(self, image_id: str) -> bool:
        """Whether lower_directories answers at once."""
        return image_id in self._lower

    def lower_directories(self, image: Image) -> list[str]:
        """The directories whose overlay is the image's root file system. A layer that is missing or not whole is
        unpacked again from its blob. Raises ImageError, which names the image and the way out.
        """
        directories = self._lower.get(image.id)
        if directories is None:
            if image.broken and not image.layers:
                raise ImageError(f"image {image.name} is broken: {image.broken}")
            diff_ids = [layer.diff_id for layer in image.layers]
            try:
                with self.hold():
                    for index, layer in enumerate(image.layers):
                        self.unpacker.unpack(layer.digest, diff_ids[: index + 1])
                    self.layers.seal()
                    directories = self.layers.directories(chain_ids(diff_ids))
            except ImageError as error:
                raise ImageError(f"image {image.name}: {error}") from error
            self._lower[image.id] = directories
        return list(directories) or [self.layers.mountpoints_directory()]

    def add(
        self, config: bytes, layers: list[Layer], tags: list[str], again: bool = False, more: tuple[Statement, ...] = (),
        check: Check | None = None,
    ) -> Image:  # fmt: skip
        """Unpacks all layers and enters the image under `tags`, durably. Raises ImageError.

        `again`: layers that are there already are compared with their records first (see Layers.trusted). `more`
        goes into the same transaction. `check` is asked about the tags before they are another image's no more.
        """
        diff_ids = read_config(config).diff_ids
        if list(diff_ids) != [layer.diff_id for layer in layers]:
            raise ImageError("the image configuration does not list the layers of the manifest")
        with self.hold():
            for index, layer in enumerate(layers):
                self.unpacker.unpack(layer.digest, diff_ids[: index + 1], again)
            image_id = f"sha256:{hashlib.sha256(config).hexdigest()}"
            if not self.blobs.sound(image_id):
                self.blobs.put(io.BytesIO(config))
            self.layers.seal()
            if not again and not more and self.index.has(image_id, layers, tags, check):
                return self.index.get(image_id)  # a build that found everything in its cache
            self.index.enter(image_id, layers, tags, more, check)
            self._lower.pop(image_id, None)
        return self.index.get(image_id)

    def compressed(self, layer: Layer) -> Layer:
        """The layer as it is sent: as it came or, when it is kept as a plain tar, its gzip, which is made once."""
        with self.blobs.open(layer.digest) as file:
            kind = compression.kind(file)
            if kind != "":
                return Layer(layer.digest, layer.size, layer.diff_id, f"{oci.OCI_LAYER}+{kind}")
            made = self.index.gzip_of(layer.digest)
            if made is None or not self.blobs.sound(made[0]):
                made = self.blobs.put(compression.gzip_stream(file))
                self.index.remember_gzip(layer.digest, *made)
        return Layer(*made, layer.diff_id, f"{oci.OCI_LAYER}+gzip")

    def remove(
        self, text: str, force: bool, user_of: UserOf = nobody, check: RemovalCheck = everybody
    ) -> list[dict[str, str]]:
        """Takes a reference away, or deletes an image that has no other (see Removal.remove). Returns the API's answer rows."""
        rows, gone = self._removal.remove(text, force, user_of, check)
        if gone:
            self.collect_garbage()
        return rows

    def collect_garbage(self) -> int:
        """See GarbageCollector.collect."""
        return self.garbage.collect()
