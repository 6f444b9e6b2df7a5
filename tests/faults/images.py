"""Small images for tests of the store: archives as `docker save` writes them, made of a few files."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

from sampan.images import archive
from sampan.images.image import Image
from sampan.images.store import ImageStore


def tar_of(members: dict[str, bytes], form: int = tarfile.GNU_FORMAT) -> bytes:
    """A tar of files; a name that ends in a slash is a directory."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.mode, member.mtime = (0o755 if name.endswith("/") else 0o644), 1_700_000_000
            if name.endswith("/"):
                member.type = tarfile.DIRTYPE
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def saved(layers: list[bytes], tags: list[str], **config: Any) -> bytes:
    """An archive with one image."""
    body = {"os": "linux", "architecture": "amd64", "config": {}, **config}
    body.setdefault("rootfs", {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers]})
    text = json.dumps(body).encode()
    names = {f"{number}/layer.tar": layer for number, layer in enumerate(layers)}
    manifest = [{"Config": "config.json", "RepoTags": tags, "Layers": list(names)}]
    return tar_of({**names, "config.json": text, "manifest.json": json.dumps(manifest).encode()})


def two_layers(salt: str = "") -> list[bytes]:
    """The base of ordinary images and something on top of it."""
    base = {"etc/": b"", "etc/passwd": b"root:x:0:0::/:/bin/sh\n", "bin/": b"", "bin/sh": b"#!" + salt.encode() * 2000}
    return [tar_of(base), tar_of({"app/": b"", "app/data": salt.encode() + b"x" * 5000, "etc/motd": b"hello\n"})]


def load(store: ImageStore, data: bytes) -> Image:
    """Loads an archive with one image."""
    return archive.load(store, io.BytesIO(data))[0][0]


def files_of(store: ImageStore, image: Image) -> dict[str, bytes]:
    """Every regular file of an image's layers, upper ones over lower ones."""
    found: dict[str, bytes] = {}
    for directory in reversed(store.lower_directories(image)):
        for path in Path(directory).rglob("*"):
            if path.is_file():
                found[str(path.relative_to(directory))] = path.read_bytes()
    return found
