"""Blobs by digest, layers by chain ID, and the index of images and their names."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import json
import os
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any

from sampan.images import compression, staging
from sampan.images.errors import ImageError, ImageInUse, ImageNotFound
from sampan.images.extract import Extractor
from sampan.images.layer import NeedsLower
from sampan.images.layer import settle as settle_implied
from sampan.images.ledger import open_ledger
from sampan.images.staging import Staged
from sampan.linux import mount
from sampan.oci import manifest as oci
from sampan.oci import reference

_MAX_LAYERS = 128


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer as it came: digest and size of the blob, and the digest of the plain tar."""

    digest: str
    size: int
    diff_id: str
    media_type: str = "application/vnd.oci.image.layer.v1.tar"


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


def chain_ids(diff_ids: list[str]) -> list[str]:
    """The chain ID after each layer (image-spec, config.md)."""
    chain: list[str] = []
    for diff_id in diff_ids:
        text = f"{chain[-1]} {diff_id}" if chain else diff_id
        chain.append(diff_id if not chain else f"sha256:{hashlib.sha256(text.encode()).hexdigest()}")
    return chain


class ImageStore:
    """Everything below one directory. Methods block: call them from a thread."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._configs: dict[str, dict[str, Any]] = {}  # parsed once: a digest's content never changes
        self.kept_layers: Callable[[], set[int]] = set  # layer directories that something else needs: the build cache
        self._lower: dict[str, list[str]] = {}  # lower directories by image id, until garbage is collected
        for name in ("blobs/sha256", "partial", "layers", "chains", "tmp"):
            os.makedirs(f"{root}/{name}", 0o700, exist_ok=True)
        os.chmod(root, 0o700)
        for leftover in os.listdir(f"{root}/tmp"):
            shutil.rmtree(f"{root}/tmp/{leftover}", ignore_errors=True)
            if os.path.exists(f"{root}/tmp/{leftover}"):
                os.unlink(f"{root}/tmp/{leftover}")
        self._db = open_ledger(f"{root}/images.db")
        self._holds, self._garbage, self._hold_lock = 0, False, threading.Lock()
        self._transaction = threading.Lock()  # the threads share a connection
        self._fetching: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    # blobs

    def blob_path(self, digest: str) -> str:
        """Where a blob is kept. Raises ImageError for text that is not a sha256 digest."""
        if not reference.is_digest(digest) or not digest.startswith("sha256:"):
            raise ImageError(f"unsupported digest {digest[:80]!r}")
        return f"{self._root}/blobs/sha256/{digest[7:]}"

    def has_blob(self, digest: str) -> bool:
        """Whether a blob is here, complete."""
        return os.path.exists(self.blob_path(digest))

    def partial_path(self, digest: str) -> str:
        """Where a blob grows while it is fetched."""
        return f"{self._root}/partial/{os.path.basename(self.blob_path(digest))}"

    @contextlib.asynccontextmanager
    async def fetching(self, digest: str) -> AsyncIterator[None]:
        """One at a time for each blob: the second who wants it finds it there."""
        lock = self._fetching.setdefault(digest, asyncio.Lock())
        async with lock:
            yield

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """While this lasts no garbage is collected: what has no image yet is about to get one (P038)."""
        with self._hold_lock:
            self._holds += 1
        try:
            yield
        finally:
            with self._hold_lock:
                self._holds -= 1
                due = self._garbage and not self._holds
            if due:
                self.collect_garbage()

    def put_blob(self, stream: IO[bytes], expected: str | None = None) -> tuple[str, int]:
        """Stores a stream. Returns (digest, size); raises ImageError when it is not `expected`."""
        digest, size = hashlib.sha256(), 0
        with tempfile.NamedTemporaryFile(dir=f"{self._root}/tmp", delete=False) as file:
            try:
                while block := stream.read(1 << 20):
                    digest.update(block)
                    size += len(block)
                    file.write(block)
                file.flush()
                os.fsync(file.fileno())
                name = f"sha256:{digest.hexdigest()}"
                if expected and name != expected:
                    raise ImageError(f"content has digest {name}, not {expected}")
                os.chmod(file.name, 0o600)
                os.rename(file.name, self.blob_path(name))
            except BaseException:
                os.unlink(file.name)
                raise
        return name, size

    def read_blob(self, digest: str, limit: int = 16 << 20) -> bytes:
        """A small blob's bytes, checked against its digest again (S050)."""
        try:
            with open(self.blob_path(digest), "rb") as file:
                data = file.read(limit + 1)
        except FileNotFoundError:
            raise ImageError(f"blob {digest} is missing: load the image again") from None
        if len(data) > limit or f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
            raise ImageError(f"blob {digest} is damaged: load the image again")
        return data

    # layers

    @property
    def temporary(self) -> str:
        """A directory for what need not survive."""
        return f"{self._root}/tmp"

    def layer_directory(self, number: int) -> str:
        """The files of a layer, by the number of its directory."""
        return f"{self._root}/layers/{number}/fs"

    def adopt(self, directory: str) -> int:
        """Makes a stage (see new_stage) a layer directory. Returns its number; the caller keeps it alive by `kept_layers`."""
        return self._next_layer(directory)

    def link_chain(self, diff_ids: list[str], number: int) -> None:
        """Says that a layer directory is the last of `diff_ids`; where there is one already, that stays."""
        with contextlib.suppress(FileExistsError):
            os.symlink(f"../layers/{number}", f"{self._root}/chains/{chain_ids(diff_ids)[-1][7:]}")

    def used_layers(self) -> set[int]:
        """The numbers of the layer directories that images have."""
        chains = f"{self._root}/chains"
        return {int(os.path.basename(os.readlink(f"{chains}/{name}"))) for name in os.listdir(chains)}

    def is_unpacked(self, diff_ids: list[str]) -> bool:
        """Whether the layers up to the last of `diff_ids` are there as directories."""
        return os.path.exists(f"{self._root}/chains/{chain_ids(diff_ids)[-1][7:]}")

    def new_stage(self) -> str:
        """A new directory to stage a layer in; its "fs" is where the files go."""
        directory = tempfile.mkdtemp(dir=f"{self._root}/tmp")
        os.mkdir(f"{directory}/fs", 0o755)
        return directory

    def unpack(self, layer_digest: str, diff_ids: list[str]) -> None:
        """Unpacks the last of `diff_ids` on top of the others, unless that chain is there already."""
        if self.is_unpacked(diff_ids):
            return
        directory = self.new_stage()
        try:
            staged = staging.stage(self.blob_path(layer_digest), f"{directory}/fs")
        except BaseException as error:
            shutil.rmtree(directory, ignore_errors=True)
            if isinstance(error, ImageError):
                raise ImageError(f"layer {layer_digest}: {error}") from error
            raise
        self.settle(layer_digest, diff_ids, directory, staged)

    def settle(self, layer_digest: str, diff_ids: list[str], directory: str, staged: Staged) -> None:
        """Makes a staged layer the last of `diff_ids`, whose others are there. Raises ImageError; the stage is gone then."""
        chain = chain_ids(diff_ids)
        if len(chain) > _MAX_LAYERS:
            shutil.rmtree(directory, ignore_errors=True)
            raise ImageError(f"the image has more than {_MAX_LAYERS} layers")
        try:
            if staged.diff_id != diff_ids[-1]:
                raise ImageError(
                    f"layer {layer_digest} unpacks to {staged.diff_id}, not to {diff_ids[-1]} as the image says"
                )
            if not self._fits_below(directory, staged, chain[:-1]):
                shutil.rmtree(f"{directory}/fs")
                os.mkdir(f"{directory}/fs", 0o755)
                self._unpack_on_overlay(directory, layer_digest, chain[:-1])
            target = self._next_layer(directory)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        try:
            os.symlink(f"../layers/{target}", f"{self._root}/chains/{chain[-1][7:]}")
        except FileExistsError:
            shutil.rmtree(f"{self._root}/layers/{target}", ignore_errors=True)

    def _fits_below(self, directory: str, staged: Staged, parents: list[str]) -> bool:
        """Settles the stage's implied directories. False when the layer has to be unpacked on an overlay."""
        if not staged.complete:
            return False
        if not parents or not staged.implied:
            return True
        lower = mount.overlay([*self._layer_directories(parents), self.mountpoints_directory()], None, None)
        upper = os.open(f"{directory}/fs", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            settle_implied(upper, staged.implied, lower)
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
            rootfd = mount.overlay(self._layer_directories(parents), upper, f"{directory}/work")
        else:
            rootfd = os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with open(self.blob_path(digest), "rb") as blob:
                try:
                    Extractor(rootfd, whiteouts=True).extract(compression.decompress(blob))
                except compression.ERRORS as error:
                    raise ImageError(f"layer {digest}: {error}") from error
        finally:
            os.close(rootfd)
        shutil.rmtree(f"{directory}/work", ignore_errors=True)

    def _next_layer(self, directory: str) -> int:
        number = max((int(name) for name in os.listdir(f"{self._root}/layers")), default=0) + 1
        while True:
            try:
                os.mkdir(f"{self._root}/layers/{number}", 0o700)
                os.rename(directory, f"{self._root}/layers/{number}")
                return number
            except FileExistsError:
                number += 1

    def _layer_directories(self, chain: list[str]) -> list[str]:
        """Layer directories from top to bottom, as overlay wants them."""
        found = []
        for chain_id in reversed(chain):
            marker = f"{self._root}/chains/{chain_id[7:]}"
            if not os.path.exists(marker):
                raise ImageError(f"layer {chain_id} is not unpacked: load the image again")
            found.append(f"{os.path.realpath(marker)}/fs")
        return found

    def lower_directories(self, image: Image) -> list[str]:
        """The directories whose overlay is the image's root file system."""
        directories = self._lower.get(image.id)
        if directories is None:
            directories = self._layer_directories(chain_ids([layer.diff_id for layer in image.layers]))
            self._lower[image.id] = directories
        return list(directories) or [self.mountpoints_directory()]

    def empty_directory(self, number: int) -> str:
        """An empty directory. (An overlay that can't be written needs two lower ones, whatever is in them.)"""
        path = f"{self._root}/empty/{number}"
        os.makedirs(path, 0o755, exist_ok=True)
        return path

    def mountpoints_directory(self) -> str:
        """A layer that holds only the mountpoints every container needs, to lie below all others.

        With it an image that lacks them costs no copy-up of /etc at each start, and its containers'
        changes do not show them.
        """
        top = f"{self._root}/mountpoints"
        if not os.path.isdir(f"{top}/etc"):
            for name in ("proc", "dev", "sys", "etc"):
                os.makedirs(f"{top}/{name}", 0o755, exist_ok=True)
        for name in ("hostname", "hosts", "resolv.conf"):
            if not os.path.exists(f"{top}/etc/{name}"):
                os.close(os.open(f"{top}/etc/{name}", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
        return top

    # images

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
