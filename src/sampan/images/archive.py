"""docker-archive and OCI layout: `load` and `save`, as a tar or a directory's tar."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import tempfile
import time
from typing import IO, Any

from sampan.images import compression
from sampan.images.errors import ImageError
from sampan.images.layerstore import Layer
from sampan.images.store import Image, ImageStore
from sampan.oci import reference

_MAX_JSON = 8 << 20
_CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
_MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"


class _Archive:
    """A seekable tar by member name; links are followed by name only, inside the archive."""

    def __init__(self, file: IO[bytes]) -> None:
        plain = compression.decompress(file)
        if plain is not file:
            spool = tempfile.TemporaryFile()
            while block := plain.read(1 << 20):
                spool.write(block)
            spool.seek(0)
            plain = spool
        self._tar = tarfile.open(fileobj=plain, mode="r:")
        self._members = {m.name.removeprefix("./"): m for m in self._tar}

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def open(self, name: str) -> IO[bytes]:
        member = self._members.get(name)
        for _ in range(8):
            if member is None or not (member.issym() or member.islnk()):
                break
            base = name.rpartition("/")[0] if member.issym() else ""
            parts: list[str] = []
            for part in f"{base}/{member.linkname}".split("/"):
                if part == ".." and parts:
                    parts.pop()
                elif part not in ("", ".", ".."):
                    parts.append(part)
            name = "/".join(parts)
            member = self._members.get(name)
        if member is None or not member.isreg():
            raise ImageError(f"the archive has no file {name!r}")
        file = self._tar.extractfile(member)
        assert file is not None
        return file

    def json(self, name: str) -> Any:
        data = self.open(name).read(_MAX_JSON + 1)
        if len(data) > _MAX_JSON:
            raise ImageError(f"{name} is larger than {_MAX_JSON} bytes")
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            raise ImageError(f"{name} is not JSON: {error}") from error


def load(store: ImageStore, file: IO[bytes]) -> list[tuple[Image, list[str]]]:
    """Loads every image of an archive, each with the names it got. Raises ImageError; nothing half loaded gets a name."""
    try:
        archive = _Archive(file)
        if "manifest.json" in archive:
            return [_load_docker(store, archive, entry) for entry in archive.json("manifest.json")]
        if "index.json" in archive:
            return [
                _load_oci(store, archive, row)
                for row in archive.json("index.json")["manifests"]
                if row.get("mediaType") == _MANIFEST_TYPE or "manifest.v2" in row.get("mediaType", "")
            ]
    except (tarfile.TarError, KeyError, TypeError, AttributeError, *compression.ERRORS) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"not an image archive: {error!r}") from error
    raise ImageError("not an image archive: it has neither manifest.json nor index.json")


def _names(tags: list[str]) -> list[str]:
    return [str(reference.parse(tag).with_default_tag()) for tag in tags]


def _load_docker(store: ImageStore, archive: _Archive, entry: dict[str, Any]) -> tuple[Image, list[str]]:
    config = archive.open(entry["Config"]).read(_MAX_JSON)
    diff_ids = json.loads(config)["rootfs"]["diff_ids"]
    if len(diff_ids) != len(entry["Layers"]):
        raise ImageError("the archive's manifest and configuration list different layers")
    layers = []
    for name, diff_id in zip(entry["Layers"], diff_ids, strict=True):
        digest, size = store.put_blob(archive.open(name))
        layers.append(Layer(digest, size, diff_id))
    names = _names(entry.get("RepoTags") or [])
    return store.add(config, layers, names), names


def _load_oci(store: ImageStore, archive: _Archive, row: dict[str, Any]) -> tuple[Image, list[str]]:
    manifest = archive.json(_blob_name(row["digest"]))
    config = archive.open(_blob_name(manifest["config"]["digest"])).read(_MAX_JSON)
    diff_ids = json.loads(config)["rootfs"]["diff_ids"]
    layers = []
    for descriptor, diff_id in zip(manifest["layers"], diff_ids, strict=True):
        blob = archive.open(_blob_name(descriptor["digest"]))
        digest, size = store.put_blob(blob, expected=descriptor["digest"])
        layers.append(Layer(digest, size, diff_id, descriptor.get("mediaType", "")))
    annotations = row.get("annotations") or {}
    name = annotations.get("io.containerd.image.name") or annotations.get("org.opencontainers.image.ref.name")
    names = _names([name] if name else [])
    return store.add(config, layers, names), names


def _blob_name(digest: str) -> str:
    if not reference.is_digest(digest):
        raise ImageError(f"unsupported digest {digest[:80]!r}")
    return f"blobs/{digest.replace(':', '/')}"


def save(store: ImageStore, images: list[tuple[Image, list[str]]], out: IO[bytes]) -> None:
    """Writes images with the given names as a tar that is both a docker-archive and an OCI layout."""
    tar = tarfile.open(fileobj=out, mode="w|")
    written: set[str] = set()
    docker, index = [], []
    for image, tags in images:
        config = store.read_blob(image.id)
        _add(tar, _blob_name(image.id), config, written)
        for layer in image.layers:
            _add_file(tar, store, layer, written)
        manifest = json.dumps(_manifest(image, len(config))).encode()
        digest = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
        _add(tar, _blob_name(digest), manifest, written)
        row: dict[str, Any] = {"mediaType": _MANIFEST_TYPE, "digest": digest, "size": len(manifest)}
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
    layout = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": index}
    _add(tar, "index.json", json.dumps(layout).encode(), written)
    _add(tar, "manifest.json", json.dumps(docker).encode(), written)
    _add(tar, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}', written)
    tar.close()


def _manifest(image: Image, config_size: int) -> dict[str, Any]:
    return {
        "schemaVersion": 2,
        "mediaType": _MANIFEST_TYPE,
        "config": {"mediaType": _CONFIG_TYPE, "digest": image.id, "size": config_size},
        "layers": [{"mediaType": x.media_type, "digest": x.digest, "size": x.size} for x in image.layers],
    }


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
        with open(store.blob_path(layer.digest), "rb") as file:
            tar.addfile(member, file)


def from_tar(store: ImageStore, stream: IO[bytes], tag: str, config: dict[str, Any], comment: str) -> Image:
    """Makes a one-layer image of a root file system's tar (`import`, `bootstrap`)."""
    digest, size = store.put_blob(stream)
    diff_id = _diff_id(store, digest)
    return store.add(
        image_config([diff_id], config, comment), [Layer(digest, size, diff_id)], _names([tag] if tag else [])
    )


def _diff_id(store: ImageStore, digest: str) -> str:
    hasher = hashlib.sha256()
    with open(store.blob_path(digest), "rb") as blob:
        try:
            plain = compression.decompress(blob)
            while block := plain.read(1 << 20):
                hasher.update(block)
        except compression.ERRORS as error:
            raise ImageError(f"not a tar archive: {error}") from error
    return f"sha256:{hasher.hexdigest()}"


def image_config(
    diff_ids: list[str], config: dict[str, Any], comment: str, base: dict[str, Any] | None = None
) -> bytes:
    """The bytes of an image configuration (image-spec, config.md)."""
    from sampan.linux.syscall import ARCH

    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    history = list((base or {}).get("history") or [])
    history.append({"created": now, "created_by": comment})
    return json.dumps(
        {
            "created": now,
            "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(ARCH, ARCH),
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": history,
        }
    ).encode()


def add_layer(
    store: ImageStore, base: Image | None, layer: IO[bytes], config: dict[str, Any], comment: str, tag: str
) -> Image:
    """Makes an image of `base` and one more layer (`commit`)."""
    digest, size = store.put_blob(layer)
    diff_id = _diff_id(store, digest)
    layers = [*(base.layers if base else []), Layer(digest, size, diff_id)]
    body = image_config([x.diff_id for x in layers], config, comment, base.config if base else None)
    return store.add(body, layers, _names([tag] if tag else []))
