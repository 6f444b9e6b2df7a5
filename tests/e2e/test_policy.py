"""The isolation policy at work: real users on the socket, a file that changes, kernels that are or are not shared."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sampan.client.http import APIError, Http
from tests.conftest import Daemon, end_daemon, new_daemon
from tests.support.docker_registry import Registry
from tests.support.docker_registry import configuration as configuration
from tests.support.docker_registry import plain as plain
from tests.support.users import as_user

ALICE, BOB = 4001, 4002  # users that the host does not know, so they go by their numbers
POLICY = f"""
[[tenant]]
name = "ops"
users = ["root"]
trusted = true

[[tenant]]
name = "shop"
users = ["{ALICE}"]

[[trust]]
tenants = ["ops", "shop"]

[[rule]]
name = "raw sockets"
capability = "NET_RAW"
tenant = "shop"
isolation = "vm"

[[rule]]
name = "labelled"
label = "forbidden"
isolation = "deny"
"""


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, Path]]:
    path = tmp_path_factory.mktemp("policy") / "policy.toml"
    path.write_text(POLICY)
    daemon = new_daemon("container", "--policy", str(path))
    os.chmod(daemon.root, 0o711)
    yield daemon, path
    end_daemon(daemon)


@pytest.fixture
def policy(guarded: tuple[Daemon, Path]) -> Iterator[tuple[Daemon, Path]]:
    daemon, path = guarded
    yield guarded
    path.write_text(POLICY)
    for row in daemon.http.call("GET", "/containers/json?all=1"):
        daemon.http.call("DELETE", f"/containers/{row['Id']}?force=1&v=1")


def create(daemon: Daemon, uid: int, host: dict[str, Any] | None = None, **config: Any) -> tuple[int, Any]:
    body = {"Image": "busybox", "Cmd": ["sleep", "60"], "HostConfig": {"NetworkMode": "none", **(host or {})}, **config}
    return as_user(daemon, uid, "POST", "/containers/create", body)


def inspect(daemon: Daemon, identifier: str) -> dict[str, Any]:
    return dict(daemon.http.call("GET", f"/containers/{identifier}/json"))


def test_strangers_get_a_kernel_of_their_own(policy: tuple[Daemon, Path]) -> None:
    daemon, _ = policy
    ours = daemon.ok("run", "-d", "--network", "none", "busybox", "sleep", "60").strip()
    assert inspect(daemon, ours)["Owner"] == "root"
    _, friend = create(daemon, ALICE)
    status, stranger = create(daemon, BOB)
    assert (status, friend["Isolation"], stranger["Isolation"]) == (200, "container", "vm")
    assert "whom ~4002 does not share a kernel with" in "".join(inspect(daemon, stranger["Id"])["IsolationReasons"])
    assert as_user(daemon, BOB, "POST", f"/containers/{stranger['Id']}/start")[0] == 200
    kernels = {daemon.ok("exec", name, "uname", "-r") for name in (ours, stranger["Id"])}
    assert len(kernels) == 2
    # Who insists on the host's kernel is told no, and nothing is left of it.
    before = len(daemon.http.call("GET", "/containers/json?all=1"))
    status, text = create(daemon, BOB, {"Isolation": "container"})
    assert status == 403
    assert "only a virtual machine is allowed" in text
    assert len(daemon.http.call("GET", "/containers/json?all=1")) == before
    # A label that only an admin may use does not make a friend of a stranger.
    assert create(daemon, BOB, Labels={"sampan.tenant": "ops"})[1]["Isolation"] == "vm"
    assert (
        daemon.http.call("POST", "/containers/create", {"Image": "busybox", "Labels": {"sampan.tenant": "shop"}})[
            "Isolation"
        ]
        == "container"
    )


def test_what_an_untrusted_tenant_can_not_have(policy: tuple[Daemon, Path], tmp_path: Path) -> None:
    """S049, and all other ways to the host that the API has."""
    daemon, _ = policy
    assert create(daemon, ALICE, {"Privileged": True})[1]["Isolation"] == "vm"
    assert create(daemon, ALICE, {"CapAdd": ["SYS_ADMIN"]})[1]["Isolation"] == "vm"
    assert create(daemon, ALICE, {"SecurityOpt": ["seccomp=unconfined"]})[1]["Isolation"] == "vm"
    for host in (
        {"PidMode": "host"},
        {"NetworkMode": "host"},
        {"Devices": [{"PathOnHost": "/dev/kmsg", "PathInContainer": "/dev/kmsg"}]},
    ):
        status, text = create(daemon, ALICE, host)
        assert status == 403, host
        assert "not trusted with the host's kernel" in text
        assert "impossible with --isolation vm" in text
    for host in (
        {"Binds": ["/etc:/etc2"]},
        {"Binds": [f"{daemon.socket}:/s.sock"]},
        {"Mounts": [{"Type": "bind", "Source": "/", "Target": "/x"}]},
    ):
        status, text = create(daemon, ALICE, host)
        assert status == 403, host
        assert "shop may not mount it" in text
    (tmp_path / "link").symlink_to("/etc")
    assert create(daemon, ALICE, {"Binds": [f"{tmp_path}/link:/x"]})[0] == 403
    _, plain_ = create(daemon, ALICE)
    assert as_user(daemon, ALICE, "POST", f"/containers/{plain_['Id']}/start")[0] == 200
    status, text = as_user(
        daemon, ALICE, "POST", f"/containers/{plain_['Id']}/exec", {"Cmd": ["id"], "Privileged": True}
    )
    assert (status, "exec --privileged by shop" in text) == (403, True)
    assert as_user(daemon, ALICE, "POST", f"/containers/{plain_['Id']}/exec", {"Cmd": ["id"]})[0] == 200
    status, text = as_user(daemon, ALICE, "POST", "/sampan/vm/create", {"Name": "v", "Disk": "/etc/shadow"})
    assert (status, "/etc/shadow is the host's, and shop may not mount it" in text) == (403, True)
    status, text = as_user(daemon, ALICE, "POST", "/sampan/bootstrap?name=busybox")
    assert (status, "bootstrap, which runs packages' scripts as root, by shop" in text) == (403, True)
    assert as_user(daemon, ALICE, "POST", "/sampan/vm/create", {"Name": "v", "Bootstrap": "debian:bookworm"})[0] == 403
    # The operator may, and each such request leaves an event.
    assert daemon.ok("run", "--rm", "--network", "none", "--privileged", "busybox", "id", "-u") == "0\n"
    events = [
        json.loads(line)
        for line in daemon.ok(
            "events", "--since", "1h", "--until", "0s", "--filter", "type=policy", "--format", "json"
        ).splitlines()
    ]
    assert any(
        row["Actor"]["Attributes"]["options"] == "--privileged" and row["Action"] == "container" for row in events
    )
    assert any(
        row["Action"] == "deny" and "/etc is the host's" in row["Actor"]["Attributes"]["reason"] for row in events
    )


def test_builds_run_on_the_host_s_kernel(policy: tuple[Daemon, Path], tmp_path: Path) -> None:
    daemon, _ = policy
    daemon.ok("create", "busybox", "true")
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN --network=none true\n")
    subprocess.run(["tar", "-cf", tmp_path / "context.tar", "-C", tmp_path, "Dockerfile"], check=True)

    def build(uid: int) -> str:
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.setresuid(uid, uid, uid)
            data = (tmp_path / "context.tar").read_bytes()
            try:
                text = Http(daemon.socket).send("POST", "/build?networkmode=none", stream=iter([data])).read()
            except APIError as error:
                text = f"{error.status} {error}".encode()
            os.write(writer, text[-4000:])
            os._exit(0)
        os.close(writer)
        with open(reader, "rb") as file:
            text = file.read().decode()
        os.waitpid(pid, 0)
        return text

    for path in (tmp_path, *tmp_path.parents):
        if str(path).startswith("/tmp/"):
            os.chmod(path, 0o755)
    assert "Successfully built" in build(ALICE)
    assert "builds run on the host's kernel" in build(BOB)


def test_rules_explained_and_checked(policy: tuple[Daemon, Path], tmp_path: Path) -> None:
    daemon, _ = policy
    out = daemon.ok("policy", "explain", "--as", str(ALICE), "--cap-add", "NET_RAW", "busybox")
    assert out.startswith(f"vm: busybox for {ALICE}, tenant shop\n")
    assert "because rule 'raw sockets': vm" in out
    assert "(rule 'labelled' does not apply)" in out
    found = json.loads(daemon.ok("policy", "explain", "--format", "json", "--label", "forbidden", "busybox"))
    assert (found["Isolation"], found["Tenant"]) == ("deny", "ops")
    done = daemon.sampan("run", "--rm", "--label", "forbidden", "busybox", "true")
    assert done.returncode == 125
    assert b"denied by the isolation policy: rule 'labelled': deny" in done.stderr
    assert as_user(daemon, ALICE, "POST", f"/sampan/policy/explain?as={BOB}", {"Image": "busybox"})[0] == 403
    assert "2 rules, 2 tenants, default container" in daemon.ok("policy", "check")
    (tmp_path / "wrong.toml").write_text("[[rule]]\nname = 'x'\nisolation = 'maybe'")
    done = daemon.sampan("policy", "check", str(tmp_path / "wrong.toml"))
    assert (done.returncode, b"rule x: the isolation 'maybe' is unknown" in done.stderr) == (1, True)
    assert daemon.sampan("policy", "explain", "nonesuch").returncode == 1
    assert daemon.sampan("policy", "frobnicate").returncode == 1


def test_a_change_holds_at_once_and_a_mistake_changes_nothing(policy: tuple[Daemon, Path]) -> None:
    daemon, path = policy
    assert daemon.http.call("POST", "/containers/create", {"Image": "busybox"})["Isolation"] == "container"
    path.write_text(POLICY + "\n[[rule]]\nname = 'all'\nimage = 'busybox*'\nisolation = 'vm'\n")
    assert daemon.http.call("POST", "/containers/create", {"Image": "busybox"})["Isolation"] == "vm"
    identifier = daemon.http.call("GET", "/images/busybox/json")["Id"]
    assert daemon.http.call("POST", "/containers/create", {"Image": identifier})["Isolation"] == "vm"  # by its id too
    path.write_text("nonsense")
    assert daemon.http.call("POST", "/containers/create", {"Image": "busybox"})["Isolation"] == "vm"
    done = daemon.sampan("policy", "check")
    assert (done.returncode, b"what it said before holds" in done.stdout) == (1, True)
    assert any("no valid TOML" in text for text in daemon.http.call("GET", "/info")["Warnings"])
    path.write_text(POLICY)
    os.chmod(path, 0o666)  # anybody could have written it
    assert "only its owner" in daemon.sampan("policy", "check").stdout.decode()
    os.chmod(path, 0o644)
    assert daemon.http.call("POST", "/containers/create", {"Image": "busybox"})["Isolation"] == "container"


def test_tenants_who_meet_by_a_change_are_told_of(policy: tuple[Daemon, Path]) -> None:
    daemon, path = policy
    daemon.ok("run", "-d", "--name", "ours", "--network", "none", "busybox", "sleep", "60")
    _, made = create(daemon, ALICE)
    assert as_user(daemon, ALICE, "POST", f"/containers/{made['Id']}/start")[0] == 200
    path.write_text(POLICY.replace('["ops", "shop"]', '["ops"]'))
    assert "ops and shop share the host's kernel" in daemon.ok("policy", "check")
    daemon.ok("stop", "-t", "0", "ours")
    done = daemon.sampan("start", "ours")
    assert (done.returncode, b"whom ops does not share a kernel with" in done.stderr) == (1, True)
    daemon.ok("rm", "-f", made["Id"])
    daemon.ok("start", "ours")


def test_a_policy_that_never_was_right_lets_nothing_start(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    daemon = new_daemon("auto", "--policy", str(path))
    try:
        daemon.stop()
        path.write_text("[[rule]]\n")
        daemon.start()
        done = daemon.sampan("run", "--rm", "--network", "none", "busybox", "true")
        assert (done.returncode, b"rule 1: says no isolation" in done.stderr) == (125, True)
        path.write_text("")
        assert daemon.sampan("run", "--rm", "--network", "none", "busybox", "true").returncode == 0
    finally:
        end_daemon(daemon)


def test_auto_without_a_policy_is_a_container(daemon: Daemon) -> None:
    assert (
        daemon.ok("run", "--rm", "--isolation", "auto", "--network", "none", "busybox", "uname", "-r").strip()
        == os.uname().release
    )
    assert "there is no policy" in daemon.ok("policy", "explain", "busybox")
    assert daemon.ok("policy", "check").startswith("no policy: ")
    done = daemon.sampan("run", "--rm", "--isolation", "hyperv", "busybox", "true")
    assert (done.returncode, b"invalid isolation 'hyperv': container, vm or auto" in done.stderr) == (125, True)


def _sign(registry: Registry, repository: str, digest: str, key: Path, claimed: str = "") -> None:
    """Puts a signature beside an image, as cosign does, with nothing but openssl and HTTP."""
    import urllib.request

    payload = json.dumps({"critical": {"identity": {"docker-reference": f"{registry.name}/{repository}"},
                                       "image": {"docker-manifest-digest": claimed or digest}, "type": "cosign container image signature"},
                          "optional": None}).encode()  # fmt: skip
    signature = subprocess.run(
        ["openssl", "dgst", "-sha256", "-sign", key], input=payload, check=True, capture_output=True
    ).stdout

    def blob(data: bytes) -> dict[str, Any]:
        name = f"sha256:{hashlib.sha256(data).hexdigest()}"
        post = urllib.request.Request(f"http://{registry.name}/v2/{repository}/blobs/uploads/", method="POST")
        with urllib.request.urlopen(post) as answer:
            location = answer.headers["Location"]
        put = urllib.request.Request(
            f"{location}&digest={name}", data=data, method="PUT", headers={"Content-Type": "application/octet-stream"}
        )
        urllib.request.urlopen(put).close()
        return {"digest": name, "size": len(data)}

    layer = {"mediaType": "application/vnd.dev.cosign.simplesigning.v1+json", **blob(payload),
             "annotations": {"dev.cosignproject.cosign/signature": base64.b64encode(signature).decode()}}  # fmt: skip
    config = {"mediaType": "application/vnd.oci.image.config.v1+json", **blob(b"{}")}
    kind = "application/vnd.oci.image.manifest.v1+json"
    document = json.dumps({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": [layer]}).encode()
    tag = f"{digest.replace(':', '-')}.sig"
    urllib.request.urlopen(
        urllib.request.Request(
            f"http://{registry.name}/v2/{repository}/manifests/{tag}",
            data=document,
            method="PUT",
            headers={"Content-Type": kind},
        )
    ).close()


def test_signatures(plain: Registry, tmp_path: Path, policy: tuple[Daemon, Path]) -> None:
    daemon, path = policy
    for name in ("good", "other"):
        subprocess.run(
            ["openssl", "ecparam", "-genkey", "-name", "prime256v1", "-noout", "-out", tmp_path / f"{name}.pem"],
            check=True,
        )
        subprocess.run(
            ["openssl", "ec", "-in", tmp_path / f"{name}.pem", "-pubout", "-out", tmp_path / f"{name}.pub"],
            check=True,
            capture_output=True,
        )
    path.write_text(POLICY + f"""
[[key]]
name = "release"
file = "{tmp_path}/good.pub"

[[rule]]
name = "unsigned"
signed = false
isolation = "vm"
""")  # fmt: skip
    results = {}
    digests = []
    for index, repository in enumerate(("right", "wrong", "forged", "none")):
        # Images that differ, so that one's signature is not another's.
        (tmp_path / "Dockerfile").write_text(f"FROM busybox\nLABEL n={index}\n")
        name = f"{plain.name}/signed/{repository}:1"
        path_before = path.read_text()
        path.write_text(POLICY)
        daemon.ok("build", "-q", "-t", name, str(tmp_path))
        out = daemon.ok("push", name)
        daemon.ok("rmi", name)
        path.write_text(path_before)
        digests.append(next(word for word in out.split() if word.startswith("sha256:")))
        if repository == "right":
            _sign(plain, f"signed/{repository}", digests[-1], tmp_path / "good.pem")
        elif repository == "wrong":
            _sign(plain, f"signed/{repository}", digests[-1], tmp_path / "other.pem")
        elif repository == "forged":  # a good signature, of another image
            _sign(plain, f"signed/{repository}", digests[-1], tmp_path / "good.pem", claimed=digests[0])
        daemon.ok("pull", name)
        results[repository] = daemon.http.call("POST", "/containers/create", {"Image": name})["Isolation"]
        if repository == "right":
            assert "signed by release" in daemon.ok("policy", "explain", name)
    assert results == {"right": "container", "wrong": "vm", "forged": "vm", "none": "vm"}
    time.sleep(0.01)
    (tmp_path / "good.pub").write_text("nothing")
    assert "key 'release'" in daemon.ok("policy", "check")
