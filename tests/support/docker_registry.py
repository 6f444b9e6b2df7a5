"""Debian's docker-registry on loopback, with or without TLS, and a client's configuration that is the test's own."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@dataclass
class Registry:
    name: str
    root: Path


@contextlib.contextmanager
def registry(root: Path, extra: str = "", tls: bool = False) -> Iterator[Registry]:
    port = free_port()
    root.mkdir(parents=True, exist_ok=True)
    lines = ["version: 0.1", f"storage: {{filesystem: {{rootdirectory: {root}/data}}, delete: {{enabled: true}}}}",
             "log: {level: error}", "http:", f"  addr: 127.0.0.1:{port}"]  # fmt: skip
    if tls:
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1", "-addext",
                        "subjectAltName=IP:127.0.0.1", "-keyout", f"{root}/key.pem", "-out", f"{root}/cert.pem"], check=True, capture_output=True)  # fmt: skip
        lines += ["  tls:", f"    certificate: {root}/cert.pem", f"    key: {root}/key.pem"]
    (root / "config.yml").write_text("\n".join([*lines, extra]) + "\n")
    with open(root / "log", "wb") as log:
        process = subprocess.Popen(["docker-registry", "serve", str(root / "config.yml")], stdout=log, stderr=log)
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield Registry(f"127.0.0.1:{port}", root)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry(tmp_path_factory.mktemp("plain")) as found:
        yield found


@pytest.fixture(autouse=True)
def configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    return tmp_path / "docker/config.json"
