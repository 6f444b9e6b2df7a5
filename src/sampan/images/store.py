"""Blobs by digest, layers by chain ID, and the index of images and their names."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import sqlite3
import tempfile
import time
from dataclasses import dataclass, field
from typing import IO, Any

from sampan.images import compression
from sampan.images.errors import ImageError, ImageInUse, ImageNotFound
from sampan.images.extract import Extractor
from sampan.linux import mount
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


class _HashingReader:
    """Passes reads through and keeps a digest of them."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.hash = hashlib.sha256()

    def read(self, count: int = -1) -> bytes:
        data = self._stream.read(count)
        self.hash.update(data)
        return data

    def drain(self) -> str:
        while self.read(1 << 20):
            pass
        return f"sha256:{self.hash.hexdigest()}"


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
        self._lower: dict[str, list[str]] = {}  # lower directories by image id, until garbage is collected
        for name in ("blobs/sha256", "layers", "chains", "tmp"):
            os.makedirs(f"{root}/{name}", 0o700, exist_ok=True)
        os.chmod(root, 0o700)
        for leftover in os.listdir(f"{root}/tmp"):
            shutil.rmtree(f"{root}/tmp/{leftover}", ignore_errors=True)
            if os.path.exists(f"{root}/tmp/{leftover}"):
                os.unlink(f"{root}/tmp/{leftover}")
        self._db = sqlite3.connect(f"{root}/images.db", check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS images (id TEXT PRIMARY KEY, layers TEXT NOT NULL, loaded REAL NOT NULL)"
        )
        self._db.execute("CREATE TABLE IF NOT EXISTS tags (name TEXT PRIMARY KEY, id TEXT NOT NULL)")

    # blobs

    def blob_path(self, digest: str) -> str:
        """Where a blob is kept. Raises ImageError for text that is not a sha256 digest."""
        if not reference.is_digest(digest) or not digest.startswith("sha256:"):
            raise ImageError(f"unsupported digest {digest[:80]!r}")
        return f"{self._root}/blobs/sha256/{digest[7:]}"

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

    def unpack(self, layer_digest: str, diff_ids: list[str]) -> None:
        """Unpacks the last of `diff_ids` on top of the others, unless that chain is there already."""
        chain = chain_ids(diff_ids)
        marker = f"{self._root}/chains/{chain[-1][7:]}"
        if os.path.exists(marker):
            return
        if len(chain) > _MAX_LAYERS:
            raise ImageError(f"the image has more than {_MAX_LAYERS} layers")
        directory = tempfile.mkdtemp(dir=f"{self._root}/tmp")
        try:
            os.mkdir(f"{directory}/fs", 0o755)
            self._unpack_into(directory, layer_digest, diff_ids[-1], chain[:-1])
            target = self._next_layer(directory)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        try:
            os.symlink(f"../layers/{target}", marker)
        except FileExistsError:
            shutil.rmtree(f"{self._root}/layers/{target}", ignore_errors=True)

    def _unpack_into(self, directory: str, digest: str, diff_id: str, parents: list[str]) -> None:
        upper = f"{directory}/fs"
        if parents:
            os.mkdir(f"{directory}/work", 0o700)
            rootfd_tree = mount.overlay(self._layer_directories(parents), upper, f"{directory}/work")
        else:
            rootfd_tree = os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with open(self.blob_path(digest), "rb") as blob:
                reader = _HashingReader(compression.decompress(blob))
                try:
                    Extractor(rootfd_tree, whiteouts=True).extract(reader)  # type: ignore[arg-type]
                    found = reader.drain()
                except compression.ERRORS as error:
                    raise ImageError(f"layer {digest}: {error}") from error
            if found != diff_id:
                raise ImageError(f"layer {digest} unpacks to {found}, not to {diff_id} as the image says")
        finally:
            os.close(rootfd_tree)
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
        with self._db:
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
        self._db.execute("DELETE FROM tags WHERE id = ?", (image.id,))
        self._db.execute("DELETE FROM images WHERE id = ?", (image.id,))
        self.collect_garbage()
        rows = [{"Untagged": reference.parse(tag).familiar} for tag in image.tags]
        return [*rows, {"Deleted": image.id}]

    def collect_garbage(self) -> int:
        """Deletes blobs and layers that no image needs. Returns the bytes of blobs freed."""
        images = self.all()
        blobs = {image.id for image in images} | {x.digest for image in images for x in image.layers}
        chains = {c for image in images for c in chain_ids([x.diff_id for x in image.layers])}
        freed = 0
        self._lower.clear()
        for name in os.listdir(f"{self._root}/blobs/sha256"):
            if f"sha256:{name}" not in blobs:
                freed += os.stat(f"{self._root}/blobs/sha256/{name}").st_size
                os.unlink(f"{self._root}/blobs/sha256/{name}")
        for name in os.listdir(f"{self._root}/chains"):
            if f"sha256:{name}" not in chains:
                target = os.path.realpath(f"{self._root}/chains/{name}")
                os.unlink(f"{self._root}/chains/{name}")
                shutil.rmtree(target, ignore_errors=True)
        return freed
