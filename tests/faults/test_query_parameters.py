"""What Docker's query parameters ask for is done, or refused by name with Docker's status."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from sampan.build.cache import Space
from sampan.client.http import APIError, query
from tests.conftest import Daemon
from tests.support.images import saved, tar_of, two_layers

ARM = json.dumps({"os": "linux", "architecture": "arm", "variant": "v7"})
HERE, ARM64 = "linux/amd64", "linux/arm64"


def platform(text: str) -> str:
    names = ("os", "architecture", "variant")
    return json.dumps(dict(zip(names, text.split("/"), strict=False)))


@pytest.fixture
def image(daemon: Daemon) -> Iterator[str]:
    """An image for another platform, with two layers of which it shares one."""
    layers = two_layers("other")
    daemon.ok("load", input=saved(layers, ["other:1"], architecture="arm", variant="v6"))
    daemon.ok("load", input=saved(layers[:1], ["other:base"], architecture="arm", variant="v6"))
    yield "other:1"
    daemon.sampan("rmi", "-f", "other:1", "other:base")


def refused(daemon: Daemon, status: int, match: str, method: str, path: str) -> None:
    with pytest.raises(APIError, match=match) as caught:
        daemon.http.call(method, path)
    assert caught.value.status == status


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/images/other:1/json"), ("GET", "/images/other:1/history"), ("GET", "/images/other:1/get"), ("GET", "/images/get?names=other:1"),
     ("POST", "/images/other/push?tag=1"), ("DELETE", "/images/other:1")],
)  # fmt: skip
def test_an_image_of_another_platform_is_not_there(daemon: Daemon, image: str, method: str, path: str) -> None:
    name = "platforms" if method == "DELETE" else "platform"

    def asked(text: str, again: str = "") -> str:
        return path + query(**{name: [text, again] if again else text}).replace("?", "&" if "?" in path else "?")

    sentence = (
        r"other:1 was found but its platform \(linux/arm/v6\) does not match the specified platform \(linux/arm64\)"
    )
    refused(daemon, 404, sentence, method, asked(platform("linux/arm64")))
    refused(daemon, 400, "failed to parse platform", method, asked("linux/amd64"))
    refused(daemon, 400, "both OS and Architecture must be provided", method, asked('{"os": "linux"}'))
    refused(daemon, 400, "optional platform fields provided", method, asked('{"variant": "v7"}'))
    refused(daemon, 400, "multiple platform", method, asked(ARM, ARM))
    if method == "GET" and "get" not in path:
        daemon.http.call(method, asked(ARM))  # v6 runs on v7


def test_load_takes_the_images_of_a_platform(daemon: Daemon, image: str) -> None:
    archive = saved(two_layers("other"), ["other:1"], architecture="arm", variant="v6")
    done = daemon.sampan("load", "--platform", ARM64, input=archive)
    assert (done.returncode, b"requested platform (linux/arm64) not found" in done.stderr) == (1, True)
    assert "other:1" in daemon.ok("load", "--platform", "linux/arm/v7", input=archive)
    assert daemon.sampan("save", "--platform", "nonsense/a/b/c", "other:1").returncode == 1


def test_import_is_for_the_platform_that_it_says(daemon: Daemon) -> None:
    daemon.ok("import", "--platform", "linux/arm/v7", "-", "imported:1", input=tar_of({"f": b""}))
    found = daemon.http.call("GET", "/images/imported:1/json")
    assert (found["Os"], found["Architecture"], found["Variant"]) == ("linux", "arm", "v7")
    done = daemon.sampan("import", "--platform", "windows/amd64", "-", "imported:2", input=tar_of({"f": b""}))
    assert b"operating system is not supported" in done.stderr
    assert "Deleted" in daemon.ok("rmi", "--no-prune", "--platform", "linux/arm/v7", "imported:1")


def test_images_by_what_they_share_and_consist_of(daemon: Daemon, image: str) -> None:
    def row(asked: str) -> dict[str, object]:
        return next(r for r in daemon.http.call("GET", f"/images/json{asked}") if image in r["RepoTags"])

    assert row("")["SharedSize"] == -1
    base = next(r for r in daemon.http.call("GET", "/images/json") if "other:base" in r["RepoTags"])
    assert row("?shared-size=1")["SharedSize"] == base["Size"]
    assert "Manifests" not in row("")
    (manifest,) = row("?manifests=1")["Manifests"]  # type: ignore[misc]
    assert manifest["ImageData"]["Platform"] == {"architecture": "arm", "os": "linux", "variant": "v6"}
    archive = daemon.http.send("GET", f"/images/get?names={image}").read()
    assert manifest["ID"].encode() in archive, "it is what `save` writes"
    assert daemon.http.call("GET", f"/images/{image}/json?manifests=1")["Manifests"] == [manifest]
    refused(
        daemon, 400, "conflicting options", "GET", f"/images/{image}/json?manifests=1&platform={ARM}".replace(" ", "")
    )


def test_disk_usage_of_some_types(daemon: Daemon, image: str) -> None:
    found = daemon.http.call("GET", "/system/df?type=image&type=volume")
    assert found["Containers"] is None
    assert found["BuildCache"] is None
    assert found["Volumes"] is not None
    assert all(row["SharedSize"] >= 0 for row in found["Images"])
    refused(daemon, 400, "unknown object type: nonsense", "GET", "/system/df?type=nonsense")


def test_networks_have_a_scope(daemon: Daemon) -> None:
    assert daemon.http.call("GET", "/networks/bridge?scope=local&verbose=true")["Name"] == "bridge"
    refused(daemon, 404, "network bridge not found", "GET", "/networks/bridge?scope=swarm")
    refused(daemon, 400, "invalid value for verbose: maybe", "GET", "/networks/bridge?verbose=maybe")
    assert '"Driver": "bridge"' in daemon.ok("network", "inspect", "-v", "bridge")


def test_details_of_logs(daemon: Daemon) -> None:
    options = ("labels=a,none", "env-regex=^B", "tag={{.Name}}/{{.ImageName}}")
    daemon.ok("run", "--name", "details", "--network", "none", "-l", "a=1 2", "-e", "BB=é", *(f"--log-opt={o}" for o in options),
              "busybox", "echo", "hello")  # fmt: skip
    assert daemon.ok("logs", "--details", "details") == "BB=%C3%A9,a=1+2,tag=details%2Fbusybox hello\n"
    assert daemon.ok("logs", "details") == "hello\n"
    stamped = daemon.ok("logs", "--details", "-t", "details")
    assert stamped.partition(" ")[2] == "BB=%C3%A9,a=1+2,tag=details%2Fbusybox hello\n"
    daemon.ok("rm", "details")
    daemon.ok("run", "--name", "details", "--network", "none", "busybox", "echo", "hello")
    assert daemon.ok("logs", "--details", "details") == " hello\n", "as Docker"
    daemon.ok("rm", "details")


@pytest.mark.parametrize(
    ("driver", "option", "why"),
    [
        ("json-file", "nonsense=1", "unknown log opt 'nonsense' for json-file log driver"),
        ("local", "labels=a", "unknown log opt 'labels' for local log driver"),
        ("json-file", "max-file=0", "max-file cannot be less than 1"),
        ("json-file", "max-size=0", "max-size must be a positive number"),
        ("json-file", "max-size=many", "invalid log option"),
        ("json-file", "mode=fast", "logging mode not supported: fast"),
        ("json-file", "mode=non-blocking", "never dropped"),
        ("json-file", "compress=true", "not compressed"),
        ("json-file", "labels-regex=(", "labels-regex"),
        ("json-file", "tag={{.Nonsense}}", "no field 'Nonsense'"),
        ("json-file", "tag={{range}}", "range"),
    ],
)
def test_options_of_logs_are_done_or_refused(daemon: Daemon, driver: str, option: str, why: str) -> None:
    done = daemon.sampan("create", "--log-driver", driver, "--log-opt", option, "busybox", "true")
    assert (done.returncode, why in done.stderr.decode()) == (1, True), done.stderr


def test_checkpoints_are_experimental(daemon: Daemon) -> None:
    name = daemon.ok("create", "busybox", "true").strip()
    refused(
        daemon,
        400,
        "checkpoint is only supported in experimental mode",
        "POST",
        f"/containers/{name}/start?checkpoint=a",
    )
    daemon.ok("rm", name)


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ("version=3", 'invalid version "3"'),
        ("securityopt=a", "security options are not supported on linux"),
        ("isolation=hyperv", 'unsupported isolation: "hyperv"'),
        ("outputs=" + json.dumps([{"Type": "local"}]).replace(" ", ""), "outputs: local"),
        ("outputs=1", "outputs must be a list"),
    ],
)
def test_builds_refuse_what_they_do_not_do(daemon: Daemon, asked: str, why: str) -> None:
    refused(daemon, 400, why, "POST", f"/build?{asked}")


@pytest.mark.parametrize(
    ("space", "total", "free", "kept"),
    [
        (Space(), 100, 5, 0),
        (Space(reserved=30), 100, 5, 30),
        (Space(most=60), 100, 5, 60),
        (Space(reserved=70, most=60), 100, 5, 70),
        (Space(free=5), 100, 5, 100),
        (Space(free=25), 100, 5, 80),
        (Space(free=25, most=90), 100, 5, 80),
        (Space(free=500), 100, 5, 0),
        (Space(free=500, reserved=10), 100, 5, 10),
    ],
)
def test_what_a_prune_of_the_build_cache_leaves(space: Space, total: int, free: int, kept: int) -> None:
    assert space.kept(total, free) == kept


def test_prune_of_the_build_cache_leaves_what_images_have(daemon: Daemon) -> None:
    dockerfile = b"FROM busybox\nRUN echo kept > /kept\n"
    context = tar_of({"Dockerfile": dockerfile})
    answer = daemon.http.send("POST", "/build?t=cached:1", stream=iter([context])).read()
    assert b"Successfully tagged" in answer, answer
    rows = daemon.http.call("GET", "/system/df?type=build-cache")["BuildCache"]
    assert any(row["Shared"] for row in rows)
    daemon.http.call("POST", "/build/prune")
    left = {row["ID"] for row in daemon.http.call("GET", "/system/df?type=build-cache")["BuildCache"]}
    assert left == {row["ID"] for row in rows if row["Shared"]}
    daemon.http.call("POST", "/build/prune?all=1&min-free-space=1")
    assert daemon.http.call("GET", "/system/df?type=build-cache")["BuildCache"], "enough is free"
    daemon.http.call("POST", "/build/prune?all=1")
    assert daemon.http.call("GET", "/system/df?type=build-cache")["BuildCache"] == []
    daemon.ok("rmi", "cached:1")
