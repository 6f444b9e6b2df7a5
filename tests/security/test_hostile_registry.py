"""A registry that means harm: endless, lying, slow, huge, deep. The daemon lives, others go on, memory and disk are bounded."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sampan.client.http import APIError
from sampan.images.errors import ImageError
from sampan.images.registry import blobs, client
from sampan.images.registry.auth import Credentials
from sampan.images.registry.client import Registry
from sampan.images.registry.hosts import Hosts
from sampan.images.registry.progress import Progress
from sampan.images.registry.pull import Pull
from sampan.images.store import ImageStore
from sampan.oci import manifest as oci
from sampan.oci import reference
from tests.conftest import Daemon, end_daemon, new_daemon
from tests.security.fuzzing import SOAK
from tests.security.watching import watched
from tests.support.archives import bomb, many_directories
from tests.support.registry_server import Handler, Mock, digest, layer

OTHER = "169.254.1.1"  # a name that no answer may make us show our credentials to


@pytest.fixture(scope="module")
def target() -> Iterator[Daemon]:
    """An engine of its own: what others have left in its memory does not count."""
    daemon = new_daemon()
    yield daemon
    end_daemon(daemon)


@pytest.fixture
def mock() -> Iterator[Mock]:
    server = Mock()
    server.daemon_threads = True
    yield server
    server.shutdown()
    server.server_close()


def endless(handler: Handler, length: int | None = None) -> bool:
    handler.send_response(200)
    handler.send_header("Content-Type", oci.OCI_MANIFEST)
    if length is not None:
        handler.send_header("Content-Length", str(length))
    else:
        handler.send_header("Connection", "close")
        handler.close_connection = True
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(b" " * (1 << 16))
    except OSError:
        return True


def only(part: str, do: Callable[[Handler], Any]) -> Callable[[Handler], bool]:
    """Answers requests for this part, once they come, in its own way."""

    def hook(handler: Handler) -> bool:
        if part not in handler.path:
            return False
        do(handler)
        return True

    return hook


def pretend(mock: Mock, **more: Any) -> bytes:
    """An image whose manifest says something else of it."""
    data = layer(a=b"x")
    mock.image(data)
    document = json.loads(mock.manifests["1"][1])
    for key, value in more.items():
        (document["layers"][0] if key in ("size", "digest", "urls") else document)[key] = value
    mock.manifest(document)
    return data


def _both(mock: Mock) -> None:
    mock.image(layer(a=b"1"))
    document = json.loads(mock.manifests["1"][1])
    mock.manifest({**document, "manifests": [document["config"]]})


def _config(mock: Mock, data: bytes) -> None:
    row = {**mock.blob(data), "mediaType": oci.OCI_CONFIG}
    mock.manifest(
        {"schemaVersion": 2, "mediaType": oci.OCI_MANIFEST, "config": row, "layers": [mock.blob(layer(a=b"1"))]}
    )


def _layer(mock: Mock, data: bytes) -> None:
    """The layer as it is, and a digest of its content that nobody can check before it is unpacked."""
    config = json.dumps(
        {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": ["sha256:" + "0" * 64]}}
    ).encode()
    mock.manifest({"schemaVersion": 2, "mediaType": oci.OCI_MANIFEST, "config": {**mock.blob(config), "mediaType": oci.OCI_CONFIG},
                   "layers": [mock.blob(data)]})  # fmt: skip


def _hook(mock: Mock, hook: Callable[[Handler], bool]) -> None:
    mock.image(layer(a=b"1"))
    mock.hook = hook


def _challenge(text: str) -> Callable[[Handler], Any]:
    return lambda handler: handler.answer(401, WWW_Authenticate=text)


def _cut(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b"short")
    handler.wfile.flush()
    handler.connection.shutdown(socket.SHUT_RDWR)


ROW = {"mediaType": oci.OCI_LAYER, "digest": "sha256:" + "a" * 64, "size": 1}
HOSTILE: dict[str, Callable[[Mock], Any]] = {
    "an endless manifest": lambda m: _hook(m, only("/manifests/", endless)),
    "a manifest of a gigabyte": lambda m: _hook(m, only("/manifests/", lambda h: endless(h, 1 << 30))),
    "a deep manifest": lambda m: m.manifest(b"[" * 100_000),
    "a deep manifest of objects": lambda m: m.manifest(b'{"a":' * 100_000),
    "a manifest of a million values": lambda m: m.manifest(b'{"schemaVersion": 2, "x": [' + b"{}," * 1_300_000 + b"0]}"),
    "layers and manifests at once (S021)": _both,
    "100,000 layers": lambda m: m.manifest({"schemaVersion": 2, "config": ROW, "layers": [ROW] * 20_000}),
    "100,000 manifests": lambda m: m.manifest({"schemaVersion": 2, "manifests": [ROW] * 30_000}, kind=oci.OCI_INDEX),
    "a key twice": lambda m: m.manifest(b'{"schemaVersion": 2, "layers": [], "layers": []}'),
    "a negative size": lambda m: pretend(m, size=-1),
    "a size beyond all": lambda m: pretend(m, size=10**30),
    "a size that is not true": lambda m: pretend(m, size=5),
    "a digest with a path": lambda m: pretend(m, digest="sha256:../../../../etc/shadow"),
    "an algorithm that nobody knows": lambda m: pretend(m, digest="md5:" + "0" * 32),
    "a digest in capitals": lambda m: pretend(m, digest="sha256:" + "A" * 64),
    "another media type": lambda m: m.manifest({"schemaVersion": 2, "mediaType": "text/html", "config": ROW, "layers": []}),
    "a deep configuration": lambda m: _config(m, b'{"rootfs":' * 100_000),
    "a configuration of a million values": lambda m: _config(m, b'{"x": [' + b"[]," * 1_300_000 + b"0]}"),
    "a configuration of wrong types": lambda m: _config(m, b'{"rootfs": {"diff_ids": {"a": 1e999}}, "os": [], "architecture": {}}'),
    "an endless blob": lambda m: _hook(m, only("/blobs/", lambda h: endless(h))),
    "a blob of another digest": lambda m: _hook(m, only("/blobs/", lambda h: h.answer(200, b"something else"))),
    "a compressed answer": lambda m: _hook(m, only("/blobs/", lambda h: h.answer(200, gzip.compress(b"x"), Content_Encoding="gzip"))),
    "a bomb of gzip (S020)": lambda m: _layer(m, bomb("gzip")),
    "a bomb of zstd (S020)": lambda m: _layer(m, bomb("zstd")),
    "a bomb of xz (S020)": lambda m: _layer(m, bomb("xz")),
    "a window of two gigabytes (S020)": lambda m: _layer(m, bomb("zstd window")),
    "directories without end": lambda m: _layer(m, gzip.compress(many_directories(60_000 if SOAK else 2_000, 3700), 1)),
    "a redirect to a file": lambda m: _hook(m, only("/blobs/", lambda h: h.answer(302, Location="file:///etc/shadow"))),
    "a redirect in circles": lambda m: _hook(m, only("/blobs/", lambda h: h.answer(302, Location=h.path))),
    "a redirect to what is no address": lambda m: _hook(m, only("/blobs/", lambda h: h.answer(302, Location="http://[::1/x"))),
    "a redirect to no port": lambda m: _hook(m, only("/blobs/", lambda h: h.answer(302, Location="http://h:99999/x"))),
    "a redirect to nothing": lambda m: _hook(m, only("/blobs/", lambda h: h.answer(302, Location=""))),
    "a realm that is a file (S039)": lambda m: _hook(m, only("/", _challenge('Bearer realm="file:///etc/shadow"'))),
    "a realm that is no address": lambda m: _hook(m, only("/", _challenge('Bearer realm="http://[x"'))),
    "a realm that is itself": lambda m: _hook(m, only("/", lambda h: h.answer(401, WWW_Authenticate=f'Bearer realm="http://{m.name}/t"'))),
    "a challenge of many letters": lambda m: _hook(m, only("/", _challenge("Bearer " + "a" * 8000))),
    "a challenge of nothing": lambda m: _hook(m, only("/", _challenge(""))),
    "an error of escapes": lambda m: _hook(m, only("/", lambda h: h.answer(404, b'{"errors": [{"code": "X", "message": "\\u001b]0;x\\u0007"}]}'))),
    "a deep error": lambda m: _hook(m, only("/", lambda h: h.answer(400, b"[" * 100_000))),
    "errors without end": lambda m: _hook(m, only("/", lambda h: h.answer(400, b'{"errors": [' + b"{}," * 1_000_000 + b"{}]}"))),
    "no HTTP at all": lambda m: _hook(m, only("/", lambda h: h.wfile.write(b"\0" * 100_000))),
    "headers without end": lambda m: _hook(m, only("/", lambda h: h.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200_000))),
    "chunks of impossible sizes": lambda m: _hook(m, only("/manifests/", lambda h: h.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 5000))),
    "two lengths": lambda m: _hook(m, only("/manifests/", lambda h: h.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 9\r\n\r\nhello"))),
}  # fmt: skip


if SOAK:  # retried, which takes a while
    HOSTILE["a manifest that ends early"] = lambda m: _hook(m, only("/manifests/", _cut))


def refused(daemon: Daemon, query: str) -> str:
    """What the engine says of a pull that fails, as the answer or in its stream."""
    try:
        rows = daemon.http.send("POST", f"/images/create?{query}").read().splitlines()
    except APIError as error:
        return str(error)
    return str(json.loads(rows[-1])["error"])


def test_everything_that_a_registry_can_do(target: Daemon) -> None:
    """S020, S021, S039. Each pull fails with a reason, in bounded time; then an honest one works."""
    with watched(target) as watch:
        for number, (what, prepare) in enumerate(HOSTILE.items()):
            server = Mock()
            try:
                prepare(server)
                begun = time.monotonic()
                text = refused(target, f"fromImage={server.name}/hostile/{number}&tag=1")
                print(f"{time.monotonic() - begun:6.1f} s, {watch.take() >> 20:4} MiB  {what}: {text[:150]}")
                assert text.strip(), what
                assert text.isprintable(), (what, text)
                assert "Traceback" not in text, (what, text)
            finally:
                server.shutdown()
                server.server_close()
    log = (target.root / "log").read_text()
    assert "Traceback" not in log, log[-3000:]
    honest = Mock()
    try:
        honest.image(layer(a=b"1"))
        target.ok("pull", f"{honest.name}/an/image:1")
        target.ok("rmi", f"{honest.name}/an/image:1")
    finally:
        honest.shutdown()
        honest.server_close()


@pytest.mark.parametrize("path", ["tags/list", "_catalog"])
def test_lists_without_end(target: Daemon, mock: Mock, path: str) -> None:
    """100,000 tags and more, pages without end, a next page at another host."""
    other = Mock()
    page = json.dumps({"tags": [f"t{number:06}" for number in range(60_000)], "repositories": ["r"] * 60_000}).encode()
    mock.hook = only(
        path, lambda handler: handler.answer(200, page, Link=f'<http://{other.name}/v2/x/{path}>; rel="next"')
    )
    other.hook = mock.hook
    try:
        with watched(target):
            if path == "_catalog":
                done = target.sampan("search", f"{mock.name}/r")
            else:
                done = target.sampan("pull", "-a", f"{mock.name}/some/thing")
            assert done.returncode != 0
            assert b"more than 100000" in done.stderr
    finally:
        other.shutdown()
        other.server_close()


def test_what_a_redirect_gets(target: Daemon, mock: Mock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """S039: whoever a registry sends us to gets nothing that was not meant for the registry's token server; errors name no secret."""
    other = Mock()
    mock.hook = only("/", lambda handler: handler.answer(307, Location=f"http://{other.name}{handler.path}"))
    try:
        configuration = tmp_path / "config.json"
        shown = base64.b64encode(b"ann:secret-of-ann").decode()
        configuration.write_text(json.dumps({"auths": {mock.name: {"auth": shown}}}))
        monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
        done = target.sampan("pull", f"{mock.name}/a/b:1")
        assert done.returncode == 1
        assert b"secret-of-ann" not in done.stderr + done.stdout
        assert "secret-of-ann" not in (target.root / "log").read_text()
        assert other.requests
        assert not any("Authorization" in headers for _, _, headers in other.requests)
    finally:
        other.shutdown()
        other.server_close()


# without a daemon: what takes a while


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(str(tmp_path / "store"))


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_FIRST_DELAY", 0.01)
    monkeypatch.setattr(client, "_SOON", 0.5)
    monkeypatch.setattr(blobs, "_WHILE", 0.5)


def pull(store: ImageStore, mock: Mock) -> None:
    async def run() -> None:
        ref = reference.parse(f"{mock.name}/a/b:1")
        async with Registry(Hosts(), ref.registry, Credentials()) as registry:
            await Pull(store, registry, ref, oci.parse_platform("linux/amd64"), Progress()).run()

    asyncio.run(run())


def drops(handler: Handler, head: bytes) -> None:
    """A byte now and then, for ever."""
    handler.close_connection = True
    try:
        handler.wfile.write(head)
        while True:
            handler.wfile.write(b"x")
            handler.wfile.flush()
            time.sleep(0.05)
    except OSError:
        pass


@pytest.mark.parametrize(("part", "head"), [
    ("/manifests/", b"HTTP/1.1 200 OK\r\nX-"),
    ("/manifests/", b"HTTP/1.1 200 OK\r\nContent-Length: 4000000\r\n\r\n"),
    ("/blobs/", b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"),
])  # fmt: skip
@pytest.mark.usefixtures("hasty")
def test_slow_ones_are_left(store: ImageStore, mock: Mock, part: str, head: bytes) -> None:
    """Slow-loris: bytes come so seldom that the image never would."""
    data = layer(a=os.urandom(1 << 20))
    mock.image(data)
    name = digest(data) if part == "/blobs/" else part
    mock.hook = only(name, lambda handler: drops(handler, head))
    with pytest.raises(ImageError):
        pull(store, mock)
    assert not store.index.all()


def test_foreign_layers_and_their_urls(store: ImageStore, mock: Mock, monkeypatch: pytest.MonkeyPatch) -> None:
    """S039: the `urls` of a layer are asked by nobody, whatever they are."""
    monkeypatch.setattr(client, "_FIRST_DELAY", 0.01)
    for url in (f"http://{mock.name}/elsewhere", "file:///etc/shadow", "http://169.254.169.254/latest"):
        data = pretend(mock, urls=[url])
        del mock.blobs[digest(data)]
        with pytest.raises(ImageError):
            pull(store, mock)
    assert not [path for _, path, _ in mock.requests if "elsewhere" in path]
