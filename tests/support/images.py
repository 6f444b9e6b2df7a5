"""Small images: archives as `docker save` writes them, made of a few files, and busybox with more in it."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any

from sampan.images import archive
from sampan.images.image import Image
from sampan.images.store import ImageStore
from tests.conftest import Daemon
from tests.support.commands import NONE


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


def image_with(daemon: Daemon, name: str, *members: tuple[str, str | bytes | None]) -> None:
    """An image of busybox plus these members: bytes a file, text a symlink, None a directory."""
    base = subprocess.run(["sampan", "save", "busybox"], env=daemon.env, capture_output=True, check=True).stdout
    assert base
    root = daemon.sampan("create", "--name", f"make-{name}", *NONE, "busybox", "true").stdout.decode().strip()
    rootfs = io.BytesIO(daemon.sampan("export", root).stdout)
    out = io.BytesIO()
    names = {member[0] for member in members}
    with tarfile.open(fileobj=rootfs) as source, tarfile.open(fileobj=out, mode="w") as target:
        for member in source:
            if member.name.rstrip("/") not in names:
                target.addfile(member, source.extractfile(member) if member.isreg() else None)
        for path, content in members:
            info = tarfile.TarInfo(path)
            info.mode = 0o755
            if content is None:
                info.type = tarfile.DIRTYPE
                target.addfile(info)
            elif isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                target.addfile(info)
            else:
                info.size = len(content)
                target.addfile(info, io.BytesIO(content))
    daemon.ok("import", "-", name, input=out.getvalue())
    daemon.ok("rm", root)
