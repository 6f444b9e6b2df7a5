"""The registry client against a registry that can misbehave: breaks, lies, endless streams (S020, S021)."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import os
import tarfile
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from sampan.images.errors import ImageError
from sampan.images.image import Image
from sampan.images.registry import client
from sampan.images.registry.auth import Credentials
from sampan.images.registry.client import Registry
from sampan.images.registry.errors import RegistryError, Unauthorized
from sampan.images.registry.hosts import Hosts
from sampan.images.registry.progress import Progress
from sampan.images.registry.pull import Pull
from sampan.images.registry.push import Push
from sampan.images.store import ImageStore
from sampan.oci import manifest as oci
from sampan.oci import reference
from tests.support.registry_client import leftovers, pull
from tests.support.registry_client import quick as quick
from tests.support.registry_client import store as store
from tests.support.registry_server import Handler, Mock, digest, layer
from tests.support.registry_server import mock as mock


def test_an_image_of_two_layers(store: ImageStore, mock: Mock) -> None:
    mock.image(gzip.compress(layer(a=b"1", b=b"1")), layer(b=b"2"))
    image = pull(store, mock)
    top, bottom = store.lower_directories(image)
    assert (Path(bottom, "a").read_bytes(), Path(top, "b").read_bytes()) == (b"1", b"2")
    assert store.index.find(f"{mock.name}/a/b:1").id == image.id
    assert store.index.find(f"{mock.name}/a/b@{mock.manifest(mock.manifests['1'][1])['digest']}").id == image.id


def test_a_broken_connection_is_resumed(store: ImageStore, mock: Mock) -> None:
    data = layer(big=os.urandom(3 << 20))
    mock.image(data)
    breaks = iter([1 << 20, 1 << 19, 1 << 20])

    def hook(handler: Handler) -> bool:
        if digest(data) not in handler.path or (cut := next(breaks, None)) is None:
            return False
        start = int(handler.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Length", str(len(data) - start))
        handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        handler.end_headers()
        handler.wfile.write(data[start : start + cut])
        handler.wfile.flush()
        handler.connection.shutdown(2)
        return True

    mock.hook = hook
    pull(store, mock)
    ranges = [headers.get("Range") for _, path, headers in mock.requests if digest(data) in path]
    assert ranges[0] is None
    assert len(ranges) == 4
    assert ranges[3] == f"bytes={(2 << 20) + (1 << 19)}-"


def test_a_finished_layer_survives_an_aborted_pull(store: ImageStore, mock: Mock) -> None:
    good, bad = layer(a=b"x" * 1000), layer(b=b"y" * 1000)
    mock.image(good, bad)
    mock.hook = lambda handler: digest(bad) in handler.path and handler.answer(403)
    with pytest.raises(Unauthorized):
        pull(store, mock)
    mock.hook = lambda _: False
    mock.requests.clear()
    pull(store, mock)
    assert not [path for _, path, _ in mock.requests if digest(good) in path]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_retries(store: ImageStore, mock: Mock, status: int) -> None:
    mock.image(layer(a=b"1"))
    left = [3]

    def hook(handler: Handler) -> bool:
        left[0] -= 1
        return left[0] >= 0 and handler.answer(status, Retry_After="0")

    mock.hook = hook
    pull(store, mock)
    left[0] = 1000
    with pytest.raises(RegistryError, match=str(status)):
        pull(store, mock)


def test_platforms(store: ImageStore, mock: Mock) -> None:
    """P027"""
    rows = [mock.image(layer(arch=name.encode()), tag=name, platform=f"linux/{name}") for name in ("amd64", "arm64")]
    mock.manifest({"schemaVersion": 2, "mediaType": oci.OCI_INDEX, "manifests": rows}, "1", oci.OCI_INDEX)
    for name in ("amd64", "arm64", "amd64"):
        image = pull(store, mock, platform=f"linux/{name}")
        assert image.config.architecture == name
        assert store.index.find(f"{mock.name}/a/b:1").id == image.id
    with pytest.raises(RegistryError, match=r"no matching manifest for linux/s390x.*linux/amd64, linux/arm64"):
        pull(store, mock, platform="linux/s390x")


def test_a_lying_blob_leaves_nothing(store: ImageStore, mock: Mock, tmp_path: Path) -> None:
    data = layer(a=b"1" * 5000)
    mock.image(data)
    mock.hook = lambda handler: digest(data) in handler.path and handler.answer(200, data[::-1])
    with pytest.raises(RegistryError, match="digest"):
        pull(store, mock)
    assert leftovers(store, tmp_path) == []
    assert list((tmp_path / "store/partial").iterdir()) == []


def test_an_endless_blob_is_cut(store: ImageStore, mock: Mock, tmp_path: Path) -> None:
    data = layer(a=b"1" * 5000)
    mock.image(data)

    def hook(handler: Handler) -> bool:
        if digest(data) not in handler.path:
            return False
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(b"100000\r\n" + bytes(1 << 20) + b"\r\n")
        except OSError:
            return True

    mock.hook = hook
    with pytest.raises(RegistryError, match="longer than"):
        pull(store, mock)
    assert leftovers(store, tmp_path) == []


def test_a_layer_that_is_not_what_the_image_says(store: ImageStore, mock: Mock, tmp_path: Path) -> None:
    mock.image(layer(a=b"1"), rootfs={"diff_ids": ["sha256:" + "0" * 64]})
    kind, data = mock.manifests["1"]
    document = json.loads(data)
    config = json.loads(mock.blobs[document["config"]["digest"]])
    config["rootfs"] = {"type": "layers", "diff_ids": ["sha256:" + "0" * 64]}
    document["config"] = {**mock.blob(json.dumps(config).encode()), "mediaType": oci.OCI_CONFIG}
    mock.manifest(document, kind=kind)
    with pytest.raises(ImageError, match="unpacks to"):
        pull(store, mock)
    assert leftovers(store, tmp_path) == []


def test_a_bomb_is_an_error(store: ImageStore, mock: Mock, tmp_path: Path) -> None:
    """S020: a header that announces a terabyte."""
    member = tarfile.TarInfo("zeros")
    member.size = 1 << 50
    mock.image(gzip.compress(member.tobuf() + bytes(1 << 20)))
    with pytest.raises(ImageError, match=r"no space left|unexpected end"):
        pull(store, mock)
    assert leftovers(store, tmp_path) == []


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (b"[" * 100000, "damaged"),
        (b"{}", "schema"),
        (b'{"schemaVersion": 1}', "schema 1"),
        (b'{"schemaVersion": 2, "layers": [], "manifests": []}', "index and a manifest"),
        (b'{"schemaVersion": 2, "layers": [], "layers": []}', "twice"),
        (b'{"schemaVersion": 2, "layers": null}', "no list"),
        (b'{"schemaVersion": 2, "layers": [], "config": null}', "descriptor"),
        (b'{"schemaVersion": 2, "layers": [], "config": {"digest": "sha256:../../x", "size": 1}}', "unsupported digest"),
        (b'{"schemaVersion": 2, "layers": [], "config": {"digest": "md5:abc", "size": 1}}', "unsupported digest"),
        (b'{"schemaVersion": 2, "layers": [], "config": {"digest": "sha256:' + b"A" * 64 + b'", "size": 1}}', "unsupported digest"),
        (b'{"schemaVersion": 2, "layers": [], "config": {"digest": "sha256:' + b"a" * 64 + b'", "size": -1}}', "impossible size"),
        (b'{"schemaVersion": 2, "layers": [], "config": {"digest": "sha256:' + b"a" * 64 + b'", "size": 1e300}}', "impossible size"),
        (b'{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "layers": [], "config": {}}', "refused"),
        (b" " * (5 << 20), "larger than"),
    ],
)  # fmt: skip
def test_manifests_that_make_no_sense(
    store: ImageStore, mock: Mock, tmp_path: Path, document: bytes, message: str
) -> None:
    """S021"""
    mock.manifest(document)
    with pytest.raises(RegistryError, match=message):
        pull(store, mock)
    assert leftovers(store, tmp_path) == []


@pytest.mark.parametrize(
    "config", [b"[" * 100000, b"null", b"[]", b'{"rootfs": 1}', b'{"rootfs": {"diff_ids": [-1]}}', b"\xff"]
)
def test_configurations_that_make_no_sense(store: ImageStore, mock: Mock, config: bytes) -> None:
    document = {
        "schemaVersion": 2,
        "mediaType": oci.OCI_MANIFEST,
        "layers": [],
        "config": {**mock.blob(config), "mediaType": oci.OCI_CONFIG},
    }
    mock.manifest(document)
    with pytest.raises(ImageError):
        pull(store, mock)
    assert store.index.all() == []


def test_a_manifest_asked_for_by_digest_is_checked(store: ImageStore, mock: Mock) -> None:
    row = mock.image(layer(a=b"1"))
    pull(store, mock, f"a/b@{row['digest']}")
    mock.manifests[row["digest"]] = (oci.OCI_MANIFEST, mock.manifests["1"][1] + b" ")
    with pytest.raises(RegistryError, match="refused"):
        pull(store, mock, f"a/b@{row['digest']}")


def test_an_artifact_is_not_an_image(store: ImageStore, mock: Mock) -> None:
    config = {**mock.blob(b"{}"), "mediaType": "application/vnd.cncf.helm.config.v1+json"}
    mock.manifest({"schemaVersion": 2, "mediaType": oci.OCI_MANIFEST, "config": config, "layers": []})
    with pytest.raises(RegistryError, match="not an image"):
        pull(store, mock)


def test_two_pulls_share_a_download(store: ImageStore, mock: Mock) -> None:
    data = layer(a=os.urandom(1 << 20))
    mock.image(data)
    mock.image(data, tag="2", author="x")

    async def one(tag: str) -> Image:
        ref = reference.parse(f"{mock.name}/a/b:{tag}")
        async with Registry(Hosts(), ref.registry, Credentials()) as registry:
            return await Pull(store, registry, ref, oci.host_platform(), Progress()).run()

    async def both() -> None:
        await asyncio.gather(one("1"), one("2"))

    asyncio.run(both())
    assert len([path for _, path, _ in mock.requests if digest(data) in path]) == 1


def test_garbage_collection_waits_for_pulls(store: ImageStore, mock: Mock) -> None:
    """P038"""
    data = layer(a=b"1")
    with store.hold():
        name, _ = store.blobs.put(io.BytesIO(data))
        assert store.collect_garbage() == 0
        assert store.blobs.has(name)
    assert not store.blobs.has(name)


def test_push_keeps_the_digest_and_mounts(store: ImageStore, mock: Mock, tmp_path: Path) -> None:
    row = mock.image(gzip.compress(layer(a=b"1")), layer(b=b"2" * 100))
    image = pull(store, mock)

    async def push(name: str) -> str:
        ref = reference.parse(f"{mock.name}/{name}")
        async with Registry(Hosts(), ref.registry, Credentials(), push=True) as registry:
            return (await Push(store, registry, ref, Progress()).run(image))[0]

    assert asyncio.run(push("a/b:2")) == row["digest"]
    # A registry without the blobs: sent from the first, mounted where it has them.
    saved = dict(mock.blobs)
    mock.blobs.clear()
    mock.requests.clear()
    mock.hook = lambda handler: "mount=" in handler.path and handler.answer(201)
    assert asyncio.run(push("c/d:1")) == row["digest"]
    mounts = [
        path
        for method, path, _ in mock.requests
        if method == "POST" and parse_qs(urlsplit(path).query).get("from") == ["a/b"]
    ]
    assert len(mounts) == 2
    mock.hook = lambda _: False
    mock.blobs.clear()
    assert asyncio.run(push("c/e:1")) == row["digest"]
    assert mock.blobs == saved


def test_an_upload_that_breaks_is_repeated(store: ImageStore, mock: Mock) -> None:
    mock.image(layer(a=b"1" * 1000))
    image = pull(store, mock)
    mock.blobs.clear()
    breaks = iter([True, True])

    def hook(handler: Handler) -> bool:
        if handler.command == "PUT" and "/up/" in handler.path and next(breaks, False):
            handler.connection.shutdown(2)
            return True
        return False

    mock.hook = hook

    async def push() -> None:
        ref = reference.parse(f"{mock.name}/x/y:1")
        async with Registry(Hosts(), ref.registry, Credentials(), push=True) as registry:
            await Push(store, registry, ref, Progress()).run(image)

    asyncio.run(push())
    assert len(mock.blobs) == 2


def test_tag_and_digest_together(store: ImageStore, mock: Mock) -> None:
    """P028: the digest decides and the tag is not moved; another repository's image is not taken unseen."""
    old = mock.image(layer(a=b"1"), tag="1")
    first = pull(store, mock)
    new = mock.image(layer(a=b"2"), tag="2")
    found = pull(store, mock, f"a/b:1@{new['digest']}")
    assert found.id != first.id
    assert store.index.find(f"{mock.name}/a/b:1").id == first.id
    assert found.tags == []
    assert store.index.digests(found) == [f"{mock.name}/a/b@{new['digest']}"]
    with pytest.raises(ImageError):
        store.index.find(f"{mock.name}/other/name@{old['digest']}")


def test_layers_of_every_kind(store: ImageStore, mock: Mock) -> None:
    """P029: known by their first bytes, whatever they are called."""
    import zstandard

    plain = layer(a=b"x" * 3000)
    pack = zstandard.ZstdCompressor().compress
    skippable = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"12345"
    half = len(plain) // 2
    kinds = [
        plain,
        gzip.compress(plain),
        gzip.compress(plain[:half]) + gzip.compress(plain[half:]),
        pack(plain),
        pack(plain[:half]) + pack(plain[half:]),
        skippable + pack(plain),
    ]
    for number, data in enumerate(kinds):
        for media_type in (
            oci.OCI_LAYER,
            f"{oci.OCI_LAYER}+gzip",
            f"{oci.OCI_LAYER}+zstd",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
        ):
            config = {
                "os": "linux",
                "architecture": "amd64",
                "n": f"{number} {media_type}",
                "rootfs": {"type": "layers", "diff_ids": [digest(plain)]},
            }
            document = {"schemaVersion": 2, "mediaType": oci.DOCKER_MANIFEST, "extra": 1, "layers": [{**mock.blob(data), "mediaType": media_type}],
                        "config": {**mock.blob(json.dumps(config).encode()), "mediaType": oci.DOCKER_CONFIG}}  # fmt: skip
            mock.manifest(document, kind=oci.DOCKER_MANIFEST)
            image = pull(store, mock)
            assert Path(store.lower_directories(image)[0], "a").read_bytes() == b"x" * 3000
            store.remove(image.id, force=True)


def test_mixed_documents(store: ImageStore, mock: Mock) -> None:
    """P036: a Docker list of OCI manifests."""
    row = mock.image(layer(a=b"1"), tag="x")
    mock.manifest(
        {"schemaVersion": 2, "mediaType": oci.DOCKER_LIST, "manifests": [row], "unknown": {}}, kind=oci.DOCKER_LIST
    )
    pull(store, mock)


def test_an_index_that_lies_is_told(store: ImageStore, mock: Mock) -> None:
    """P027"""
    row = mock.image(layer(a=b"1"), tag="x", platform="linux/s390x")
    row["platform"] = {"os": "linux", "architecture": "amd64"}
    mock.manifest({"schemaVersion": 2, "mediaType": oci.OCI_INDEX, "manifests": [row]}, kind=oci.OCI_INDEX)
    progress = Progress()

    async def run() -> None:
        ref = reference.parse(f"{mock.name}/a/b:1")
        async with Registry(Hosts(), ref.registry, Credentials()) as registry:
            await Pull(store, registry, ref, oci.parse_platform("linux/amd64"), progress).run()

    asyncio.run(run())
    assert any("WARNING" in row["status"] and "s390x" in row["status"] for row in progress._plain)


@pytest.mark.parametrize("wait", ["1", "date", ""])
def test_waiting_as_told(store: ImageStore, mock: Mock, wait: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """P035"""
    import email.utils
    import time

    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(client.asyncio, "sleep", sleep)
    text = email.utils.format_datetime(email.utils.localtime()) if wait == "date" else wait
    body = json.dumps({"errors": [{"code": "TOOMANYREQUESTS", "message": "slow down"}]}).encode()
    if wait == "date":
        text = email.utils.formatdate(time.time() + 3, usegmt=True)
    mock.hook = lambda handler: handler.answer(429, body, **({"Retry_After": text} if text else {}))
    with pytest.raises(RegistryError, match="toomanyrequests: slow down"):
        pull(store, mock)
    assert len(slept) == 4
    assert all(seconds >= (1 if wait else 0) for seconds in slept)
    mock.requests.clear()
    for status in (401, 403, 404):
        mock.hook = lambda handler, status=status: handler.answer(status)  # type: ignore[misc]
        with pytest.raises(RegistryError):
            pull(store, mock)
    assert len(mock.requests) == 3
