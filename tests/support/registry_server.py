"""A registry in memory that can misbehave: what it holds is set by the test, and a hook may answer each request first."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import json
import tarfile
import threading
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from sampan.oci import manifest as oci


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def layer(**files: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


class Mock(http.server.ThreadingHTTPServer):
    """A registry in memory. `hook(handler)` sees each request first and returns whether it has answered it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[str, bytes]] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.hook: Callable[[Handler], bool] = lambda _: False
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def name(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    def blob(self, data: bytes) -> dict[str, Any]:
        self.blobs[digest(data)] = data
        return {"mediaType": oci.OCI_LAYER, "digest": digest(data), "size": len(data)}

    def image(self, *layers: bytes, tag: str = "1", platform: str = "linux/amd64", **config: Any) -> dict[str, Any]:
        """Puts an image there; returns its descriptor."""
        system, architecture = platform.split("/")
        plain = [gzip.decompress(x) if x[:2] == b"\x1f\x8b" else x for x in layers]
        body = {"os": system, "architecture": architecture, "config": {}, **config,
                "rootfs": {"type": "layers", "diff_ids": [digest(x) for x in plain]}}  # fmt: skip
        document = {
            "schemaVersion": 2,
            "mediaType": oci.OCI_MANIFEST,
            "config": {**self.blob(json.dumps(body).encode()), "mediaType": oci.OCI_CONFIG},
            "layers": [self.blob(x) for x in layers],
        }
        return {**self.manifest(document, tag), "platform": {"os": system, "architecture": architecture}}

    def manifest(self, document: Any, tag: str = "1", kind: str = oci.OCI_MANIFEST) -> dict[str, Any]:
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.manifests[tag] = self.manifests[digest(data)] = (kind, data)
        return {"mediaType": kind, "digest": digest(data), "size": len(data)}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Mock

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", **headers: str) -> bool:
        self.send_response(status)
        for key, value in {"Content_Length": str(len(body)), **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        return True

    def do_GET(self) -> None:
        self.server.requests.append((self.command, self.path, dict(self.headers)))
        if self.server.hook(self):
            return
        path = urlsplit(self.path).path
        last = path.rpartition("/")[2]
        if path == "/v2/":
            self.answer(200)
        elif "/manifests/" in path and last in self.server.manifests:
            kind, data = self.server.manifests[last]
            self.answer(200, data, Content_Type=kind)
        elif "/blobs/" in path and last in self.server.blobs:
            data, start = self.server.blobs[last], 0
            if "Range" in self.headers:
                start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
                self.answer(206, data[start:], Content_Range=f"bytes {start}-{len(data) - 1}/{len(data)}")
            else:
                self.answer(200, data)
        else:
            code = {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}
            self.answer(404, json.dumps(code).encode())

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self.server.requests.append((self.command, self.path, dict(self.headers)))
        if not self.server.hook(self):
            self.answer(202, Location="/v2/up/1")

    def do_PUT(self) -> None:
        self.server.requests.append((self.command, self.path, dict(self.headers)))
        if self.server.hook(self):
            return
        if "Content-Length" in self.headers:
            body = self.rfile.read(int(self.headers["Content-Length"]))
        else:
            body = b""
        if "/manifests/" in self.path:
            self.server.manifest(body, self.path.rpartition("/")[2], self.headers["Content-Type"])
        else:
            assert digest(body) == parse_qs(urlsplit(self.path).query)["digest"][0]
            self.server.blobs[digest(body)] = body
        self.answer(201)


@pytest.fixture
def mock() -> Iterator[Mock]:
    server = Mock()
    yield server
    server.shutdown()
    server.server_close()
