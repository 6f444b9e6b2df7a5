"""docker-archive and OCI layout: `load` and `save`, as a tar or a directory's tar."""

from __future__ import annotations

import hashlib
import io
import json
import os
import posixpath
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, TypeVar

import msgspec

from sampan.images import compression
from sampan.images.config import MAX_CONFIG, Execution, History, ImageConfig, read_config, write_config
from sampan.images.errors import ImageError, StoreFull
from sampan.images.extract import normalise
from sampan.images.image import Image, Layer, manifest_of
from sampan.images.index import Check
from sampan.images.store import ImageStore
from sampan.images.tarstream import Entry, TarStream
from sampan.oci import documents, reference
from sampan.oci import manifest as oci

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_MAX_JSON = 8 << 20
_MAX_MEMBERS = 100_000
_MAX_NAMES = 16 << 20  # characters of all members' names
_MAX_IMAGES = 1000
T = TypeVar("T")


class _SavedImage(msgspec.Struct, rename="pascal"):
    """A row of a docker-archive's manifest.json: names of its members, and tags."""

    config: str
    layers: list[str] | None
    repo_tags: list[str] | None = None


class _LayoutRow(msgspec.Struct, rename="camel"):
    """A row of an OCI layout's index.json."""

    digest: str
    media_type: str | None = None
    annotations: dict[str, str | None] | None = None


class _Layout(msgspec.Struct):
    """An OCI layout's index.json."""

    manifests: list[_LayoutRow]


@dataclass(frozen=True, slots=True)
class _Member:
    offset: int
    size: int
    link: str = ""


class _Archive:
    """A seekable tar by member name; links are followed by name only, inside the archive."""

    def __init__(self, file: IO[bytes], temporary: str) -> None:
        self._file = compression.unpacked_spool(file, temporary)
        self._end = self._file.seek(0, os.SEEK_END)
        self._file.seek(0)
        self._members: dict[str, _Member] = {}
        names = 0
        stream = TarStream(self._file.read, lambda count: self._file.seek(count, os.SEEK_CUR))
        for entry in _listed(stream):
            if len(self._members) >= _MAX_MEMBERS:
                raise ImageError(f"not an image archive: it has more than {_MAX_MEMBERS} members")
            name, link = normalise(entry.name), ""
            if entry.kind in (b"1", b"2"):
                link = normalise(entry.target if entry.kind == b"1" else f"{posixpath.dirname(name)}/{entry.target}")
            elif not entry.is_file:
                continue
            names += len(name) + len(link)
            if names > _MAX_NAMES:
                raise ImageError(f"not an image archive: the names in it have more than {_MAX_NAMES} characters")
            self._members[name] = _Member(stream.offset, entry.size, link)

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def open(self, name: str) -> IO[bytes]:
        wanted = normalise(name)
        member = self._members.get(wanted)
        for _ in range(8):
            if member is None or not member.link:
                break
            member = self._members.get(member.link)
        if member is None or member.link:
            raise ImageError(f"the archive has no file {name[:200]!r}")
        if member.offset + member.size > self._end:
            raise ImageError(f"damaged tar archive: unexpected end of data in {name[:200]!r}")
        return io.BufferedReader(_Part(self._file, member.offset, member.size))

    def read(self, name: str, limit: int) -> bytes:
        data = self.open(name).read(limit + 1)
        if len(data) > limit:
            raise ImageError(f"{name[:200]} is larger than {limit} bytes")
        return data

    def record(self, name: str, kind: type[T]) -> T:
        try:
            return msgspec.convert(documents.loads(self.read(name, _MAX_JSON)), kind)
        except msgspec.ValidationError as error:
            raise ImageError(f"not an image archive: {name}: {error}") from None
        except ValueError as error:
            raise ImageError(f"{name} is not JSON: {error}") from error


def _listed(stream: TarStream) -> Iterator[Entry]:
    try:
        yield from stream
    except ImageError as error:
        raise ImageError(f"not an image archive: {error}") from None


class _Part(io.RawIOBase):
    """Some bytes of a file, as a file."""

    def __init__(self, file: IO[bytes], offset: int, size: int) -> None:
        self._file, self._at, self._left = file, offset, size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        target = memoryview(buffer)
        self._file.seek(self._at)
        data = self._file.read(min(len(target), self._left))
        target[: len(data)] = data
        self._at += len(data)
        self._left -= len(data)
        return len(data)


def load(
    store: ImageStore, file: IO[bytes], check: Check | None = None, platform: oci.Platform | None = None
) -> list[tuple[Image, list[str]]]:
    """Loads every image of an archive, or those for a platform, each with the names it got. Raises ImageError; nothing half loaded gets
    a name."""
    try:
        with store.hold():
            archive = _Archive(file, store.temporary)
            if "manifest.json" in archive:
                entries = _bounded(archive.record("manifest.json", list[_SavedImage]))
                return _of_platform((_load_docker(store, archive, each, check, platform) for each in entries), platform)
            if "index.json" in archive:
                rows = [
                    row
                    for row in _bounded(archive.record("index.json", _Layout).manifests)
                    if row.media_type in oci.MANIFESTS
                ]
                if not rows:
                    raise ImageError("the archive's index lists no image manifest")
                return _of_platform((_load_oci(store, archive, row, check, platform) for row in rows), platform)
    except (KeyError, TypeError, AttributeError, ValueError, *compression.ERRORS) as error:
        if isinstance(error, ImageError | reference.BadReference) or (isinstance(error, OSError) and error.errno):
            raise
        raise ImageError(f"not an image archive: {error!r}") from error
    raise ImageError("not an image archive: it has neither manifest.json nor index.json")


_Loaded = tuple[Image, list[str]]


def _of_platform(found: Iterator[_Loaded | None], wanted: oci.Platform | None) -> list[_Loaded]:
    """Those that have been loaded. Raises ImageError where none was of the wanted platform."""
    loaded = [each for each in found if each is not None]
    if not loaded and wanted is not None:
        raise ImageError(f"requested platform ({wanted}) not found in the archive")
    return loaded


def _bounded(rows: list[T]) -> list[T]:
    if len(rows) > _MAX_IMAGES:
        raise ImageError(f"the archive lists more than {_MAX_IMAGES} images")
    return rows


def _names(tags: list[str]) -> list[str]:
    return [str(reference.parse(tag).with_default_tag()) for tag in tags]


def _load_docker(
    store: ImageStore, archive: _Archive, entry: _SavedImage, check: Check | None, wanted: oci.Platform | None
) -> _Loaded | None:
    config = archive.read(entry.config, MAX_CONFIG)
    parsed = read_config(config)
    if wanted is not None and not oci.fits(parsed.platform, wanted):
        return None
    diff_ids, names = parsed.diff_ids, entry.layers or []
    if len(diff_ids) != len(names):
        raise ImageError("the archive's manifest and configuration list different layers")
    layers = []
    for name, diff_id in zip(names, diff_ids, strict=True):
        digest, size = store.blobs.put(archive.open(name))
        layers.append(Layer(digest, size, diff_id))
    tags = _names(entry.repo_tags or [])
    return store.add(config, layers, tags, again=True, check=check), tags


def _load_oci(
    store: ImageStore, archive: _Archive, row: _LayoutRow, check: Check | None, wanted: oci.Platform | None
) -> _Loaded | None:
    manifest = oci.parse(archive.read(_blob_name(row.digest), oci.MAX_SIZE), row.media_type or "")
    if not isinstance(manifest, oci.Manifest):
        raise ImageError(f"{row.digest} is an index and no manifest, as the archive's index has it")
    config = archive.read(_blob_name(manifest.config.digest), MAX_CONFIG)
    parsed = read_config(config)
    if wanted is not None and not oci.fits(parsed.platform, wanted):
        return None
    diff_ids = parsed.diff_ids
    if len(diff_ids) != len(manifest.layers):
        raise ImageError("the archive's manifest and configuration list different layers")
    layers = []
    for layer, diff_id in zip(manifest.layers, diff_ids, strict=True):
        digest, size = store.blobs.put(archive.open(_blob_name(layer.digest)), expected=layer.digest)
        layers.append(Layer(digest, size, diff_id, layer.media_type))
    annotations = row.annotations or {}
    name = annotations.get("io.containerd.image.name") or annotations.get("org.opencontainers.image.ref.name")
    tags = _names([name] if name else [])
    return store.add(config, layers, tags, again=True, check=check), tags


def _blob_name(digest: str) -> str:
    if not reference.is_digest(digest):
        raise ImageError(f"unsupported digest {digest[:80]!r}")
    return f"blobs/{digest.replace(':', '/')}"


def check(store: ImageStore, images: list[tuple[Image, list[str]]]) -> None:
    """Reads everything that save() writes, unless it is known to be good. Raises ImageError that names image and way out."""
    for image, _ in images:
        if image.broken:
            raise ImageError(f"image {image.name} is broken: {image.broken}")
        for digest in (image.id, *(layer.digest for layer in image.layers)):
            store.blobs.check(digest)


def save(store: ImageStore, images: list[tuple[Image, list[str]]], out: IO[bytes]) -> None:
    """Writes images with the given names as a tar that is both a docker-archive and an OCI layout. Raises ImageError."""
    with store.hold():
        check(store, images)
        _save(store, images, out)


def _save(store: ImageStore, images: list[tuple[Image, list[str]]], out: IO[bytes]) -> None:
    tar = tarfile.open(fileobj=out, mode="w|")
    written: set[str] = set()
    docker, index = [], []
    for image, tags in images:
        config = store.blobs.read(image.id)
        _add(tar, _blob_name(image.id), config, written)
        for layer in image.layers:
            _add_file(tar, store, layer, written)
        document = manifest(store, image)
        digest = f"sha256:{hashlib.sha256(document).hexdigest()}"
        _add(tar, _blob_name(digest), document, written)
        row = {"mediaType": oci.OCI_MANIFEST, "digest": digest, "size": len(document)}
        for tag in tags or [""]:
            annotations = {
                "io.containerd.image.name": tag,
                "org.opencontainers.image.ref.name": tag.rpartition(":")[2],
            }
            index.append({**row, "annotations": annotations} if tag else row)
        docker.append(
            {
                "Config": _blob_name(image.id),
                "RepoTags": [reference.parse(tag).familiar for tag in tags],
                "Layers": [_blob_name(layer.digest) for layer in image.layers],
            }
        )
    layout = {"schemaVersion": 2, "mediaType": oci.OCI_INDEX, "manifests": index}
    _add(tar, "index.json", json.dumps(layout).encode(), written)
    _add(tar, "manifest.json", json.dumps(docker).encode(), written)
    _add(tar, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}', written)
    tar.close()


def manifest(store: ImageStore, image: Image) -> bytes:
    """The manifest of an image as it is stored. Raises ImageError."""
    return manifest_of(image.id, store.blobs.size(image.id), image.layers)


def _add(tar: tarfile.TarFile, name: str, data: bytes, written: set[str]) -> None:
    if name not in written:
        written.add(name)
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(data), 0o644
        tar.addfile(member, io.BytesIO(data))


def _add_file(tar: tarfile.TarFile, store: ImageStore, layer: Layer, written: set[str]) -> None:
    name = _blob_name(layer.digest)
    if name not in written:
        written.add(name)
        member = tarfile.TarInfo(name)
        member.size, member.mode = layer.size, 0o644
        with store.blobs.open(layer.digest) as file:
            tar.addfile(member, file)
            while file.read(1 << 16):  # to its end, where its digest is compared
                pass


def from_tar(
    store: ImageStore,
    stream: IO[bytes],
    tag: str,
    execution: Execution,
    comment: str,
    check: Check | None = None,
    platform: oci.Platform | None = None,
) -> Image:
    """Makes a one-layer image of a root file system's tar (`import`, `bootstrap`), for the host's platform or another."""
    return add_layer(store, None, stream, execution, comment, tag, check, platform=platform)


def _diff_id(store: ImageStore, digest: str) -> str:
    hasher = hashlib.sha256()
    with store.blobs.open(digest) as blob:
        try:
            for block in compression.bounded(compression.decompress(blob), compression.room(blob.fileno())):
                hasher.update(block)
        except compression.ERRORS as error:
            if isinstance(error, StoreFull):
                raise
            raise ImageError(f"not a tar archive: {error}") from error
    return f"sha256:{hasher.hexdigest()}"


def _is_empty(layer: IO[bytes]) -> bool:
    """Whether a tar, which can be rewound, has no member: two blocks of zeros end it."""
    begin = layer.read(1024)
    layer.seek(0)
    return len(begin) == 1024 and not any(begin)


def add_layer(
    store: ImageStore, base: Image | None, layer: IO[bytes], execution: Execution, comment: str, tag: str,
    check: Check | None = None, author: str = "", platform: oci.Platform | None = None, created_by: str = "",
) -> Image:  # fmt: skip
    """Makes an image of `base` and one more layer (`commit`); a layer in which there is nothing is none, as in Docker's."""
    names = _names([tag] if tag else [])
    with store.hold():
        layers, empty = list(base.layers) if base else [], base is not None and _is_empty(layer)
        if not empty:
            digest, size = store.blobs.put(layer)
            layers.append(Layer(digest, size, _diff_id(store, digest)))
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        below, host = base.config.inherited if base else ImageConfig(), platform or oci.host_platform()
        config = msgspec.structs.replace(
            below, created=now, author=author, architecture=below.architecture or host.architecture, os=below.os or host.os,
            variant=below.variant or (platform.variant if platform else ""), execution=execution,
            diff_ids=tuple(layer.diff_id for layer in layers),
            history=(*below.history, History(created=now, created_by=created_by, author=author, comment=comment, empty_layer=empty)),
        )  # fmt: skip
        return store.add(write_config(config), layers, names, check=check)
