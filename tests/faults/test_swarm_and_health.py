"""What Docker does elsewhere is answered as Docker does without it; health checks are merged with their image's."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sampan.api.routes import ROUTES
from sampan.client.http import APIError
from tests.conftest import Daemon, eventually

KINDS = ("swarm", "nodes", "services", "tasks", "secrets", "configs")
NO_MANAGER = 'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm and try again.'


def asked(daemon: Daemon, method: str, path: str) -> tuple[int, str]:
    with pytest.raises(APIError) as caught:
        daemon.http.call(method, path, {} if method == "POST" else None)
    return caught.value.status, str(caught.value)


def test_swarm_answers_that_there_is_none(daemon: Daemon) -> None:
    routes = [route for route in ROUTES if route.path.split("/")[1] in KINDS]
    assert len(routes) >= 30
    for route in routes:
        status, text = asked(daemon, route.method, "/v1.51" + route.path.replace("{id}", "x"))
        assert status == 503, route
        if route.path not in ("/swarm/init", "/swarm/join", "/swarm/leave"):
            assert text == NO_MANAGER, route
    assert asked(daemon, "POST", "/swarm/leave") == (503, "This node is not part of a swarm")
    assert "no swarm mode here" in asked(daemon, "POST", "/swarm/init")[1]
    found = daemon.http.call("GET", "/info")["Swarm"]
    assert (found["NodeID"], found["LocalNodeState"], found["ControlAvailable"]) == ("", "inactive", False)


def test_there_are_no_plugins(daemon: Daemon) -> None:
    assert daemon.http.call("GET", "/plugins?filters=%7B%22enabled%22%3A%5B%22true%22%5D%7D") == []
    assert asked(daemon, "GET", "/plugins?filters=%7B%22nonsense%22%3A%5B%22true%22%5D%7D")[0] == 400
    for method, verb in (("GET", "/json"), ("POST", "/enable"), ("POST", "/set"), ("DELETE", "")):
        assert asked(daemon, method, f"/plugins/a/b{verb}") == (404, 'plugin "a/b" not found')
    for method, path in (
        ("POST", "/plugins/pull?remote=x"),
        ("POST", "/plugins/create?name=x"),
        ("GET", "/plugins/privileges?remote=x"),
    ):
        assert asked(daemon, method, path)[0] == 501


def test_checkpoints_are_not_there(daemon: Daemon) -> None:
    name = daemon.ok("create", "busybox", "true").strip()
    status, text = asked(daemon, "GET", f"/containers/{name}/checkpoints")
    assert (status, "experimental feature is disabled" in text) == (501, True)
    daemon.ok("rm", name)


@pytest.mark.skipif(shutil.which("docker") is None, reason="no docker client on this machine")
@pytest.mark.parametrize(
    "words", ["node ls", "service ls", "secret ls", "config ls", "swarm leave", "plugin ls", "stack ls"]
)
def test_docker_s_client_understands_it(daemon: Daemon, words: str) -> None:
    done = subprocess.run(["docker", "-H", f"unix://{daemon.socket}", *words.split()], capture_output=True, text=True)
    if words == "plugin ls":
        assert (done.returncode, done.stdout.split()[:2]) == (0, ["ID", "NAME"])
    else:
        assert done.returncode == 1
        assert "This node is not" in done.stderr


def test_a_health_check_without_a_test_has_the_image_s(daemon: Daemon, tmp_path: Path) -> None:
    text = 'FROM busybox\nHEALTHCHECK --interval=1h --retries=7 CMD test -e /well\nCMD ["sleep", "99"]\n'
    (tmp_path / "Dockerfile").write_text(text)
    daemon.ok("build", "-t", "probed:1", str(tmp_path))
    daemon.ok("run", "-d", "--name", "probed", "--network", "none", "--health-interval", "200ms", "probed:1")
    check = daemon.http.call("GET", "/containers/probed/json")["Config"]["Healthcheck"]
    assert check == {"Test": ["CMD-SHELL", "test -e /well"], "Interval": 200_000_000, "Retries": 7}
    daemon.ok("exec", "probed", "touch", "/well")
    eventually(lambda: daemon.http.call("GET", "/containers/probed/json")["State"]["Health"]["Status"] == "healthy")
    daemon.ok("rm", "-f", "probed")
    daemon.ok("run", "-d", "--name", "probed", "--network", "none", "--no-healthcheck", "probed:1")
    assert "Health" not in daemon.http.call("GET", "/containers/probed/json")["State"]
    daemon.ok("rm", "-f", "probed")
    daemon.ok("rmi", "probed:1")
    done = daemon.sampan("create", "--no-healthcheck", "--health-retries", "3", "busybox")
    assert (done.returncode, b"--no-healthcheck conflicts with --health-* options" in done.stderr) == (125, True)
    done = daemon.sampan("create", "--health-cmd", "true", "--health-interval", "1us", "busybox")
    assert b"Interval in Healthcheck cannot be less than 1ms" in done.stderr


@pytest.mark.parametrize("action", ["kill", "stop", "restart", "none"])
def test_what_is_done_with_the_unhealthy(daemon: Daemon, action: str) -> None:
    def state() -> dict[str, Any]:
        found: dict[str, Any] = daemon.http.call("GET", "/containers/ill/json")["State"]
        return found

    # It is well in its second run.
    daemon.ok("run", "-d", "--name", "ill", "--network", "none", "--health-cmd", "test -e /second", "--health-interval", "100ms",
              "--health-retries", "2", "--health-on-failure", action, "busybox", "sh", "-c",
              "test -e /first && touch /second; touch /first; exec sleep 60")  # fmt: skip
    began = state()["StartedAt"]
    if action == "restart":
        eventually(lambda: state()["StartedAt"] != began and state()["Health"]["Status"] == "healthy", 30)
    elif action == "none":
        eventually(lambda: state()["Health"]["Status"] == "unhealthy", 30)
        assert state()["Running"]
    else:
        eventually(lambda: not state()["Running"], 30)
        assert state()["ExitCode"] == 137
    daemon.ok("rm", "-f", "ill")
    done = daemon.sampan("create", "--health-on-failure", "pray", "busybox")
    assert b"invalid HealthOnFailure 'pray'" in done.stderr
