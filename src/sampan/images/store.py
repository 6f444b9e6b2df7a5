"""The index of images, their names, and what is known of them in registries."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from sampan.images import collecting, compression, rebuilding
from sampan.images.errors import ImageError, ImageInUse, ImageNotFound
from sampan.images.image import Image, checked_config, read_layers
from sampan.images.layerstore import Layer, LayerStore, chain_ids
from sampan.images.ledger import Statement, open_ledger
from sampan.linux import durable
from sampan.oci import manifest as oci
from sampan.oci import reference
from sampan.oci.reference import Reference

__all__ = ["Image", "ImageStore"]


Check = Callable[[str, list[str]], None]  # whether an image of this id may get these tags: raises what says why not


def _nobody(_: str) -> str:
    return ""


class ImageStore(LayerStore):
    """Images over their blobs and layers. Methods block: call them from a thread."""

    def __init__(self, root: str, session: str = "") -> None:
        """`session`: see LayerStore."""
        super().__init__(root, session)
        self._configs: dict[str, dict[str, Any]] = {}  # parsed once: a digest's content never changes
        self.kept_layers: Callable[[], set[int]] = set  # layer directories that something else needs: the build cache
        self._lower: dict[str, list[str]] = {}  # lower directories by image id, until garbage is collected
        os.makedirs(f"{root}/index", 0o700, exist_ok=True)
        with contextlib.suppress(OSError):  # read-only
            for place in (root, f"{root}/index"):
                durable.remove_leftovers(place)
        self._ledger = open_ledger(f"{root}/images.db", f"{root}/damaged")
        self._changing = threading.RLock()  # from a check of what names an image to what follows from it
        self._using: Counter[str] = Counter()
        self._going: set[str] = set()
        self._using_lock = threading.Lock()
        self.trouble: list[str] = []  # for people: what was found broken when the store was opened
        if self._ledger.aside:
            found, lost = rebuilding.rebuild(self._ledger, self.blobs, f"{root}/index")
            self.trouble.append(
                f"the database of images was damaged and is kept as {self._ledger.aside}; {found} images were found again"
                + (f", {lost} without their names (sampan images -a)" if lost else "")
            )

    def close(self) -> None:
        """See LayerStore.close."""
        super().close()
        self._ledger.close()

    # images

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
                        self.unpack(layer.digest, diff_ids[: index + 1])
                    self.seal()
                    directories = self._layer_directories(chain_ids(diff_ids))
            except ImageError as error:
                raise ImageError(f"image {image.name}: {error}") from error
            self._lower[image.id] = directories
        return list(directories) or [self.mountpoints_directory()]

    def add(
        self, config: bytes, layers: list[Layer], tags: list[str], again: bool = False, more: tuple[Statement, ...] = (),
        check: Check | None = None,
    ) -> Image:  # fmt: skip
        """Unpacks all layers and enters the image under `tags`, durably. Raises ImageError.

        `again`: layers that are there already are compared with their records first (see LayerStore.trusted). `more`
        goes into the same transaction. `check` is asked about the tags before they are another image's no more.
        """
        parsed = checked_config(config)
        diff_ids = parsed["rootfs"]["diff_ids"]
        if diff_ids != [layer.diff_id for layer in layers]:
            raise ImageError("the image configuration does not list the layers of the manifest")
        with self.hold():
            for index, layer in enumerate(layers):
                self.unpack(layer.digest, diff_ids[: index + 1], again)
            image_id = f"sha256:{hashlib.sha256(config).hexdigest()}"
            rows, now = json.dumps([[x.digest, x.size, x.diff_id, x.media_type] for x in layers]), time.time()
            if not self.blobs.sound(image_id):
                self.put_blob(io.BytesIO(config))
            self.seal()
            if check is not None:
                check(image_id, tags)
            if not again and not more and self._is_so(image_id, rows, tags):
                return self.get(image_id)  # a build that found everything in its cache
            durable.write(f"{self._root}/index/{image_id[7:]}.json", json.dumps({"layers": rows, "loaded": now}))
            with self._changing:
                if check is not None:  # nobody gives names meanwhile
                    check(image_id, tags)
                self._ledger.change(
                    # An image that is here keeps its time, and gets layers that are known to be good.
                    ("INSERT INTO images VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET layers = excluded.layers",
                     (image_id, rows, now)),
                    *(("INSERT OR REPLACE INTO tags VALUES (?, ?)", (tag, image_id)) for tag in tags),
                    *more,
                )  # fmt: skip
            self._lower.pop(image_id, None)
        return self.get(image_id)

    def _is_so(self, image_id: str, layers: str, tags: list[str]) -> bool:
        if self._ledger.rows("SELECT layers FROM images WHERE id = ?", image_id) != [(layers,)]:
            return False
        return all(self._ledger.rows("SELECT id FROM tags WHERE name = ?", tag) == [(image_id,)] for tag in tags)

    def all(self) -> list[Image]:
        """All images, the newest first; broken ones too."""
        found = []
        for row in self._ledger.rows("SELECT id FROM images ORDER BY loaded DESC"):
            with contextlib.suppress(ImageNotFound):  # removed just now
                found.append(self.get(row[0]))
        return found

    def get(self, image_id: str) -> Image:
        """An image by its full id; one that can't be read is `broken`. Raises ImageNotFound."""
        rows = self._ledger.rows("SELECT layers, loaded FROM images WHERE id = ?", image_id)
        if not rows:
            raise ImageNotFound(f"No such image: {image_id}")
        tags = [row[0] for row in self._ledger.rows("SELECT name FROM tags WHERE id = ? ORDER BY name", image_id)]
        broken, layers, config = "", read_layers(rows[0][0]), self._configs.get(image_id)
        if layers is None:
            broken = "its record in the database is damaged: load or pull it again"
        if config is None:
            try:
                config = self._configs[image_id] = checked_config(self.read_blob(image_id))
            except ImageError as error:
                config, broken = {}, str(error)
        return Image(image_id, config, layers or [], rows[0][1], tags, broken)

    def find(self, text: str) -> Image:
        """An image by name, full id or unique prefix of one; it may be broken. Raises ImageNotFound."""
        return self.get(self._resolve(text)[0])

    def usable(self, text: str) -> Image:
        """As find(), for what needs more than its name. Raises ImageError for a broken one, too."""
        image = self.find(text)
        if image.broken:
            raise ImageError(f"image {image.name} is broken: {image.broken}")
        return image

    def _resolve(self, text: str) -> tuple[str, Reference | None]:
        """The id of an image and the reference that it was found by, None when that was an id. Raises ImageNotFound."""
        try:
            ref = reference.parse(text).with_default_tag()
            if ref.digest:
                rows = self._ledger.rows("SELECT id FROM digests WHERE name = ? AND digest = ?", ref.name, ref.digest)
            else:
                rows = self._ledger.rows("SELECT id FROM tags WHERE name = ?", str(ref))
            if rows:  # a tag beside a digest decides nothing
                return rows[0][0], Reference(ref.registry, ref.repository, "", ref.digest) if ref.digest else ref
        except reference.BadReference:
            pass
        prefix = text.removeprefix("sha256:")
        if prefix and len(prefix) <= 64 and all(c in "0123456789abcdef" for c in prefix):
            rows = self._ledger.rows("SELECT id FROM images WHERE id LIKE ? LIMIT 2", f"sha256:{prefix}%")
            if len(rows) == 1:
                return rows[0][0], None
            if rows:
                raise ImageError(f"{text} is the beginning of several image ids: give more of it")
        raise ImageNotFound(f"No such image: {text}")

    def named(self, text: str) -> str:
        """The tag that this text means, if an image has it, or ""."""
        try:
            ref = reference.parse(text).with_default_tag()
        except reference.BadReference:
            return ""
        return "" if ref.digest or not self._ledger.rows("SELECT id FROM tags WHERE name = ?", str(ref)) else str(ref)

    def tagged(self, name: str) -> str:
        """The id of the image that has a tag, or ""."""
        return next((str(row[0]) for row in self._ledger.rows("SELECT id FROM tags WHERE name = ?", name)), "")

    def tag(self, image: Image, name: str, check: Check | None = None) -> None:
        """Gives an image one more name, taking it from any other; durable. Raises ImageNotFound when it is gone."""
        ref = reference.parse(name).with_default_tag()
        if ref.digest:
            raise reference.BadReference(f"refusing to create a tag with a digest reference: {name}")
        if check is not None:
            check(image.id, [str(ref)])
        with self._changing:
            self.get(image.id)
            if check is not None:  # nobody gives names meanwhile
                check(image.id, [str(ref)])
            self._ledger.change(("INSERT OR REPLACE INTO tags VALUES (?, ?)", (str(ref), image.id)))

    def owner_of(self, digest: str) -> str:
        """See LayerStore."""
        for image_id, layers in self._ledger.rows("SELECT id, layers FROM images"):
            if digest == image_id or digest in str(layers):
                tags = self._ledger.rows("SELECT name FROM tags WHERE id = ? ORDER BY name LIMIT 1", image_id)
                return reference.parse(tags[0][0]).familiar if tags else str(image_id)[7:19]
        return ""

    # registries

    def known_as(
        self, image_id: str, manifest: bytes, name: str, top: str = "", tag: str = ""
    ) -> tuple[Statement, ...]:
        """Keeps the manifest that an image has in a registry. What is to be entered for it: that `name` has its digest
        (and `top`, that of the index that led to it), and the tag.
        """
        digest, _ = self.put_blob(io.BytesIO(manifest))
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
        with self._changing:
            self.get(image.id)
            self._ledger.change(*statements)

    def remember_sources(self, digests: list[str], registry: str, repository: str) -> None:
        """Notes that a repository has these layers."""
        self._ledger.change(
            *(("INSERT OR IGNORE INTO sources VALUES (?, ?, ?)", (digest, registry, repository)) for digest in digests)
        )

    def sources(self, digest: str) -> list[tuple[str, str]]:
        """(registry, repository) where a layer is known to be."""
        return [(row[0], row[1]) for row in
                self._ledger.rows("SELECT registry, repository FROM sources WHERE digest = ?", digest)]  # fmt: skip

    def manifests(self, image: Image) -> list[bytes]:
        """The manifests that the image came or went with, the latest first; those that can't be read are left out."""
        found = []
        for row in self._ledger.rows("SELECT digest FROM manifests WHERE id = ? ORDER BY rowid DESC", image.id):
            with contextlib.suppress(ImageError):
                found.append(self.read_blob(row[0], oci.MAX_SIZE))
        return found

    def digests(self, image: Image) -> list[str]:
        """The "name@digest" forms of an image."""
        rows = self._ledger.rows("SELECT name, digest FROM digests WHERE id = ? ORDER BY name", image.id)
        return [f"{name}@{digest}" for name, digest in rows]

    def remember_signature(self, digest: str, payload: bytes, signature: bytes) -> None:
        """Keeps what claims to be a signature of a manifest."""
        self._ledger.change(("INSERT OR IGNORE INTO signatures VALUES (?, ?, ?)", (digest, payload, signature)))

    def signatures(self, digest: str) -> list[tuple[bytes, bytes]]:
        """(payload, signature) of what claims to be signatures of a manifest."""
        return [(row[0], row[1]) for row in
                self._ledger.rows("SELECT payload, signature FROM signatures WHERE digest = ?", digest)]  # fmt: skip

    def compressed(self, layer: Layer) -> Layer:
        """The layer as it is sent: as it came or, when it is kept as a plain tar, its gzip, which is made once."""
        with self.blobs.open(layer.digest) as file:
            kind = compression.kind(file)
            if kind != "":
                return Layer(layer.digest, layer.size, layer.diff_id, f"{oci.OCI_LAYER}+{kind}")
            rows = self._ledger.rows("SELECT gzip, size FROM compressed WHERE digest = ?", layer.digest)
            if rows and self.blobs.sound(rows[0][0]):
                return Layer(rows[0][0], rows[0][1], layer.diff_id, f"{oci.OCI_LAYER}+gzip")
            made = self.put_blob(compression.gzip_stream(file))
        self._ledger.change(("INSERT OR REPLACE INTO compressed VALUES (?, ?, ?)", (layer.digest, *made)))
        return Layer(*made, layer.diff_id, f"{oci.OCI_LAYER}+gzip")

    # removal

    @contextlib.contextmanager
    def using(self, image_id: str) -> Iterator[None]:
        """While this lasts the image is not removed: something that needs it is being made. Raises ImageNotFound."""
        with self._using_lock:
            if image_id in self._going:
                raise ImageNotFound(f"No such image: {image_id}")
            self._using[image_id] += 1
        try:
            self.get(image_id)
            yield
        finally:
            with self._using_lock:
                self._using[image_id] -= 1
                self._using += Counter()  # without those that nobody uses

    def remove(self, text: str, force: bool, user_of: Callable[[str], str] = _nobody) -> list[dict[str, str]]:
        """Takes a reference away, or deletes an image that has no other. Returns the API's answer rows.

        `user_of` names what needs the image with that id ("" when nothing does); it is asked when nobody can begin to
        need it any more. Raises ImageNotFound, ImageInUse.
        """
        with self._changing:
            image_id, ref = self._resolve(text)
            try:
                rows, gone = self._remove(image_id, ref, text, force, user_of)
            finally:
                with self._using_lock:
                    self._going.discard(image_id)
        if gone:
            self.collect_garbage()
        return rows

    def _let_go(self, image_id: str, user_of: Callable[[str], str]) -> str:
        """Names what needs the image. When nothing does, it is going: from now on nobody gets it. An image that stays is never
        seen as gone, not for a moment: a client would pull it.
        """
        with self._using_lock:
            user = user_of(image_id) or ("something that is being made" if self._using[image_id] else "")
            if not user:
                self._going.add(image_id)
            return user

    def _remove(
        self, image_id: str, ref: Reference | None, text: str, force: bool, user_of: Callable[[str], str]
    ) -> tuple[list[dict[str, str]], bool]:
        image = self.get(image_id)
        others = [reference.parse(name) for name in (*image.tags, *self.digests(image)) if name != str(ref)]
        lost = [ref] if ref is not None else []
        if ref is not None and ref.tag and not any(other.tag and other.name == ref.name for other in others):
            # The last tag of a repository takes along what the repository is known by there, as Docker does.
            lost += [other for other in others if other.name == ref.name]
        kept = ref is not None and len(lost) <= len(others)
        if ref is None and _repositories(others) > 1 and not force:
            raise ImageInUse(
                f"conflict: unable to delete {image.id[7:19]} (must be forced) - image is referenced in "
                "multiple repositories"
            )
        user = "" if kept else self._let_go(image_id, user_of)
        if kept or (ref is not None and user and force):
            self._ledger.change(*(_forget(each) for each in lost), removing=True)
            return [{"Untagged": each.familiar} for each in lost], False
        if user:
            what = f"remove repository reference {text!r}" if ref is not None else f"delete {text}"
            raise ImageInUse(f"conflict: unable to {what} (must be forced) - {user} is using it")
        self._ledger.change(
            *(
                (f"DELETE FROM {table} WHERE id = ?", (image_id,))
                for table in ("tags", "digests", "manifests", "images")
            ),
            removing=True,
        )
        with contextlib.suppress(OSError):
            os.unlink(f"{self._root}/index/{image_id[7:]}.json")
        self._configs.pop(image_id, None)
        names = [*([ref] if ref is not None else []), *others]
        return [*({"Untagged": each.familiar} for each in names), {"Deleted": image_id}], True

    def collect_garbage(self) -> int:
        """Deletes blobs and layers that no image needs. Returns the bytes of blobs freed."""
        with self._hold_lock:
            self._garbage = self._holds > 0
            if self._garbage:
                return 0
            self._lower.clear()
            found = collecting.sort_out(self, self._ledger, self._root)
        return collecting.finish(found, self._ledger)


def _forget(ref: Reference) -> Statement:
    if ref.digest:
        return "DELETE FROM digests WHERE name = ? AND digest = ?", (ref.name, ref.digest)
    return "DELETE FROM tags WHERE name = ?", (str(ref),)


def _repositories(refs: list[Reference]) -> int:
    """How many names these are: a digest counts where its repository has no tag."""
    tagged = {ref.name for ref in refs if ref.tag}
    return sum(1 for ref in refs if ref.tag) + len({ref.name for ref in refs} - tagged)
