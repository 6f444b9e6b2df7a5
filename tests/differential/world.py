"""The images that both engines have, the same to the last byte."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from typing import Any

PROGRAMS = [
    "sh",
    "ls",
    "cat",
    "echo",
    "sleep",
    "true",
    "false",
    "env",
    "id",
    "ps",
    "grep",
    "touch",
    "mkdir",
    "rm",
    "mv",
    "cp",
    "ln",
    "chmod",
    "chown",
    "kill",
    "head",
    "tail",
    "wc",
    "pwd",
    "date",
    "stat",
    "test",
    "tty",
    "hostname",
    "ip",
    "ping",
    "nslookup",
    "mount",
    "umount",
    "dd",
    "seq",
    "printf",
    "find",
    "sed",
    "awk",
    "sort",
    "uniq",
    "tar",
    "md5sum",
    "sync",
    "uname",
    "vi",
    "wget",
    "nc",
]
FULL: dict[str, Any] = {
    "Env": ["PATH=/bin", "FROM_IMAGE=yes"], "Cmd": ["default"], "Entrypoint": ["echo", "entry"], "WorkingDir": "/work", "User": "1000:1000",
    "Labels": {"image.label": "there", "k": "image"}, "ExposedPorts": {"8080/tcp": {}, "53/udp": {}}, "Volumes": {"/vol": {}}, "StopSignal": "SIGINT",
    "Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 60_000_000_000}, "OnBuild": ["RUN true"],
}  # fmt: skip


def _add(
    tar: tarfile.TarFile, name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, mode: int = 0o644, link: str = ""
) -> None:
    info = tarfile.TarInfo(name)
    info.mtime, info.mode, info.type, info.linkname, info.size = 1_700_000_000, mode, kind, link, len(data)
    tar.addfile(info, io.BytesIO(data))


def _layer() -> bytes:
    """Debian's static busybox and what a root needs."""
    program = shutil.which("busybox")
    assert program, "no busybox"
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name in ("bin", "etc", "dev", "proc", "sys", "root", "var", "work"):
            _add(tar, name, kind=tarfile.DIRTYPE, mode=0o755)
        _add(tar, "tmp", kind=tarfile.DIRTYPE, mode=0o1777)
        with open(program, "rb") as file:
            _add(tar, "bin/busybox", file.read(), mode=0o755)
        for name in sorted(set(PROGRAMS)):
            _add(tar, f"bin/{name}", kind=tarfile.SYMTYPE, mode=0o777, link="busybox")
        _add(tar, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/work:/bin/sh\n")
        _add(tar, "etc/group", b"root:x:0:\nuser:x:1000:\nextra:x:2000:user\n")
        _add(tar, "etc/motd", b"hello\n")
        _add(tar, "etc/link", kind=tarfile.SYMTYPE, mode=0o777, link="motd")
    return data.getvalue()


def archive() -> bytes:
    """What `docker load` reads: busybox, and an image whose configuration says everything."""
    layer = _layer()
    data = io.BytesIO()
    manifest: list[dict[str, Any]] = []
    with tarfile.open(fileobj=data, mode="w") as tar:
        _add(tar, "layer.tar", layer)
        for tags, config in (
            (["busybox:latest"], {"Env": ["PATH=/usr/local/bin:/bin"], "Cmd": ["sh"]}),
            (["full:1", "full:2"], FULL),
        ):
            document = {"architecture": "amd64", "os": "linux", "created": f"202{4 - len(manifest)}-01-02T03:04:05Z", "config": config,
                        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
                        "history": [{"created": "2024-01-02T03:04:05Z", "created_by": "made by hand"}]}  # fmt: skip
            encoded = json.dumps(document).encode()
            name = f"{hashlib.sha256(encoded).hexdigest()}.json"
            _add(tar, name, encoded)
            manifest.append({"Config": name, "RepoTags": tags, "Layers": ["layer.tar"]})
        _add(tar, "manifest.json", json.dumps(manifest).encode())
    return data.getvalue()
