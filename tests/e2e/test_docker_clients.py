"""Clients nobody here wrote: the docker CLI and docker-py."""

from __future__ import annotations

import io
import shutil
import tarfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Daemon, eventually

docker_cli = pytest.mark.skipif(shutil.which("docker") is None, reason="no docker client on this machine")


def docker(daemon: Daemon, *args: str, code: int = 0, **options: Any) -> str:
    done = daemon.run("docker", *args, **options)
    assert done.returncode == code, (args, done.stderr.decode())
    return done.stdout.decode()


@docker_cli
def test_docker_run(daemon: Daemon) -> None:
    assert docker(daemon, "run", "--rm", "--network", "none", "busybox", "echo", "hi") == "hi\n"
    for command, code in ((["sh", "-c", "exit 7"], 7), (["/etc"], 126), (["nope"], 127)):
        docker(daemon, "run", "--rm", "--network", "none", "busybox", *command, code=code)
    docker(daemon, "run", "--rm", "--network", "none", "no/such", code=125)
    assert docker(daemon, "run", "-i", "--rm", "--network", "none", "busybox", "cat", input=b"stdin\n") == "stdin\n"


@docker_cli
def test_a_read_only_root_is_whole(daemon: Daemon) -> None:
    """Also what the engine mounts there."""
    for name in ("hosts", "hostname", "resolv.conf"):
        docker(
            daemon,
            "run",
            "--rm",
            "--read-only",
            "--network",
            "none",
            "busybox",
            "sh",
            "-c",
            f"echo x >>/etc/{name}",
            code=1,
        )
        docker(daemon, "run", "--rm", "--network", "none", "busybox", "sh", "-c", f"echo x >>/etc/{name}")


@docker_cli
def test_docker_commands(daemon: Daemon, tmp_path: Path) -> None:
    docker(daemon, "run", "-d", "--name", "box", "--network", "none", "busybox", "sh", "-c", "echo started; sleep 600")
    assert "box" in docker(daemon, "ps")
    eventually(lambda: docker(daemon, "logs", "box") == "started\n")
    assert docker(daemon, "exec", "box", "echo", "in") == "in\n"
    docker(daemon, "exec", "box", "sh", "-c", "exit 3", code=3)
    assert "sleep 600" in docker(daemon, "top", "box")
    assert "box" in docker(daemon, "stats", "--no-stream", "box")
    docker(daemon, "pause", "box")
    assert docker(daemon, "inspect", "-f", "{{.State.Status}}", "box") == "paused\n"
    docker(daemon, "unpause", "box")
    docker(daemon, "update", "--memory", "64m", "--memory-swap", "128m", "box")
    (tmp_path / "f").write_text("copied")
    docker(daemon, "cp", str(tmp_path / "f"), "box:/tmp/f")
    docker(daemon, "cp", "box:/tmp/f", str(tmp_path / "g"))
    assert (tmp_path / "g").read_text() == "copied"
    assert "A /tmp/f" in docker(daemon, "diff", "box")
    docker(daemon, "commit", "box", "made:1")
    docker(daemon, "tag", "made:1", "made:2")
    assert "made" in docker(daemon, "images")
    assert "sh -c echo started; sleep 600" in docker(daemon, "history", "--no-trunc", "made:1")
    docker(daemon, "save", "-o", str(tmp_path / "made.tar"), "made:1")
    docker(daemon, "rmi", "made:1", "made:2")
    assert "Loaded image: made:1" in docker(daemon, "load", "-i", str(tmp_path / "made.tar"))
    docker(daemon, "export", "-o", str(tmp_path / "x.tar"), "box")
    docker(daemon, "import", str(tmp_path / "x.tar"), "imported")
    docker(daemon, "rename", "box", "boxed")
    docker(daemon, "restart", "-t", "0", "boxed")
    docker(daemon, "kill", "boxed")
    assert docker(daemon, "wait", "boxed") == "137\n"
    docker(daemon, "start", "boxed")
    docker(daemon, "stop", "-t", "0", "boxed")
    docker(daemon, "rm", "boxed")
    docker(daemon, "rmi", "made:1", "imported")
    docker(daemon, "volume", "create", "vol")
    assert "vol" in docker(daemon, "volume", "ls")
    docker(daemon, "volume", "rm", "vol")
    assert "Server Version" in docker(daemon, "info")
    assert "Images" in docker(daemon, "system", "df")
    assert "API version:      1.51" in docker(daemon, "version")
    assert "container destroy" in docker(daemon, "events", "--since", "30s", "--until", "0s")
    docker(daemon, "create", "--network", "none", "busybox", "true")
    docker(daemon, "container", "prune", "-f")


@docker_cli
def test_docker_terminal(daemon: Daemon) -> None:
    import os
    import pty
    import subprocess

    master, slave = pty.openpty()
    process = subprocess.Popen(
        ["docker", "run", "-it", "--rm", "--network", "none", "busybox", "sh", "-c", "tty; read x; exit 4"],
        env=daemon.env, stdin=slave, stdout=slave, stderr=slave,
    )  # fmt: skip
    os.close(slave)
    seen = b""
    while b"/dev/pts/0" not in seen:
        seen += os.read(master, 4096)
    os.write(master, b"go\n")
    assert process.wait(20) == 4
    os.close(master)


@pytest.fixture
def client(daemon: Daemon) -> Any:
    import docker as library

    return library.DockerClient(base_url=f"unix://{daemon.socket}")


def test_docker_py_lifecycle(client: Any) -> None:
    assert client.containers.run("busybox", "echo hello", remove=True, network_mode="none") == b"hello\n"
    box = client.containers.run("busybox", "sleep 600", detach=True, network_mode="none", labels={"k": "v"})
    assert [c.id for c in client.containers.list(filters={"label": "k=v"})] == [box.id]
    code, (out, err) = box.exec_run(["sh", "-c", "echo out; echo err >&2; exit 2"], demux=True)
    assert (code, out, err) == (2, b"out\n", b"err\n")
    assert box.exec_run("true", detach=True).exit_code in (None, 0)
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        info = tarfile.TarInfo("f")
        info.size = 1
        tar.addfile(info, io.BytesIO(b"x"))
    assert box.put_archive("/tmp", data.getvalue())
    stream, stat = box.get_archive("/tmp/f")
    assert stat["size"] == 1
    assert b"".join(stream)
    assert {"Path": "/tmp/f", "Kind": 1} in box.diff()
    assert box.stats(stream=False)["memory_stats"]["usage"] > 0
    assert box.top()["Titles"][1] == "PID"
    box.pause()
    box.unpause()
    box.rename("other")
    box.reload()
    assert box.name == "other"
    box.stop(timeout=0)
    assert box.wait()["StatusCode"] == 137
    box.remove()


def test_docker_py_exec_many_times(client: Any) -> None:
    """P048: always whole, always 0, one after the other and side by side."""
    box = client.containers.run("busybox", "sleep 600", detach=True, network_mode="none")
    for _ in range(50):
        assert box.exec_run("echo hello", demux=True) == (0, (b"hello\n", None))
    results: list[Any] = []
    threads = [threading.Thread(target=lambda: results.append(box.exec_run("echo hello"))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(r.exit_code, r.output) for r in results] == [(0, b"hello\n")] * 20
    box.remove(force=True)


def test_docker_py_logs_attach_events(client: Any) -> None:
    began = time.time() - 1
    box = client.containers.create("busybox", ["sh", "-c", "echo a; echo b >&2"], network_mode="none")
    attached = box.attach(stream=True, logs=False)
    box.start()
    assert sorted(b"".join(attached).split()) == [b"a", b"b"], "attach before start loses nothing"
    box.wait()
    assert box.logs(stdout=True, stderr=False) == b"a\n"
    assert box.logs(tail=1) in (b"a\n", b"b\n")
    actions = [
        e["Action"] for e in client.events(since=began, until=time.time(), decode=True, filters={"container": box.id})
    ]
    assert actions == ["create", "attach", "start", "die"]
    box.remove()


def test_docker_py_events_of_everything(client: Any, daemon: Daemon) -> None:
    """What dockerd 26.1 tells of the same, in the same order."""
    network, volume = client.networks.create("told"), client.volumes.create("told")
    began = time.time()
    box = client.containers.create(
        "busybox", ["sh", "-c", "sleep 600"], network="told", volumes={"told": {"bind": "/x", "mode": "ro"}}
    )
    box.start()
    box.top()
    box.get_archive("/etc")
    box.put_archive("/tmp", b"\0" * 1024)
    box.kill()
    box.wait()
    box.commit("told", "1", message="words")
    list(client.images.get("told:1").save())
    list(box.export())
    box.remove()
    for prune in (client.containers.prune, client.images.prune, client.networks.prune, client.volumes.prune):
        prune(filters={"label": "nobody-has-this"})
    told = list(client.events(since=began, until=time.time() + 0.2, decode=True))
    network.remove()
    volume.remove()
    client.images.remove("told:1")
    assert [(event["Type"], event["Action"]) for event in told] == [
        ("container", "create"), ("network", "connect"), ("volume", "mount"), ("container", "start"), ("container", "top"),
        ("container", "archive-path"), ("container", "extract-to-dir"), ("container", "kill"), ("network", "disconnect"), ("volume", "unmount"),
        ("container", "die"), ("image", "tag"), ("container", "commit"), ("image", "save"), ("container", "export"), ("container", "destroy"),
        ("container", "prune"), ("image", "prune"), ("network", "prune"), ("volume", "prune"),
    ]  # fmt: skip
    found = {f"{event['Type']} {event['Action']}": event["Actor"]["Attributes"] for event in told}
    assert found["network connect"] == {"container": box.id, "name": "told", "type": "bridge"}
    assert found["volume mount"] == {
        "container": box.id,
        "destination": "/x",
        "driver": "local",
        "propagation": "",
        "read/write": "false",
    }
    assert found["container die"]["exitCode"] == "137"
    assert int(found["container die"]["execDuration"]) < 60
    assert (found["container commit"]["imageRef"], found["container commit"]["comment"]) == ("told:1", "words")
    assert found["image prune"] == {"reclaimed": "0"}


def test_docker_py_errors(client: Any) -> None:
    import docker.errors as errors

    with pytest.raises(errors.ImageNotFound):
        client.containers.create("no/such:image")
    with pytest.raises(errors.NotFound):
        client.containers.get("nobody")
    with pytest.raises(errors.APIError, match="executable file not found"):
        client.containers.run("busybox", ["nope"], network_mode="none")


def test_protocol_details(daemon: Daemon) -> None:
    """P111"""
    http = daemon.http
    answer = http.send("GET", "/_ping")
    assert answer.headers["api-version"] == "1.51"
    assert answer.headers["ostype"] == "linux"
    answer.close()
    from sampan.client.http import APIError

    for path, status, message in (
        ("/v1.99/version", 400, "too new"), ("/v1.10/version", 400, "too old"), ("/nonsense", 404, "page not found"),
        ("/containers/x/json", 404, "No such container"), ("/containers/json?filters=%7B%22bad%22%3A%5B%22x%22%5D%7D", 400, "invalid filter"),
    ):  # fmt: skip
        with pytest.raises(APIError, match=message) as caught:
            daemon.http.call("GET", path)
        assert caught.value.status == status
