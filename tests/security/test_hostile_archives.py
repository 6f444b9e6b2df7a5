"""Archives and build contexts that mean harm, as clients send them: refused with a reason, bounded, nothing left (S017, S020, S024)."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sampan.build.files import unpack_stream
from sampan.client.http import APIError
from tests.conftest import Daemon, end_daemon, new_daemon
from tests.security.fuzzing import SOAK
from tests.security.watching import watched
from tests.support.archives import END, base256, bomb, header, many_directories
from tests.support.dockerfiles import HOSTILE_DOCKERFILES as DOCKERFILES
from tests.support.images import saved, tar_of


@pytest.fixture(scope="module")
def target() -> Iterator[Daemon]:
    daemon = new_daemon()
    yield daemon
    end_daemon(daemon)


def refused(daemon: Daemon, method: str, path: str, data: bytes) -> str:
    """The error that comes instead of an answer, or at its end."""

    def pieces() -> Iterator[bytes]:
        yield from (data[at : at + (1 << 20)] for at in range(0, len(data), 1 << 20))

    try:
        answer = daemon.http.send(method, path, stream=pieces()).read()
    except APIError as error:
        return str(error) if error.status < 500 or error.status == 507 else f"Traceback: {error.status} {error}"
    rows = [json.loads(line) for line in answer.splitlines()]
    return next((str(row["error"]) for row in rows if "error" in row), "")


def links(count: int) -> bytes:
    """Links with long names to long names: much to remember for who wants to look members up."""
    long = (
        header(b"l", b"%011o" % 4000, b"L")
        + b"%s"
        + header(b"l", b"%011o" % 4000, b"K")
        + b"t/" * 2000
        + bytes(96)
        + header(kind=b"2")
    )
    name = "n/" * 1995
    return b"".join(long % f"{name}{number:010}".encode().ljust(4096, b"\0") for number in range(count)) + END


def nested(depth: int) -> bytes:
    data = tar_of({"x": b"x"})
    for _ in range(depth):
        data = gzip.compress(tar_of({"inner.tar.gz": data}), 1)
    return data


def context(dockerfile: bytes, **files: bytes) -> bytes:
    return tar_of({"Dockerfile": dockerfile, **{name.replace("__", "."): data for name, data in files.items()}})


def linked(name: str, to: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = tarfile.SYMTYPE, to
        tar.addfile(member)
    return out.getvalue()


LOADED: dict[str, Callable[[], bytes]] = {
    "links of long names": lambda: gzip.compress(links(60_000 if SOAK else 2_500), 1),
    "a bomb of gzip (S020)": lambda: bomb("gzip"),
    "a window of two gigabytes (S020)": lambda: bomb("zstd window"),
    "a list of a million images": lambda: tar_of({"manifest.json": b"[" + b"{}," * 1_300_000 + b"{}]"}),
    "a deep list": lambda: tar_of({"manifest.json": b"[" * 100_000}),
    "a configuration of a million values": lambda: saved([tar_of({"a": b"x"})], ["x:1"], extra=[[]] * 400_000),
    "an index that names a file of the host": lambda: tar_of({"index.json": json.dumps({"manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": "sha256:../../../../etc/shadow"}]}).encode()}),
    "a configuration that is a link": lambda: tar_of({"manifest.json": json.dumps([{"Config": "../../../etc/passwd", "Layers": []}]).encode()}),
    "archives in archives": lambda: nested(50),
    "a layer of directories": lambda: saved([many_directories(300, 3700)], ["x:1"])[:-200_000],
}  # fmt: skip
BUILT: dict[str, Callable[[], bytes]] = {
    **{what: (lambda data=data: context(data.replace(b"FROM a", b"FROM scratch"))) for what, data in DOCKERFILES.items()},
    "a Dockerfile of nothing but lines": lambda: gzip.compress(context(b"\n" * (1 << 20)), 1),
    "patterns without end": lambda: context(b"FROM scratch\nCOPY a /\n", __dockerignore=b"a*b\n" * 20_000),
    "a pattern of a megabyte": lambda: context(b"FROM scratch\nCOPY a /\n", __dockerignore=b"a*" * 500_000),
    "a bomb as a context (S020)": lambda: bomb("gzip"),
    "a Dockerfile that is a link (S024)": lambda: linked("Dockerfile", "/etc/shadow"),
    "a Dockerfile that is a device": lambda: header(b"Dockerfile", kind=b"3") + END,
    "a Dockerfile that is a fifo": lambda: header(b"Dockerfile", kind=b"6") + END,
    "negative sizes": lambda: header(b"Dockerfile", base256(-5)) + END,
}  # fmt: skip


def test_archives_and_contexts(target: Daemon) -> None:
    """The daemon lives, other containers go on and start meanwhile, memory is bounded, nothing is left."""
    secret = Path("/etc/shadow").read_text().splitlines()[0]
    target.ok("create", "--name", "into", "--network", "none", "busybox", "true")
    with watched(target) as watch:
        for way, cases, method, path in (
            ("load", LOADED, "POST", "/images/load"),
            ("import", {what: LOADED[what] for what in ("a bomb of gzip (S020)", "a window of two gigabytes (S020)")}, "POST", "/images/create?fromSrc=-&repo=x"),
            ("build", BUILT, "POST", "/build?t=hostile&networkmode=none"),
            ("cp", {what: LOADED[what] for what in ("a bomb of gzip (S020)", "a window of two gigabytes (S020)")}, "PUT", "/containers/into/archive?path=/"),
        ):  # fmt: skip
            for what, make in cases.items():
                text = refused(target, method, path, make())
                print(f"{watch.take() >> 20:4} MiB  {way}: {what}: {text[:120]}")
                assert text, (way, what)
                assert secret not in text
                assert "Traceback" not in text
    target.ok("rm", "into")
    log = (target.root / "log").read_text()
    assert "Traceback" not in log, log[-3000:]


def test_what_can_not_be_unpacked_is_an_ordinary_file(tmp_path: Path) -> None:
    """ADD of something that wants too much memory: a file like others, as it is (S020)."""
    rootfd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    data = io.BytesIO(bomb("zstd window"))
    assert not unpack_stream(data, rootfd, "/", None)
    assert data.read(4) == b"\x28\xb5\x2f\xfd"
    assert os.listdir(tmp_path) == []
    os.close(rootfd)


def test_what_a_snapshot_says_of_the_host(target: Daemon, tmp_path: Path) -> None:
    """S036: an image names no mounts, no devices, no privileges, no other image's tag: what is no part of an image is not taken from it."""
    config = {
        "HostConfig": {"Privileged": True, "Binds": ["/:/host"], "Devices": [{"PathOnHost": "/dev/sda"}]}, "Binds": ["/:/host"], "Privileged": True,
        "Annotations": {"cdi.k8s.io/x": "vendor/gpu=all"}, "Hooks": {"prestart": [{"path": "/bin/touch", "args": ["touch", str(tmp_path / "hook")]}]},
        "Labels": {"io.containerd.runc.hook": f"touch {tmp_path}/hook", "sampan.tenant": "root"},
    }  # fmt: skip
    target.ok("load", input=saved([tar_of({"bin/": b"", "x": b""})], ["claims:1"], config=config))
    target.ok("create", "--name", "claimed", "--network", "none", "claims:1", "/x")
    found = json.loads(target.ok("inspect", "claimed"))[0]
    assert not found["HostConfig"]["Privileged"]
    assert not found["HostConfig"].get("Binds")
    assert not found["HostConfig"].get("Devices")
    assert found["Mounts"] == []
    target.sampan("start", "claimed")
    assert not os.listdir(tmp_path)
    # An environment without values is no way to the host's (CVE-2026-57231).
    target.ok("create", "--name", "source", "--network", "none", "busybox", "true")
    root = target.sampan("export", "source").stdout
    host = {key: value for key, value in os.environ.items() if len(value) > 3}
    target.ok("load", input=saved([root], ["prints:1"], config={"Env": [*host, "*", "=x"], "Cmd": ["/bin/env"]}))
    done = target.sampan("run", "--rm", "--network", "none", "prints:1", "/bin/env")
    assert not [
        key
        for key, value in host.items()
        if f"{key}={value}\n".encode() in done.stdout and key not in ("HOME", "PATH", "TERM")
    ]
    target.ok("rm", "source")
    target.sampan("rmi", "prints:1")
    before = target.ok("images", "-q", "busybox")
    with pytest.raises(AssertionError, match="reference"):
        target.ok("load", input=saved([tar_of({"x": b""})], ["../../busybox:latest"]))
    assert target.ok("images", "-q", "busybox") == before
    target.ok("rm", "-f", "claimed")
    target.ok("rmi", "claims:1")
