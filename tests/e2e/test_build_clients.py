"""Builds by others' clients: the docker CLI, docker-py, and those that talk to BuildKit."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile
import threading
from pathlib import Path

import pytest

from tests.conftest import Daemon
from tests.support.contexts import Files, lay, result


@pytest.mark.skipif(shutil.which("docker") is None, reason="the docker CLI is not installed")
def test_the_docker_cli(daemon: Daemon, tmp_path: Path) -> None:
    top = lay(
        tmp_path / "c",
        {
            "Dockerfile": "FROM busybox\nARG V\nCOPY f /f\nRUN echo $V > /v\nLABEL x=y\n",
            "f": "1",
            ".dockerignore": "x\n",
            "x": "2",
        },
    )
    environment = {**daemon.env, "DOCKER_BUILDKIT": "0"}

    def docker(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["docker", *args], env=environment, capture_output=True, text=True, timeout=60)

    done = docker("build", "--network", "none", "-t", "bydocker:1", "--build-arg", "V=7", "--label", "l=1", str(top))
    assert done.returncode == 0, done.stderr
    assert "Successfully tagged bydocker:1" in done.stdout
    assert daemon.ok("run", "--rm", "--network", "none", "bydocker:1", "cat", "/v") == "7\n"
    done = docker("build", "--network", "none", "-q", str(top))
    assert done.stdout.startswith("sha256:")
    (top / "Dockerfile").write_text("FROM busybox\nRUN exit 4\n")
    done = docker("build", "--network", "none", str(top))
    assert done.returncode == 4
    assert "returned a non-zero code: 4" in done.stderr
    done = docker("builder", "prune", "-f")
    assert "Total" in done.stdout, done.stderr
    daemon.ok("rmi", "bydocker:1")


def test_docker_py(daemon: Daemon, tmp_path: Path) -> None:
    docker = pytest.importorskip("docker")
    client = docker.DockerClient(base_url=f"unix://{daemon.socket}")
    top = lay(tmp_path / "c", {"Dockerfile": "FROM busybox\nCOPY f /f\n", "f": "1"})
    built, lines = client.images.build(network_mode="none", path=str(top), tag="bypy:1", buildargs={"unused": "1"})
    assert built.tags == ["bypy:1"]
    assert any("Successfully built" in line.get("stream", "") for line in lines)
    with pytest.raises(docker.errors.BuildError):
        client.images.build(network_mode="none", fileobj=io.BytesIO(b"FROM busybox\nRUN false\n"))
    client.images.remove("bypy:1")
    client.close()


def _buildkit_clients() -> list[tuple[str, ...]]:
    """The docker CLIs here that speak to BuildKit: with buildx, or of the time before it."""
    found: list[tuple[str, ...]] = []
    for program in dict.fromkeys(filter(None, (shutil.which("docker"), "/usr/bin/docker"))):
        if not os.path.exists(program):
            continue
        version = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
        if subprocess.run([program, "buildx", "version"], capture_output=True).returncode == 0:
            found.append((program, "buildx", "build", "--provenance=false"))
        elif "version 20." in version:
            found.append((program, "build"))
    return found


CLIENTS = _buildkit_clients()


@pytest.mark.skipif(not CLIENTS, reason="no docker CLI with BuildKit is installed")
@pytest.mark.parametrize("client", CLIENTS, ids=[" ".join(client[1:3]) for client in CLIENTS])
def test_buildkit_clients(daemon: Daemon, tmp_path: Path, client: tuple[str, ...]) -> None:
    text = """FROM busybox AS one
ARG V
COPY . /c/
RUN --mount=type=secret,id=s cat /run/secrets/s > /secret && echo $V > /v
FROM busybox
COPY --from=one /c /secret /v /out/
LABEL a=1
"""
    files: Files = {"Dockerfile": text, "f": "1", "d/é": "2", "l": "-> f", "x": "3", ".dockerignore": "x\n"}
    top = lay(tmp_path / "c", files)
    (top / "d/é").chmod(0o755)
    (tmp_path / "s").write_text("hush")
    environment = {**daemon.env, "DOCKER_BUILDKIT": "1", "HOME": os.environ.get("HOME", "/root")}

    def run(*args: str, data: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [*client, "--network", "none", "--progress", "plain", *args],
            env=environment,
            input=data,
            capture_output=True,
            timeout=60,
        )

    options = ("-t", "bk:1", "--build-arg", "V=7", "--label", "b=2", "--secret", f"id=s,src={tmp_path}/s")
    done = run(*options, str(top))
    assert done.returncode == 0, done.stderr.decode()
    shown = daemon.ok(
        "run",
        "--rm",
        "--network",
        "none",
        "bk:1",
        "sh",
        "-c",
        "cd /out; cat secret v f d/é; ls; readlink l; stat -c %a d/é",
    )
    assert shown.replace("\n", " ").split() == ["hush7", "12Dockerfile", "d", "f", "l", "secret", "v", "f", "755"]
    assert json.loads(daemon.ok("inspect", "bk:1"))[0]["Config"]["Labels"] == {"a": "1", "b": "2"}
    assert run(*options, str(top)).stderr.count(b"CACHED") >= 2
    done = run("-", data=b"FROM busybox\nRUN exit 5\n")
    assert done.returncode != 0
    assert b"non-zero code: 5" in done.stderr
    archive = subprocess.run(["tar", "c", "-C", str(top), "."], check=True, capture_output=True).stdout
    done = run("-t", "bk:2", "--build-arg", "V=7", "-", data=archive)  # the same context another way: all cached
    assert done.returncode == 0, done.stderr.decode()
    daemon.ok("rmi", "bk:2")
    done = run("--target", "nope", str(top))
    assert b"could not be found" in done.stderr
    (top / "bad").mkdir()
    assert b"no such file" in run("-f", str(top / "bad/Dockerfile"), str(top)).stderr
    if "buildx" in client:
        assert run("-o", str(tmp_path / "out"), *options, str(top)).returncode == 0
        assert (tmp_path / "out/out/v").read_text() == "7\n"
        assert os.readlink(tmp_path / "out/out/l") == "f"
        assert run("-o", f"type=tar,dest={tmp_path}/out.tar", *options, str(top)).returncode == 0
        with tarfile.open(tmp_path / "out.tar") as tar:
            assert "out/v" in tar.getnames()
        assert (
            subprocess.run([client[0], "buildx", "ls"], env=environment, capture_output=True).stdout.count(b"running")
            == 1
        )
        assert subprocess.run([client[0], "buildx", "du"], env=environment, capture_output=True).returncode == 0
        assert (
            subprocess.run([client[0], "buildx", "prune", "-f"], env=environment, capture_output=True).returncode == 0
        )
    daemon.ok("rmi", "bk:1")


@pytest.mark.skipif(not CLIENTS, reason="no docker CLI with BuildKit is installed")
@pytest.mark.parametrize("client", CLIENTS, ids=[" ".join(client[1:3]) for client in CLIENTS])
def test_ssh_agents_over_a_session(daemon: Daemon, tmp_path: Path, client: tuple[str, ...]) -> None:
    """An agent of the client's answers in a RUN; here a program that echoes in capitals."""
    import socketserver

    class Echo(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            # CheckAgent lists keys by the agent protocol: 5 bytes in, an empty answer out.
            data = self.request.recv(5)
            if data[4:] == b"\x0b":
                self.request.sendall(b"\0\0\0\x05\x0c\0\0\0\0")
                data = self.request.recv(5)
            while data:
                self.request.sendall(data.upper())
                data = self.request.recv(100)

    agent = str(tmp_path / "agent")
    server = socketserver.ThreadingUnixStreamServer(agent, Echo)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    text = "FROM busybox\nRUN --mount=type=ssh test -S $SSH_AUTH_SOCK && touch /there\n"
    top = lay(tmp_path / "c", {"Dockerfile": text})
    environment = {
        **daemon.env,
        "DOCKER_BUILDKIT": "1",
        "SSH_AUTH_SOCK": agent,
        "HOME": os.environ.get("HOME", "/root"),
    }
    done = subprocess.run(
        [*client, "--network", "none", "--progress", "plain", "--ssh", "default", "-t", "ssh:1", str(top)],
        env=environment,
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert daemon.ok("run", "--rm", "--network", "none", "ssh:1", "ls", "/there") == "/there\n"
    assert result(daemon, top, "--ssh", f"default={agent}").exists()
    daemon.ok("rmi", "ssh:1")
    server.shutdown()
    server.server_close()
