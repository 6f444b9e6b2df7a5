"""The index of images: their records, their names and digests, and what is known of them in registries."""

from __future__ import annotations

import contextlib
import io
import json
import os
import threading
import time
from collections.abc import Callable, Iterable

from sampan.images import rebuilding
from sampan.images.blobs import Blobs
from sampan.images.config import ImageConfig, read_config
from sampan.images.database import Database, Statement
from sampan.images.errors import ImageError, ImageNotFound
from sampan.images.image import Image, Layer, layers_text, read_layers
from sampan.linux import durable
from sampan.oci import manifest as oci
from sampan.oci import reference
from sampan.oci.reference import Reference

# Around the moment in which an image of this id gets these tags, while nobody else changes names: raises what says why it may not.
Check = Callable[[str, list[str]], contextlib.AbstractContextManager[None]]


def anybody(image_id: str, tags: list[str]) -> contextlib.AbstractContextManager[None]:
    """The Check of those who may give every image every name."""
    return contextlib.nullcontext()


class Index:
    """Images by id and by name, over a database and the blobs of their configurations. Methods block: call them from a thread."""

    def __init__(self, database: Database, blobs: Blobs, directory: str) -> None:
        """`directory` gets a file for each image, from which a damaged database is made anew."""
        self._database, self._blobs, self._directory = database, blobs, directory
        self._configs: dict[str, ImageConfig] = {}  # parsed once: a digest's content never changes
        self.changing = threading.RLock()  # from a check of what names an image to what follows from it
        self.trouble: list[str] = []  # for people: what was found broken when it was opened
        os.makedirs(directory, 0o700, exist_ok=True)
        with contextlib.suppress(OSError):  # read-only
            durable.remove_leftovers(directory)
        if database.aside:
            found, lost = rebuilding.rebuild(database, blobs, directory)
            self.trouble.append(
                f"the database of images was damaged and is kept as {database.aside}; {found} images were found again"
                + (f", {lost} without their names (sampan images -a)" if lost else "")
            )

    # images

    def all(self) -> list[Image]:
        """All images, the newest first; broken ones too."""
        found = []
        for row in self._database.rows("SELECT id FROM images ORDER BY loaded DESC"):
            with contextlib.suppress(ImageNotFound):  # removed just now
                found.append(self.get(row[0]))
        return found

    def get(self, image_id: str) -> Image:
        """An image by its full id; one that can't be read is `broken`. Raises ImageNotFound."""
        rows = self._database.rows("SELECT layers, loaded FROM images WHERE id = ?", image_id)
        if not rows:
            raise ImageNotFound(f"No such image: {image_id}")
        tags = [row[0] for row in self._database.rows("SELECT name FROM tags WHERE id = ? ORDER BY name", image_id)]
        broken, layers, config = "", read_layers(rows[0][0]), self._configs.get(image_id)
        if layers is None:
            broken = "its record in the database is damaged: load or pull it again"
        if config is None:
            try:
                config = self._configs[image_id] = read_config(self._blobs.read(image_id))
            except ImageError as error:
                config, broken = ImageConfig(), str(error)
        return Image(image_id, config, layers or [], rows[0][1], tags, broken)

    def enter(
        self, image_id: str, layers: list[Layer], tags: list[str], more: tuple[Statement, ...], check: Check | None
    ) -> None:
        """Enters an image, whose content is on disk, under `tags`, durably. `more` goes into the same transaction; `check` is asked
        about the tags before they are another image's no more. One that is here keeps its time.
        """
        text, now = layers_text(layers), time.time()
        with self.changing, (check or anybody)(image_id, tags):
            durable.write(f"{self._directory}/{image_id[7:]}.json", json.dumps({"layers": text, "loaded": now}))
            self._database.change(
                # An image that is here gets layers that are known to be good.
                ("INSERT INTO images VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET layers = excluded.layers",
                 (image_id, text, now)),
                *(("INSERT OR REPLACE INTO tags VALUES (?, ?)", (tag, image_id)) for tag in tags),
                *more,
            )  # fmt: skip

    def has(self, image_id: str, layers: list[Layer], tags: list[str], check: Check | None = None) -> bool:
        """Whether an image is entered with just these layers, and has the tags: if so it is as if it were entered again."""
        text = layers_text(layers)
        with self.changing:
            if self._database.rows("SELECT layers FROM images WHERE id = ?", image_id) != [(text,)]:
                return False
            if any(self.tagged(tag) != image_id for tag in tags):
                return False
            with (check or anybody)(image_id, tags):
                return True

    def forget(self, image_id: str) -> None:
        """Takes an image's record and all its names away, durably."""
        self._database.change(
            *(
                (f"DELETE FROM {table} WHERE id = ?", (image_id,))
                for table in ("tags", "digests", "manifests", "images")
            ),
            removing=True,
        )
        with contextlib.suppress(OSError):
            os.unlink(f"{self._directory}/{image_id[7:]}.json")
        self._configs.pop(image_id, None)

    # names

    def find(self, text: str) -> Image:
        """An image by name, full id or unique prefix of one; it may be broken. Raises ImageNotFound."""
        return self.get(self.resolve(text)[0])

    def usable(self, text: str) -> Image:
        """As find(), for what needs more than its name. Raises ImageError for a broken one, too."""
        image = self.find(text)
        if image.broken:
            raise ImageError(f"image {image.name} is broken: {image.broken}")
        return image

    def resolve(self, text: str) -> tuple[str, Reference | None]:
        """The id of an image and the reference that it was found by, None when that was an id. Raises ImageNotFound."""
        try:
            ref = reference.parse(text).with_default_tag()
            if ref.digest:
                rows = self._database.rows("SELECT id FROM digests WHERE name = ? AND digest = ?", ref.name, ref.digest)
            else:
                rows = self._database.rows("SELECT id FROM tags WHERE name = ?", str(ref))
            if rows:  # a tag beside a digest decides nothing
                return rows[0][0], Reference(ref.registry, ref.repository, "", ref.digest) if ref.digest else ref
        except reference.BadReference:
            pass
        prefix = text.removeprefix("sha256:")
        if prefix and len(prefix) <= 64 and all(c in "0123456789abcdef" for c in prefix):
            rows = self._database.rows("SELECT id FROM images WHERE id LIKE ? LIMIT 2", f"sha256:{prefix}%")
            if len(rows) == 1:
                return rows[0][0], None
            if rows:
                raise ImageError(f"{text} is the beginning of several image ids: give more of it")
        raise ImageNotFound(f"No such image: {reference.with_tag(text)}")

    def named(self, text: str) -> str:
        """The tag that this text means, if an image has it, or ""."""
        try:
            ref = reference.parse(text).with_default_tag()
        except reference.BadReference:
            return ""
        return "" if ref.digest or not self.tagged(str(ref)) else str(ref)

    def tagged(self, name: str) -> str:
        """The id of the image that has a tag, or ""."""
        return next((str(row[0]) for row in self._database.rows("SELECT id FROM tags WHERE name = ?", name)), "")

    def tag(self, image: Image, name: str, check: Check | None = None) -> None:
        """Gives an image one more name, taking it from any other; durable. Raises ImageNotFound when it is gone."""
        ref = reference.parse(name).with_default_tag()
        if ref.digest:
            raise reference.BadReference(f"refusing to create a tag with a digest reference: {name}")
        with self.changing:
            self.get(image.id)
            with (check or anybody)(image.id, [str(ref)]):
                self._database.change(("INSERT OR REPLACE INTO tags VALUES (?, ?)", (str(ref), image.id)))

    def untag(self, refs: Iterable[Reference]) -> None:
        """Takes these tags and digests away, durably; their images stay."""
        self._database.change(*(_without(ref) for ref in refs), removing=True)

    def digests(self, image: Image) -> list[str]:
        """The "name@digest" forms of an image."""
        rows = self._database.rows("SELECT name, digest FROM digests WHERE id = ? ORDER BY name", image.id)
        return [f"{name}@{digest}" for name, digest in rows]

    # registries

    def known_as(
        self, image_id: str, manifest: bytes, name: str, top: str = "", tag: str = ""
    ) -> tuple[Statement, ...]:
        """Keeps the manifest that an image has in a registry. What is to be entered for it: that `name` has its digest
        (and `top`, that of the index that led to it), and the tag.
        """
        digest, _ = self._blobs.put(io.BytesIO(manifest))
        digests = [
            ("INSERT OR REPLACE INTO digests VALUES (?, ?, ?)", (name, each, image_id)) for each in {digest, top}
        ]
        return (
            ("DELETE FROM manifests WHERE id = ? AND digest = ?", (image_id, digest)),
            ("INSERT INTO manifests VALUES (?, ?)", (image_id, digest)),
            *(statement for statement in digests if statement[1][1]),
            *((("INSERT OR REPLACE INTO tags VALUES (?, ?)", (f"{name}:{tag}", image_id)),) if tag else ()),
        )

    def remember_manifest(self, image: Image, name: str, manifest: bytes) -> None:
        """Enters what known_as says. Raises ImageNotFound when the image is gone."""
        statements = self.known_as(image.id, manifest, name)
        with self.changing:
            self.get(image.id)
            self._database.change(*statements)

    def manifests(self, image: Image) -> list[bytes]:
        """The manifests that the image came or went with, the latest first; those that can't be read are left out."""
        found = []
        for row in self._database.rows("SELECT digest FROM manifests WHERE id = ? ORDER BY rowid DESC", image.id):
            with contextlib.suppress(ImageError):
                found.append(self._blobs.read(row[0], oci.MAX_SIZE))
        return found

    def remember_sources(self, digests: list[str], registry: str, repository: str) -> None:
        """Notes that a repository has these layers."""
        self._database.change(
            *(("INSERT OR IGNORE INTO sources VALUES (?, ?, ?)", (digest, registry, repository)) for digest in digests)
        )

    def sources(self, digest: str) -> list[tuple[str, str]]:
        """(registry, repository) where a layer is known to be."""
        return [(row[0], row[1]) for row in
                self._database.rows("SELECT registry, repository FROM sources WHERE digest = ?", digest)]  # fmt: skip

    def remember_signature(self, digest: str, payload: bytes, signature: bytes) -> None:
        """Keeps what claims to be a signature of a manifest."""
        self._database.change(("INSERT OR IGNORE INTO signatures VALUES (?, ?, ?)", (digest, payload, signature)))

    def signatures(self, digest: str) -> list[tuple[bytes, bytes]]:
        """(payload, signature) of what claims to be signatures of a manifest."""
        return [(row[0], row[1]) for row in
                self._database.rows("SELECT payload, signature FROM signatures WHERE digest = ?", digest)]  # fmt: skip

    def remember_gzip(self, digest: str, gzip: str, size: int) -> None:
        """Notes the blob (its digest, its bytes) that is the gzip of a layer kept as a plain tar."""
        self._database.change(("INSERT OR REPLACE INTO compressed VALUES (?, ?, ?)", (digest, gzip, size)))

    def gzip_of(self, digest: str) -> tuple[str, int] | None:
        """(digest, bytes) of the gzip of a layer kept as a plain tar, if one was made."""
        rows = self._database.rows("SELECT gzip, size FROM compressed WHERE digest = ?", digest)
        return (rows[0][0], rows[0][1]) if rows else None

    # what garbage collection needs

    def layers_by_image(self) -> list[tuple[str, list[Layer] | None]]:
        """The id and the layers of each image; None where the record is damaged."""
        return [(str(row[0]), read_layers(row[1])) for row in self._database.rows("SELECT id, layers FROM images")]

    def all_manifests(self) -> list[str]:
        """The digests of the manifests of all images."""
        return [row[0] for row in self._database.rows("SELECT digest FROM manifests")]

    def gzips(self) -> list[tuple[str, str]]:
        """(digest of a layer kept as a plain tar, digest of its gzip) of all."""
        return [(row[0], row[1]) for row in self._database.rows("SELECT digest, gzip FROM compressed")]

    def forget_blobs(self, digests: list[str]) -> None:
        """Takes away what is noted about blobs that are gone, and uses the room that there is now for later removals."""
        if digests:
            with contextlib.suppress(ImageError):  # no more than notes
                self._database.change(
                    *(("DELETE FROM sources WHERE digest = ?", (digest,)) for digest in digests),
                    *(("DELETE FROM compressed WHERE ? IN (digest, gzip)", (digest,)) for digest in digests),
                    ("DELETE FROM signatures WHERE digest NOT IN (SELECT digest FROM digests)", ()),
                    removing=True,
                )
        self._database.has_room_again()

    def close(self) -> None:
        """Closes the database."""
        self._database.close()


def _without(ref: Reference) -> Statement:
    if ref.digest:
        return "DELETE FROM digests WHERE name = ? AND digest = ?", (ref.name, ref.digest)
    return "DELETE FROM tags WHERE name = ?", (str(ref),)
