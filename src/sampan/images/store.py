"""The index of images, their names, and what is known of them in registries."""

from __future__ import annotations

import io
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sampan.images import compression
from sampan.images.errors import ImageError, ImageInUse, ImageNotFound
from sampan.images.layerstore import Layer, LayerStore, chain_ids
from sampan.images.ledger import open_ledger
from sampan.oci import manifest as oci
from sampan.oci import reference


@dataclass(slots=True)
class Image:
    """An image in the store. `id` is the digest of its configuration."""

    id: str
    config: dict[str, Any]
    layers: list[Layer]
    loaded: float
    tags: list[str] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes of all layers as stored."""
        return sum(layer.size for layer in self.layers)


class ImageStore(LayerStore):
    """Images over their blobs and layers. Methods block: call them from a thread."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self._configs: dict[str, dict[str, Any]] = {}  # parsed once: a digest's content never changes
        self.kept_layers: Callable[[], set[int]] = set  # layer directories that something else needs: the build cache
        self._lower: dict[str, list[str]] = {}  # lower directories by image id, until garbage is collected
        self._db = open_ledger(f"{root}/images.db")
        self._transaction = threading.Lock()  # the threads share a connection

    # images

    def lower_directories(self, image: Image) -> list[str]:
        """The directories whose overlay is the image's root file system."""
        directories = self._lower.get(image.id)
        if directories is None:
            directories = self._layer_directories(chain_ids([layer.diff_id for layer in image.layers]))
            self._lower[image.id] = directories
        return list(directories) or [self.mountpoints_directory()]

    def add(self, config: bytes, layers: list[Layer], tags: list[str]) -> Image:
        """Unpacks all layers and enters the image under `tags`. Raises ImageError."""
        try:
            parsed = json.loads(config)
            diff_ids = [str(item) for item in parsed["rootfs"]["diff_ids"]]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ImageError(f"the image configuration is damaged: {error!r}") from error
        if diff_ids != [layer.diff_id for layer in layers]:
            raise ImageError("the image configuration does not list the layers of the manifest")
        for index, layer in enumerate(layers):
            self.unpack(layer.digest, diff_ids[: index + 1])
        image_id, _ = self.put_blob(io.BytesIO(config))
        rows = json.dumps([[x.digest, x.size, x.diff_id, x.media_type] for x in layers])
        with self._transaction, self._db:
            self._db.execute("BEGIN")
            self._db.execute("INSERT OR IGNORE INTO images VALUES (?, ?, ?)", (image_id, rows, time.time()))
            for tag in tags:
                self._db.execute("INSERT OR REPLACE INTO tags VALUES (?, ?)", (tag, image_id))
        return self.get(image_id)

    def all(self) -> list[Image]:
        """All images, the newest first."""
        rows = self._db.execute("SELECT id FROM images ORDER BY loaded DESC").fetchall()
        return [self.get(row[0]) for row in rows]

    def get(self, image_id: str) -> Image:
        """An image by its full id. Raises ImageNotFound."""
        row = self._db.execute("SELECT layers, loaded FROM images WHERE id = ?", (image_id,)).fetchone()
        if row is None:
            raise ImageNotFound(f"No such image: {image_id}")
        tags = [r[0] for r in self._db.execute("SELECT name FROM tags WHERE id = ? ORDER BY name", (image_id,))]
        config = self._configs.get(image_id)
        if config is None:
            config = self._configs[image_id] = json.loads(self.read_blob(image_id))
        return Image(image_id, config, [Layer(*item) for item in json.loads(row[0])], row[1], tags)

    def find(self, text: str) -> Image:
        """An image by name, full id or unique prefix of one. Raises ImageNotFound."""
        try:
            name = str(reference.parse(text).with_default_tag())
            ref = reference.parse(name)
            if ref.digest:
                row = self._db.execute(
                    "SELECT id FROM digests WHERE name = ? AND digest = ?", (ref.name, ref.digest)
                ).fetchone()
            else:
                row = self._db.execute("SELECT id FROM tags WHERE name = ?", (name,)).fetchone()
            if row:
                return self.get(row[0])
        except reference.BadReference:
            pass
        prefix = text.removeprefix("sha256:")
        if prefix and all(c in "0123456789abcdef" for c in prefix):
            rows = self._db.execute("SELECT id FROM images WHERE id LIKE ? LIMIT 2", (f"sha256:{prefix}%",)).fetchall()
            if len(rows) == 1:
                return self.get(rows[0][0])
            if rows:
                raise ImageError(f"{text} is the beginning of several image ids: give more of it")
        raise ImageNotFound(f"No such image: {text}")

    def tag(self, image: Image, name: str) -> None:
        """Gives an image one more name, taking it from any other."""
        ref = reference.parse(name).with_default_tag()
        if ref.digest:
            raise reference.BadReference(f"refusing to create a tag with a digest reference: {name}")
        self._db.execute("INSERT OR REPLACE INTO tags VALUES (?, ?)", (str(ref), image.id))

    # registries

    def remember_manifest(self, image: Image, name: str, data: bytes) -> None:
        """Keeps the bytes of the manifest that an image has in a registry."""
        digest, _ = self.put_blob(io.BytesIO(data))
        self._db.execute("DELETE FROM manifests WHERE id = ? AND digest = ?", (image.id, digest))
        self._db.execute("INSERT INTO manifests VALUES (?, ?)", (image.id, digest))
        self.remember_digest(image, name, digest)

    def remember_digest(self, image: Image, name: str, digest: str) -> None:
        """Notes that `name@digest` is this image."""
        self._db.execute("INSERT OR REPLACE INTO digests VALUES (?, ?, ?)", (name, digest, image.id))

    def remember_source(self, digest: str, registry: str, repository: str) -> None:
        """Notes that a repository has a layer."""
        self._db.execute("INSERT OR IGNORE INTO sources VALUES (?, ?, ?)", (digest, registry, repository))

    def sources(self, digest: str) -> list[tuple[str, str]]:
        """(registry, repository) where a layer is known to be."""
        return list(self._db.execute("SELECT registry, repository FROM sources WHERE digest = ?", (digest,)))

    def manifests(self, image: Image) -> list[bytes]:
        """The manifests that the image came or went with, the latest first."""
        rows = self._db.execute("SELECT digest FROM manifests WHERE id = ? ORDER BY rowid DESC", (image.id,)).fetchall()
        return [self.read_blob(row[0]) for row in rows]

    def digests(self, image: Image) -> list[str]:
        """The "name@digest" forms of an image."""
        rows = self._db.execute("SELECT name, digest FROM digests WHERE id = ? ORDER BY name", (image.id,))
        return [f"{name}@{digest}" for name, digest in rows]

    def remember_signature(self, digest: str, payload: bytes, signature: bytes) -> None:
        """Keeps what claims to be a signature of a manifest."""
        self._db.execute("INSERT OR IGNORE INTO signatures VALUES (?, ?, ?)", (digest, payload, signature))

    def signatures(self, digest: str) -> list[tuple[bytes, bytes]]:
        """(payload, signature) of what claims to be signatures of a manifest."""
        return list(self._db.execute("SELECT payload, signature FROM signatures WHERE digest = ?", (digest,)))

    def compressed(self, layer: Layer) -> Layer:
        """The layer as it is sent: as it came or, when it is kept as a plain tar, its gzip, which is made once."""
        with open(self.blob_path(layer.digest), "rb") as file:
            kind = compression.kind(file)
        if kind != "":
            return Layer(layer.digest, layer.size, layer.diff_id, f"{oci.OCI_LAYER}+{kind}")
        row = self._db.execute("SELECT gzip, size FROM compressed WHERE digest = ?", (layer.digest,)).fetchone()
        if row is None or not self.has_blob(row[0]):
            with open(self.blob_path(layer.digest), "rb") as file:
                row = self.put_blob(compression.gzip_stream(file))
            self._db.execute("INSERT OR REPLACE INTO compressed VALUES (?, ?, ?)", (layer.digest, *row))
        return Layer(row[0], row[1], layer.diff_id, f"{oci.OCI_LAYER}+gzip")

    def remove(self, text: str, force: bool, in_use: bool) -> list[dict[str, str]]:
        """Untags a name, or deletes an image that has no other. Returns the API's answer rows."""
        image = self.find(text)
        by_id = image.id.removeprefix("sha256:").startswith(text.removeprefix("sha256:"))
        if not by_id:
            name = str(reference.parse(text).with_default_tag())
            if len(image.tags) > 1 or (in_use and force):
                self._db.execute("DELETE FROM tags WHERE name = ?", (name,))
                return [{"Untagged": reference.parse(name).familiar}]
        elif len(image.tags) > 1 and not force:
            raise ImageInUse(
                f"conflict: unable to delete {image.id[7:19]} (must be forced) - image is referenced in "
                "multiple repositories"
            )
        if in_use:
            raise ImageInUse(f"conflict: unable to delete {text} (must be forced) - a container is using it")
        for table in ("tags", "digests", "manifests"):
            self._db.execute(f"DELETE FROM {table} WHERE id = ?", (image.id,))
        self._db.execute("DELETE FROM images WHERE id = ?", (image.id,))
        self.collect_garbage()
        rows = [{"Untagged": reference.parse(tag).familiar} for tag in image.tags]
        return [*rows, {"Deleted": image.id}]

    def collect_garbage(self) -> int:
        """Deletes blobs and layers that no image needs. Returns the bytes of blobs freed."""
        with self._hold_lock:
            self._garbage = self._holds > 0
            if self._garbage:
                return 0
        images = self.all()
        blobs = {image.id for image in images} | {x.digest for image in images for x in image.layers}
        for row in self._db.execute("SELECT digest FROM manifests").fetchall():
            document = oci.parse(self.read_blob(row[0]))
            blobs |= {row[0], *(part.digest for part in getattr(document, "layers", ()))}
        blobs |= {row[1] for row in self._db.execute("SELECT digest, gzip FROM compressed") if row[0] in blobs}
        chains = {c for image in images for c in chain_ids([x.diff_id for x in image.layers])}
        self._db.execute("DELETE FROM signatures WHERE digest NOT IN (SELECT digest FROM digests)")
        freed, kept = 0, self.kept_layers()
        self._lower.clear()
        for name in os.listdir(f"{self._root}/blobs/sha256"):
            if f"sha256:{name}" not in blobs:
                freed += os.stat(f"{self._root}/blobs/sha256/{name}").st_size
                os.unlink(f"{self._root}/blobs/sha256/{name}")
                self._db.execute("DELETE FROM sources WHERE digest = ?", (f"sha256:{name}",))
                self._db.execute("DELETE FROM compressed WHERE ? IN (digest, gzip)", (f"sha256:{name}",))
        for name in os.listdir(f"{self._root}/partial"):
            os.unlink(f"{self._root}/partial/{name}")
        for name in os.listdir(f"{self._root}/chains"):
            if f"sha256:{name}" not in chains:
                target = os.path.realpath(f"{self._root}/chains/{name}")
                os.unlink(f"{self._root}/chains/{name}")
                if int(os.path.basename(target)) not in kept:
                    shutil.rmtree(target, ignore_errors=True)
        return freed
