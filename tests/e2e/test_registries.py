"""Debian's docker-registry on loopback: TLS, basic and token authentication; skopeo, podman and docker beside us."""

from __future__ import annotations

import base64
import contextlib
import http.server
import io
import json
import os
import shutil
import stat
import subprocess
import tarfile
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.conftest import Daemon
from tests.support.docker_registry import Registry, registry
from tests.support.docker_registry import configuration as configuration
from tests.support.docker_registry import plain as plain

pytestmark = pytest.mark.skipif(shutil.which("docker-registry") is None, reason="docker-registry is not installed")


def _push(daemon: Daemon, name: str) -> str:
    """Pushes busybox and removes it here; returns the digest."""
    daemon.ok("tag", "busybox", name)
    out = daemon.ok("push", name)
    daemon.ok("rmi", name)
    return next(word for word in out.split() if word.startswith("sha256:"))


def test_push_pull_run(daemon: Daemon, plain: Registry) -> None:
    name = f"{plain.name}/team/box:1"
    digest = _push(daemon, name)
    out = daemon.ok("pull", name)
    assert f"Digest: {digest}" in out
    assert f"Status: Downloaded newer image for {name}" in out
    assert f"Status: Image is up to date for {name}" in daemon.ok("pull", name)
    assert daemon.ok("run", "--rm", "--network", "none", name, "echo", "hi") == "hi\n"
    row = json.loads(daemon.ok("inspect", name))[0]
    assert row["RepoDigests"] == [f"{plain.name}/team/box@{digest}"]
    assert (
        daemon.ok("run", "--rm", "--network", "none", f"{plain.name}/team/box@{digest}", "echo", "by", "digest")
        == "by digest\n"
    )
    daemon.ok("rmi", name)


def test_linked_copies_keep_parents_after_pull(daemon: Daemon, plain: Registry, tmp_path: Path) -> None:
    """P013: the parents in a linked layer of its own must not rewrite the base's, here and wherever it is pulled."""
    name = f"{plain.name}/linked/copy:1"
    (tmp_path / "f").write_text("f")
    (tmp_path / "Dockerfile").write_text(
        "FROM busybox\nRUN mkdir -m 750 /srv2 && chown 2000:2000 /srv2\nCOPY --link --chown=100:100 f /srv2/app/f\n"
    )
    daemon.ok("build", "-q", "--network", "none", "-t", name, str(tmp_path))
    show = ("run", "--rm", "--network", "none", name, "stat", "-c", "%a %u:%g", "/srv2", "/srv2/app/f")
    expected = "750 2000:2000\n644 100:100\n"
    assert daemon.ok(*show) == expected
    daemon.ok("push", "-q", name)
    daemon.ok("rmi", name)
    daemon.ok("builder", "prune", "-af")
    daemon.ok("pull", "-q", name)
    assert daemon.ok(*show) == expected
    daemon.ok("rmi", name)


def test_run_pulls_what_is_missing(daemon: Daemon, plain: Registry) -> None:
    name = f"{plain.name}/team/missing:1"
    _push(daemon, name)
    done = daemon.sampan("run", "--rm", "--network", "none", "--pull", "never", name, "true")
    assert done.returncode == 125
    done = daemon.sampan("run", "--rm", "--network", "none", name, "echo", "out")
    assert done.stdout == b"out\n"
    assert b"Unable to find image" in done.stderr
    daemon.ok("rmi", name)
    done = daemon.sampan("run", "--rm", f"{plain.name}/no/such", "true")
    assert (done.returncode, b"manifest unknown" in done.stderr) == (125, True)


def test_all_tags_and_search(daemon: Daemon, plain: Registry) -> None:
    for tag in ("one", "two"):
        daemon.ok("tag", "busybox", f"{plain.name}/many/tags:{tag}")
    daemon.ok("push", "-a", f"{plain.name}/many/tags")
    daemon.ok("rmi", f"{plain.name}/many/tags:one", f"{plain.name}/many/tags:two")
    daemon.ok("pull", "-q", "-a", f"{plain.name}/many/tags")
    assert {"one", "two"} <= set(daemon.ok("images", "--format", "{{.Tag}}", f"{plain.name}/many/tags").split())
    assert f"{plain.name}/many/tags" in daemon.ok("search", f"{plain.name}/MANY")
    assert daemon.ok("search", "--format", "{{.Name}}", f"{plain.name}/nothing-like-it") == ""
    daemon.ok("rmi", f"{plain.name}/many/tags:one", f"{plain.name}/many/tags:two")


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")
def test_skopeo_reads_ours_and_we_read_skopeos(daemon: Daemon, plain: Registry, tmp_path: Path) -> None:
    digest = _push(daemon, f"{plain.name}/from/sampan:1")

    def skopeo(*args: str) -> str:
        return subprocess.run(["skopeo", *args], check=True, capture_output=True, text=True, timeout=60).stdout

    insecure = ("--src-tls-verify=false", "--dest-tls-verify=false")
    row = json.loads(skopeo("inspect", "--tls-verify=false", f"docker://{plain.name}/from/sampan:1"))
    assert row["Digest"] == digest
    skopeo("copy", *insecure, f"docker://{plain.name}/from/sampan:1", f"oci:{tmp_path}/layout:1")
    for kind, options in (
        ("oci", ["--format", "oci", "--dest-compress-format", "zstd"]),
        ("v2s2", ["--format", "v2s2"]),
    ):
        skopeo("copy", *insecure, *options, f"oci:{tmp_path}/layout:1", f"docker://{plain.name}/from/skopeo:{kind}")
        name = f"{plain.name}/from/skopeo:{kind}"
        assert daemon.ok("run", "--rm", "-q", "--network", "none", name, "echo", kind) == f"{kind}\n"
        # Pushed on, it keeps its form and digest.
        daemon.ok("tag", name, f"{plain.name}/again/{kind}:1")
        daemon.ok("push", f"{plain.name}/again/{kind}:1")
        first, second = (json.loads(skopeo("inspect", "--tls-verify=false", f"docker://{where}"))["Digest"]
                         for where in (name, f"{plain.name}/again/{kind}:1"))  # fmt: skip
        assert first == second
        daemon.ok("rmi", name, f"{plain.name}/again/{kind}:1")


@pytest.mark.skipif(shutil.which("podman") is None, reason="podman is not installed")
def test_podman_runs_ours_and_we_run_podmans(daemon: Daemon, plain: Registry) -> None:
    tmp_path = Path(tempfile.mkdtemp())  # its run root may have 50 characters
    _push(daemon, f"{plain.name}/for/podman:1")
    base = [
        "podman",
        "--root",
        f"{tmp_path}/p",
        "--runroot",
        f"{tmp_path}/r",
        "--cgroup-manager",
        "cgroupfs",
        "--events-backend",
        "file",
    ]

    def podman(*args: str) -> str:
        env = {key: value for key, value in os.environ.items() if key != "DOCKER_CONFIG"}
        done = subprocess.run([*base, *args], capture_output=True, text=True, timeout=120, env=env)
        assert done.returncode == 0, done.stderr
        return done.stdout

    try:
        podman("pull", "--tls-verify=false", f"{plain.name}/for/podman:1")
        runtime = str(Path(shutil.which("sampan-runtime") or daemon.env["PATH"].split(":")[0] + "/sampan-runtime"))
        out = podman(
            "--runtime", runtime, "run", "--rm", "--net", "none", f"{plain.name}/for/podman:1", "echo", "in podman"
        )
        assert out == "in podman\n"
        podman("tag", f"{plain.name}/for/podman:1", f"{plain.name}/by/podman:1")
        podman("push", "--tls-verify=false", f"{plain.name}/by/podman:1")
    finally:
        subprocess.run(["umount", f"{tmp_path}/p/overlay"], capture_output=True)
        shutil.rmtree(tmp_path)
    assert (
        daemon.ok("run", "--rm", "-q", "--network", "none", f"{plain.name}/by/podman:1", "echo", "in sampan")
        == "in sampan\n"
    )
    daemon.ok("rmi", f"{plain.name}/by/podman:1")


def _docker(daemon: Daemon, *args: str, text: str = "") -> subprocess.CompletedProcess[bytes]:
    return daemon.run("docker", *args, input=text.encode() if text else None)


@pytest.mark.skipif(shutil.which("docker") is None, reason="the docker CLI is not installed")
def test_the_docker_cli(daemon: Daemon, plain: Registry) -> None:
    name = f"{plain.name}/docker/cli:1"
    assert _docker(daemon, "tag", "busybox", name).returncode == 0
    done = _docker(daemon, "push", name)
    assert done.returncode == 0, done.stderr
    assert b"digest: sha256:" in done.stdout
    _docker(daemon, "rmi", name)
    done = _docker(daemon, "pull", name)
    assert done.returncode == 0, done.stderr
    done = _docker(daemon, "pull", f"{plain.name}/docker/none:1")
    assert (done.returncode, b"manifest unknown" in done.stderr) == (1, True)
    done = _docker(daemon, "push", f"{plain.name}/docker/none:1")
    assert b"An image does not exist locally with the tag" in done.stderr
    daemon.ok("rmi", name)


HTPASSWD = "auth: {htpasswd: {realm: here, path: %s/htpasswd}}"


def test_tls_and_basic_authentication(daemon: Daemon, tmp_path: Path, configuration: Path) -> None:
    root = tmp_path / "secure"
    root.mkdir()
    hashed = subprocess.run(["htpasswd", "-Bbn", "ann", "pass:word"], check=True, capture_output=True).stdout
    (root / "htpasswd").write_bytes(hashed)
    with registry(root, HTPASSWD % root, tls=True) as secure:
        certificates = Path("/etc/sampan/certs.d", secure.name)
        certificates.mkdir(parents=True)
        try:
            # Loopback or not: with certificates named for it the registry has to show one that fits.
            name = f"{secure.name}/private/box:1"
            daemon.ok("tag", "busybox", name)
            done = daemon.sampan("push", name)
            assert done.returncode != 0
            assert b"certificate" in done.stderr.lower()
            shutil.copy(root / "cert.pem", certificates / "ca.crt")
            done = daemon.sampan("push", name)
            assert done.returncode != 0
            assert b"sampan login" in done.stderr
            done = daemon.sampan("login", "-u", "ann", "--password-stdin", secure.name, input=b"wrong")
            assert done.returncode != 0
            assert b"unauthorized" in done.stderr
            assert not configuration.exists()
            assert "Login Succeeded" in daemon.ok(
                "login", "-u", "ann", "--password-stdin", secure.name, input=b"pass:word\n"
            )
            assert stat.S_IMODE(configuration.stat().st_mode) == 0o600
            daemon.ok("push", name)
            daemon.ok("rmi", name)
            daemon.ok("pull", name)
            daemon.ok("rmi", name)
            assert "Removing login credentials" in daemon.ok("logout", secure.name)
            assert json.loads(configuration.read_text())["auths"] == {}
            assert daemon.sampan("pull", name).returncode != 0
        finally:
            shutil.rmtree(certificates)
            with contextlib.suppress(OSError):
                os.removedirs("/etc/sampan/certs.d")


def test_a_credential_helper(
    daemon: Daemon, plain: Registry, tmp_path: Path, configuration: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper = tmp_path / "bin/docker-credential-mine"
    helper.parent.mkdir()
    helper.write_text(f"#!/bin/sh\nkey=$(cat)\necho \"$1 $key\" >> {tmp_path}/asked\n"
                      'case $1 in get) echo \'{"Username": "ann", "Secret": "s"}\';; esac\n')  # fmt: skip
    helper.chmod(0o755)
    configuration.parent.mkdir()
    configuration.write_text(json.dumps({"credHelpers": {plain.name: "mine"}}))
    monkeypatch.setenv("PATH", f"{helper.parent}:{os.environ['PATH']}")
    _push(daemon, f"{plain.name}/helped/box:1")
    assert f"get {plain.name}" in (tmp_path / "asked").read_text()
    daemon.ok("login", "-u", "ann", "-p", "x", plain.name)
    daemon.ok("logout", plain.name)
    asked = (tmp_path / "asked").read_text()
    assert '"Secret": "x"' in asked
    assert f"erase {plain.name}" in asked
    configuration.write_text(json.dumps({"credsStore": "../../evil"}))
    done = daemon.sampan("pull", f"{plain.name}/helped/box:1")
    assert b"no name of a credential helper" in done.stderr


class TokenServer(http.server.ThreadingHTTPServer):
    """Gives signed tokens (RS256 with the certificate in x5c) for what is asked to those who know the password."""

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _TokenHandler)
        self.root, self.asked = root, list[tuple[list[str], str]]()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def token(self, scopes: list[str]) -> str:
        def encoded(data: bytes) -> str:
            return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        pem = (self.root / "cert.pem").read_text()
        header = {"typ": "JWT", "alg": "RS256", "x5c": ["".join(pem.splitlines()[1:-1])]}
        now = int(time.time())
        claims = {
            "iss": "issuer",
            "sub": "ann",
            "aud": "service",
            "exp": now + 300,
            "nbf": now - 10,
            "iat": now,
            "jti": "1",
            "access": access,
        }
        text = f"{encoded(json.dumps(header).encode())}.{encoded(json.dumps(claims).encode())}"
        signed = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", str(self.root / "key.pem")],
            input=text.encode(),
            check=True,
            capture_output=True,
        ).stdout
        return f"{text}.{encoded(signed)}"


class _TokenHandler(http.server.BaseHTTPRequestHandler):
    server: TokenServer

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        scopes = parse_qs(urlsplit(self.path).query).get("scope", [])
        shown = self.headers.get("Authorization", "")
        self.server.asked.append((scopes, shown))
        right = shown == f"Basic {base64.b64encode(b'ann:secret').decode()}"
        body = json.dumps({"token": self.server.token(scopes)}).encode() if right else b"{}"
        self.send_response(200 if right else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def test_token_authentication(daemon: Daemon, tmp_path: Path) -> None:
    root = tmp_path / "token"
    root.mkdir()
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=issuer", "-keyout",
                    f"{root}/key.pem", "-out", f"{root}/cert.pem"], check=True, capture_output=True)  # fmt: skip
    server = TokenServer(root)
    realm = f"http://127.0.0.1:{server.server_address[1]}/token"
    auth = f"auth: {{token: {{realm: '{realm}', service: service, issuer: issuer, rootcertbundle: {root}/cert.pem}}}}"
    try:
        with registry(root, auth) as found:
            done = daemon.sampan("login", "-u", "ann", "-p", "wrong", found.name)
            assert b"incorrect username or password" in done.stderr
            daemon.ok("login", "-u", "ann", "--password-stdin", found.name, input=b"secret")
            server.asked.clear()
            _push(daemon, f"{found.name}/one/box:1")
            _push(daemon, f"{found.name}/two/box:1")
            scopes = [scope for scopes, _ in server.asked for scope in scopes]
            assert "repository:one/box:pull,push" in scopes
            assert ["repository:two/box:pull,push", "repository:one/box:pull"] in [asked for asked, _ in server.asked]
            server.asked.clear()
            daemon.ok("pull", f"{found.name}/two/box:1")
            assert {scope for scopes, _ in server.asked for scope in scopes} == {"repository:two/box:pull"}
            daemon.ok("rmi", f"{found.name}/two/box:1")
    finally:
        server.shutdown()
        server.server_close()


def test_another_platform_than_is_here(daemon: Daemon, plain: Registry) -> None:
    """P027: run --platform pulls again, and says what it misses; an image of no platform runs."""
    name = f"{plain.name}/plat/box:1"
    _push(daemon, name)
    daemon.ok("pull", name)
    done = daemon.sampan(
        "run", "--rm", "--network", "none", "--platform", "linux/arm64", "--pull", "never", name, "true"
    )
    assert (done.returncode, b"wanted linux/arm64, actual: linux/amd64" in done.stderr) == (125, True)
    assert daemon.ok("run", "--rm", "--network", "none", "--platform", "linux/amd64", name, "echo", "x") == "x\n"
    daemon.ok("rmi", name)


def test_pulling_onto_a_full_disk(own_daemon: Daemon, plain: Registry) -> None:
    """P089: no space left is said, nothing is left, containers go on; with room again it works without a restart."""
    name = f"{plain.name}/too/large:1"
    own_daemon.ok(
        "run", "--name", "big", "--network", "none", "busybox", "sh", "-c", "head -c 40000000 /dev/urandom > /big"
    )
    own_daemon.ok("commit", "big", name)
    own_daemon.ok("push", name)
    own_daemon.ok("rm", "big")
    own_daemon.ok("rmi", name)
    own_daemon.ok("run", "-d", "--name", "old", "--network", "none", "busybox", "sleep", "600")
    images = own_daemon.root / "data/images"
    for part in ("partial", "tmp"):
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(images / part)], check=True)
        try:
            done = own_daemon.sampan("pull", name)
            assert done.returncode == 1
            assert b"no space left on device" in done.stderr.lower()
            assert list((images / part).iterdir()) == []
            assert own_daemon.ok("exec", "old", "echo", "on") == "on\n"
        finally:
            subprocess.run(["umount", str(images / part)], check=True)
    own_daemon.ok("stop", "-t", "0", "old")
    own_daemon.ok("rm", "old")


def test_a_list_of_manifests(daemon: Daemon, plain: Registry, configuration: Path, tmp_path: Path) -> None:
    """manifest create, annotate, inspect, push and rm; what is pushed is pulled by platform, and read by docker's client."""
    top, ours, other = (f"{plain.name}/lists/app:{tag}" for tag in ("1", "1-here", "1-arm"))
    _push(daemon, ours)
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("f"))
    daemon.ok("import", "--platform", "linux/arm/v7", "-", other, input=data.getvalue())
    daemon.ok("push", "-q", "--platform", "linux/arm/v7", other)
    assert daemon.ok("manifest", "create", top, ours, other) == f"Created manifest list {top}\n"
    again = daemon.sampan("manifest", "create", top, ours)
    assert (again.returncode, b"no --amend flag" in again.stderr) == (1, True)
    found = json.loads(daemon.ok("manifest", "inspect", top))
    platforms = [row["platform"] for row in found["manifests"]]
    assert {"architecture": "arm", "os": "linux", "variant": "v7"} in platforms
    assert json.loads(daemon.ok("manifest", "inspect", ours))["config"]["digest"].startswith("sha256:")
    daemon.ok("manifest", "annotate", "--arch", "arm", "--variant", "v6", top, other)
    assert b"does not exist in" in daemon.sampan("manifest", "annotate", "--arch", "arm", top, "busybox").stderr
    digest = daemon.ok("manifest", "push", "-p", top).strip()
    assert daemon.sampan("manifest", "push", top).returncode == 1, "purged"
    pushed = json.loads(daemon.ok("manifest", "inspect", top))
    assert {"architecture": "arm", "os": "linux", "variant": "v6"} in [row["platform"] for row in pushed["manifests"]]
    whole = json.loads(daemon.ok("manifest", "inspect", "-v", top))
    assert [row["Descriptor"]["digest"] for row in whole] == [row["digest"] for row in pushed["manifests"]]
    assert f"Digest: {digest}" in daemon.ok("pull", top)
    assert daemon.ok("run", "--rm", "--network", "none", top, "echo", "here") == "here\n"
    refused = daemon.sampan("manifest", "create", f"{plain.name}/lists/x:1", top)
    assert b"is a manifest list" in refused.stderr
    daemon.ok("manifest", "create", f"{plain.name}/elsewhere/x:1", ours)
    assert b"is in another repository" in daemon.sampan("manifest", "push", f"{plain.name}/elsewhere/x:1").stderr
    assert daemon.ok("manifest", "rm", f"{plain.name}/elsewhere/x:1") == f"Deleted {plain.name}/elsewhere/x:1\n"
    assert b"No such manifest" in daemon.sampan("manifest", "rm", f"{plain.name}/elsewhere/x:1").stderr
    if shutil.which("docker"):
        done = subprocess.run(["docker", "manifest", "inspect", "--insecure", top], capture_output=True, text=True)
        assert json.loads(done.stdout)["manifests"] == pushed["manifests"], done.stderr
    daemon.ok("rmi", top, other)
