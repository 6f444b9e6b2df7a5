"""Tenants at one socket, as users that they really are: nobody gets at another's things, by any way that the API has (T51, T61-T63)."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sampan.client.http import APIError, Http
from tests.conftest import Daemon, end_daemon, new_daemon
from tests.support.users import as_user

ALICE, BOB = 4101, 4102
POLICY = """
[[tenant]]
name = "ops"
users = ["root"]
trusted = true

[[tenant]]
name = "alice"
users = ["4101"]
mounts = ["{top}/alice"]

[[trust]]
tenants = ["*"]

[[rule]]
name = "denied images"
image = "denied*"
isolation = "deny"
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, Path]]:
    top = tmp_path_factory.mktemp("tenants")
    (top / "policy.toml").write_text(POLICY.format(top=top))
    daemon = new_daemon("container", "--policy", str(top / "policy.toml"))
    os.chmod(daemon.root, 0o711)
    (top / "context").mkdir()
    (top / "context/Dockerfile").write_text("FROM busybox\nLABEL denied=1\n")
    daemon.ok("build", "-q", "-t", "denied:1", str(top / "context"))
    yield daemon, top
    end_daemon(daemon)


@pytest.fixture
def tenants(place: tuple[Daemon, Path]) -> Iterator[tuple[Daemon, Path]]:
    daemon, top = place
    yield place
    (top / "policy.toml").write_text(POLICY.format(top=top))
    for row in daemon.http.call("GET", "/containers/json?all=1"):
        daemon.http.call("DELETE", f"/containers/{row['Id']}?force=1&v=1")


def start(daemon: Daemon, uid: int, name: str, isolation: str = "", **host: Any) -> str:
    body = {
        "Image": "busybox",
        "Cmd": ["sleep", "300"],
        "HostConfig": {"NetworkMode": "none", "Isolation": isolation, **host},
    }
    status, found = as_user(daemon, uid, "POST", f"/containers/create?name={name}", body)
    assert status == 200, found
    assert as_user(daemon, uid, "POST", f"/containers/{name}/start")[0] == 200
    return str(found["Id"])


WAYS = [
    ("GET", "/containers/{}/json", None), ("POST", "/containers/{}/exec", {"Cmd": ["id"]}), ("POST", "/containers/{}/attach?stream=1", None),
    ("GET", "/containers/{}/logs?stdout=1", None), ("GET", "/containers/{}/archive?path=/etc", None), ("GET", "/containers/{}/export", None),
    ("PUT", "/containers/{}/archive?path=/", None), ("POST", "/commit?container={}&repo=stolen", None), ("POST", "/containers/{}/kill", None),
    ("POST", "/containers/{}/stop?t=0", None), ("POST", "/containers/{}/restart?t=0", None), ("POST", "/containers/{}/pause", None),
    ("POST", "/containers/{}/rename?name=mine-now", None), ("POST", "/containers/{}/update", {"Memory": 64 << 20}),
    ("GET", "/containers/{}/top", None), ("GET", "/containers/{}/stats?stream=0", None), ("GET", "/containers/{}/changes", None),
    ("DELETE", "/containers/{}?force=1", None), ("POST", "/networks/bridge/connect", {"Container": "{}"}),
    ("GET", "/sampan/containers/{}/footprint", None), ("GET", "/containers/json?filters={{\"since\":[\"{}\"]}}", None),
]  # fmt: skip


def fill(value: Any, name: str) -> Any:
    return json.loads(json.dumps(value).replace("{}", name))


@pytest.mark.parametrize("kernel", ["container", "vm"])
def test_a_container_is_its_tenant_s(tenants: tuple[Daemon, Path], kernel: str) -> None:
    """T62: of a privileged container on the host's kernel, and of one in a virtual machine."""
    daemon, _ = tenants
    if kernel == "container":
        theirs = start(daemon, 0, "theirs", Privileged=True)
        session = daemon.http.call("POST", "/containers/theirs/exec", {"Cmd": ["id"]})["Id"]
    else:  # whether it runs makes no difference: it is asked before anybody looks
        body = {"Image": "busybox", "Cmd": ["true"], "HostConfig": {"Isolation": "vm"}}
        theirs, session = daemon.http.call("POST", "/containers/create?name=theirs", body)["Id"], "0" * 64
    for name in (theirs, "theirs", theirs[:12]):
        for method, path, body in WAYS:
            status, text = as_user(daemon, BOB, method, path.format(name), fill(body, name))
            assert (status, "No such container" in text) == (404, True), (method, path, status, text)
            other = "0" * len(name) if name != "theirs" else "nobody"
            assert as_user(daemon, BOB, method, path.format(other), fill(body, other)) == (
                404,
                text.replace(name, other),
            )
    for method, path in (("GET", "/exec/{}/json"), ("POST", "/exec/{}/start"), ("POST", "/exec/{}/kill")):
        assert as_user(daemon, BOB, method, path.format(session))[0] == 404
    assert as_user(daemon, BOB, "GET", "/containers/json?all=1") == (200, [])
    for path in ("/sampan/overview", "/system/df", "/info", "/containers/json?all=1"):
        assert theirs not in json.dumps(as_user(daemon, BOB, "GET", path)[1]), path
    if kernel == "container":
        assert inspect(daemon, "theirs")["State"]["Running"]
        assert daemon.ok("exec", "theirs", "id", "-u") == "0\n"


def inspect(daemon: Daemon, name: str) -> dict[str, Any]:
    return dict(daemon.http.call("GET", f"/containers/{name}/json"))


def test_one_s_own_is_one_s_own(tenants: tuple[Daemon, Path]) -> None:
    """What a tenant may is as before: the gate does not only refuse."""
    daemon, _ = tenants
    mine = start(daemon, ALICE, "mine")
    assert [row["Id"] for row in as_user(daemon, ALICE, "GET", "/containers/json")[1]] == [mine]
    session = as_user(daemon, ALICE, "POST", "/containers/mine/exec", {"Cmd": ["true"]})[1]["Id"]
    assert as_user(daemon, ALICE, "POST", f"/exec/{session}/start", {"Detach": True})[0] == 200
    assert as_user(daemon, ALICE, "POST", "/commit?container=mine&repo=alices&tag=1")[0] == 200
    assert as_user(daemon, ALICE, "GET", "/images/alices:1/json")[0] == 200
    assert as_user(daemon, BOB, "GET", "/images/alices:1/json") == (404, "No such image: alices:1")
    assert "alices:1" in json.dumps(daemon.http.call("GET", "/images/json"))
    assert "alices:1" not in json.dumps(as_user(daemon, BOB, "GET", "/images/json")[1])
    # Nobody who is trusted runs by a name what somebody else has put under it.
    with pytest.raises(APIError, match="No such image: alices:1"):
        daemon.http.call("POST", "/containers/create", {"Image": "alices:1"})
    assert as_user(daemon, ALICE, "DELETE", "/images/alices:1")[0] == 200
    assert as_user(daemon, ALICE, "DELETE", "/containers/mine?force=1")[0] == 200


def test_names_of_images_are_their_owners(tenants: tuple[Daemon, Path]) -> None:
    daemon, _ = tenants
    start(daemon, ALICE, "mine")
    for path in ("/commit?container=mine&repo=busybox&tag=latest",):
        status, text = as_user(daemon, ALICE, "POST", path)
        assert (status, "may use it and not change it" in text) == (403, True), text
    before = daemon.http.call("GET", "/images/busybox/json")["Id"]
    assert as_user(daemon, ALICE, "POST", "/images/busybox/tag?repo=alice/box&tag=1")[0] == 200
    assert (
        as_user(daemon, BOB, "POST", "/images/busybox/tag?repo=alice/box&tag=1")[0] == 200
    )  # it is that image already
    assert as_user(daemon, ALICE, "DELETE", "/images/busybox?force=1")[0] == 403
    assert as_user(daemon, ALICE, "DELETE", f"/images/{before}?force=1")[0] == 403
    status, found = as_user(daemon, ALICE, "POST", '/images/prune?filters={"dangling":["false"]}')
    assert (status, found["ImagesDeleted"]) == (200, None)
    assert daemon.http.call("GET", "/images/busybox/json")["Id"] == before
    daemon.ok("rmi", "alice/box:1")


def test_volumes_and_networks(tenants: tuple[Daemon, Path]) -> None:
    daemon, _ = tenants
    assert as_user(daemon, ALICE, "POST", "/volumes/create", {"Name": "letters"})[0] == 200
    status, made = as_user(daemon, ALICE, "POST", "/networks/create", {"Name": "alices"})
    assert status == 200, made
    assert as_user(daemon, BOB, "GET", "/volumes/letters") == (404, "get letters: no such volume")
    assert as_user(daemon, BOB, "DELETE", "/volumes/letters")[0] == 404
    assert as_user(daemon, BOB, "GET", "/volumes")[1]["Volumes"] == []
    assert as_user(daemon, BOB, "POST", '/volumes/prune?filters={"all":["1"]}')[1]["VolumesDeleted"] == []
    body: dict[str, Any] = {
        "Image": "busybox",
        "Cmd": ["true"],
        "HostConfig": {"NetworkMode": "none", "Binds": ["letters:/x"]},
    }
    assert as_user(daemon, BOB, "POST", "/containers/create", body)[0] == 409
    assert as_user(daemon, BOB, "GET", "/networks/alices") == (404, "network alices not found")
    assert as_user(daemon, BOB, "DELETE", f"/networks/{made['Id']}")[0] == 404
    assert (
        as_user(daemon, BOB, "POST", "/containers/create", {**body, "HostConfig": {"NetworkMode": made["Id"]}})[0]
        == 400
    )
    assert {row["Name"] for row in as_user(daemon, BOB, "GET", "/networks")[1]} == {"bridge", "host", "none"}
    for asked in (
        {"Name": "direct", "Driver": "macvlan"},
        {"Name": "over", "Options": {"com.docker.network.bridge.name": "lo"}},
    ):
        assert as_user(daemon, BOB, "POST", "/networks/create", asked)[0] == 403
    assert as_user(daemon, ALICE, "DELETE", "/networks/alices")[0] == 200
    assert as_user(daemon, ALICE, "DELETE", "/volumes/letters")[0] == 200


def test_a_network_takes_nobody_s_addresses(tenants: tuple[Daemon, Path]) -> None:
    """A subnet is a route of the host's: an untrusted tenant has such as networks get by themselves, and each container on it is
    who it is."""
    daemon, _ = tenants
    for asked in (
        *({"IPAM": {"Config": [{"Subnet": subnet}]}} for subnet in ("1.1.1.0/24", "0.0.0.0/1", "10.9.8.0/24", "169.254.169.0/24",
                                                                     "172.16.0.0/12", "2606:4700::/64", "fc00::/7")),
        {"Options": {"sampan.antispoof": "false"}},
    ):  # fmt: skip
        status, text = as_user(daemon, BOB, "POST", "/networks/create", {"Name": "grabbing", **asked})
        assert (status, "~4102, who is not trusted with the host's kernel" in text) == (403, True), (asked, text)
        assert as_user(daemon, 0, "GET", "/networks/grabbing")[0] == 404
    ours = {"IPAM": {"Config": [{"Subnet": "192.168.250.0/24"}, {"Subnet": "fd00:77::/64"}]}}
    assert as_user(daemon, BOB, "POST", "/networks/create", {"Name": "modest", **ours})[0] == 200
    assert as_user(daemon, BOB, "DELETE", "/networks/modest")[0] == 200


def test_a_rule_about_a_network_holds_for_who_comes_later(tenants: tuple[Daemon, Path]) -> None:
    daemon, top = tenants
    rule = "\n[[rule]]\nname = 'no backend'\nnetwork = 'backend'\nisolation = 'deny'\n"
    (top / "policy.toml").write_text(POLICY.format(top=top) + rule)
    for name in ("backend", "front"):
        assert as_user(daemon, ALICE, "POST", "/networks/create", {"Name": name})[0] == 200
    start(daemon, ALICE, "walker", NetworkMode="front")
    status, text = as_user(daemon, ALICE, "POST", "/networks/backend/connect", {"Container": "walker"})
    assert (status, "rule 'no backend': deny" in text) == (403, True), text
    assert list(inspect(daemon, "walker")["NetworkSettings"]["Networks"]) == ["front"]
    daemon.ok("rm", "-f", "walker")
    daemon.ok("network", "rm", "backend", "front")


def test_nobody_comes_before_the_host_s_own_processes(tenants: tuple[Daemon, Path]) -> None:
    """To be killed last, or to run in real time, is at everybody else's cost: a kernel of one's own it is."""
    daemon, _ = tenants
    for host in ({"OomScoreAdj": -1000}, {"Ulimits": [{"Name": "RTPRIO", "Soft": 0, "Hard": 99}]}):
        body = {"Image": "busybox", "Cmd": ["true"], "HostConfig": {"NetworkMode": "none", **host}}
        status, made = as_user(daemon, BOB, "POST", "/containers/create", body)
        assert (status, made["Isolation"]) == (200, "vm"), made


def test_what_is_shared_with_a_container_is_asked_of_it(tenants: tuple[Daemon, Path]) -> None:
    """T63."""
    daemon, _ = tenants
    start(daemon, 0, "theirs", Privileged=True)
    for host in ({"PidMode": "container:theirs"}, {"IpcMode": "container:theirs"}, {"NetworkMode": "container:theirs"},
                 {"VolumesFrom": ["theirs"]}):  # fmt: skip
        body = {"Image": "busybox", "Cmd": ["true"], "HostConfig": {"NetworkMode": "none", **host}}
        assert as_user(daemon, BOB, "POST", "/containers/create", body) == (400, "No such container: theirs"), host
    start(daemon, BOB, "first")
    start(daemon, BOB, "second", PidMode="container:first")


def test_host_commands_are_for_the_trusted(tenants: tuple[Daemon, Path]) -> None:
    """T61, and whatever else is of the engine as a whole."""
    daemon, _ = tenants
    for method, path in (("POST", "/sampan/compare"), ("GET", "/sampan/comparisons"), ("POST", "/sampan/bootstrap?name=busybox"),
                         ("POST", "/build/prune"), ("DELETE", "/sampan/ui"), ("POST", "/sampan/policy/check")):  # fmt: skip
        status, text = as_user(
            daemon, BOB, method, path, {"Image": "busybox", "Command": ["id"]} if method == "POST" else None
        )
        assert (status, "denied by the isolation policy" in text) == (403, True), (path, text)


def build(daemon: Daemon, uid: int, dockerfile: str, query: str = "") -> str:
    """What a build says at its end, of a user."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        member = tarfile.TarInfo("Dockerfile")
        member.size = len(dockerfile)
        tar.addfile(member, io.BytesIO(dockerfile.encode()))
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setresuid(uid, uid, uid)
            try:
                text = Http(daemon.socket).send("POST", f"/build?{query}", stream=iter([data.getvalue()])).read()
            except APIError as error:
                text = f"{error.status} {error}".encode()
            os.write(writer, text[-4000:])
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        found = file.read().decode()
    os.waitpid(pid, 0)
    return found


def test_a_build_is_asked_what_a_container_is(tenants: tuple[Daemon, Path]) -> None:
    """T63: its images, its network, and what other tenants' steps have made."""
    daemon, _ = tenants
    assert "Successfully built" in build(
        daemon, ALICE, "FROM busybox\nRUN --network=none echo hi >/x\n", "networkmode=none&t=localhost:1/made:1"
    )
    refused = "denied by the isolation policy"
    assert refused in build(daemon, ALICE, "FROM denied:1\nRUN --network=none true\n", "networkmode=none")
    assert refused in build(daemon, ALICE, "FROM busybox\nCOPY --from=denied:1 /bin/busybox /b\n")
    mounted = "FROM busybox\nRUN --network=none --mount=from=denied:1,target=/m true\n"
    assert refused in build(daemon, ALICE, mounted, "networkmode=none")
    assert refused in build(daemon, ALICE, "FROM busybox\nRUN id\n", "networkmode=host")
    assert "Successfully built" not in build(daemon, BOB, "FROM localhost:1/made:1\n")
    status, text = as_user(daemon, ALICE, "POST", "/sampan/vm/create", {"Name": "stolen", "Image": "denied:1"})
    assert (status, refused in text) == (403, True), text
    daemon.ok("rmi", "-f", "localhost:1/made:1")


def test_a_path_is_what_it_leads_to_when_it_is_mounted(tenants: tuple[Daemon, Path]) -> None:
    """T51, and its twin: a link that is another one by the time of the start."""
    daemon, top = tenants
    (top / "alice/data").mkdir(parents=True)
    (top / "alice/link").symlink_to("data")
    body: dict[str, Any] = {"Image": "busybox", "Cmd": ["sleep", "60"]}
    for source in ("../../../../etc", "etc"):
        mount = {"Type": "bind", "Source": source, "Target": "/x"}
        status, text = as_user(daemon, ALICE, "POST", "/containers/create", {**body, "HostConfig": {"Mounts": [mount]}})
        assert (status, "must be absolute" in text) == (400, True), text
    host = {"NetworkMode": "none", "Binds": [f"{top}/alice/link:/x"]}
    assert as_user(daemon, ALICE, "POST", "/containers/create?name=bound", {**body, "HostConfig": host})[0] == 200
    (top / "alice/link").unlink()
    (top / "alice/link").symlink_to("/etc")
    status, text = as_user(daemon, ALICE, "POST", "/containers/bound/start")
    assert (status, "/alice/link is the host's, and alice may not mount it" in text) == (403, True), text
    assert "/alice/link is the host's" in inspect(daemon, "bound")["State"]["Error"]
    assert "/etc" not in text  # where it leads the engine has looked up, and she may not be able to


def test_rules_are_asked_again_at_each_start(tenants: tuple[Daemon, Path]) -> None:
    daemon, top = tenants
    start(daemon, ALICE, "now")
    start(daemon, ALICE, "paused")
    assert as_user(daemon, ALICE, "POST", "/containers/paused/pause")[0] == 200
    more = "\n[[rule]]\nname = 'no more'\ntenant = 'alice'\nisolation = 'deny'\n"
    (top / "policy.toml").write_text(POLICY.format(top=top) + more)
    for method, path, body in (("POST", "/containers/now/restart?t=0", None), ("POST", "/containers/paused/unpause", None),
                               ("POST", "/containers/paused/exec", {"Cmd": ["id"]})):  # fmt: skip
        status, text = as_user(daemon, ALICE, method, path, body)
        assert (status, "rule 'no more': deny" in text) == (403, True), (path, status, text)
    assert "rule 'no more': deny" in inspect(daemon, "now")["State"]["Error"]
    assert not inspect(daemon, "now")["State"]["Running"]
    events = daemon.ok(
        "events", "--since", "1h", "--until", "0s", "--filter", "type=policy", "--format", "json"
    ).splitlines()
    last = json.loads(events[-1])
    assert (last["Action"], last["Actor"]["Attributes"]["tenant"]) == ("deny", "alice")


def test_a_tenant_may_manage_another(tenants: tuple[Daemon, Path]) -> None:
    daemon, top = tenants
    mine = start(daemon, ALICE, "mine")
    more = "\n[[tenant]]\nname = 'helpers'\nusers = ['4102']\nmanages = ['alice']\n"
    assert as_user(daemon, BOB, "GET", "/containers/mine/json")[0] == 404
    (top / "policy.toml").write_text(POLICY.format(top=top) + more)
    assert as_user(daemon, BOB, "GET", "/containers/mine/json")[1]["Id"] == mine
    assert as_user(daemon, BOB, "POST", "/containers/mine/kill")[0] == 200


def test_an_anonymous_volume_goes_with_whose_it_was(tenants: tuple[Daemon, Path]) -> None:
    daemon, _ = tenants
    body = {"Image": "busybox", "Cmd": ["true"], "Volumes": {"/data": {}}, "HostConfig": {"NetworkMode": "none"}}
    status, made = as_user(daemon, ALICE, "POST", "/containers/create", body)
    assert status == 200, made
    volume = inspect(daemon, made["Id"])["Mounts"][0]["Name"]
    assert as_user(daemon, BOB, "GET", f"/volumes/{volume}")[0] == 404
    assert as_user(daemon, ALICE, "GET", f"/volumes/{volume}")[0] == 200
    assert as_user(daemon, ALICE, "DELETE", f"/containers/{made['Id']}?v=1")[0] == 200
    # The name is free again: nothing remembers whose it was.
    assert as_user(daemon, BOB, "POST", "/volumes/create", {"Name": volume})[0] == 200
    assert as_user(daemon, BOB, "DELETE", f"/volumes/{volume}")[0] == 200


def test_what_a_container_has_of_others_is_asked_at_each_start(tenants: tuple[Daemon, Path]) -> None:
    """It has networks, volumes and other containers' namespaces by name or id; who may have them can change meanwhile."""
    daemon, top = tenants

    def create(uid: int, **host: Any) -> str:
        body = {"Image": "busybox", "Cmd": ["sleep", "300"], "HostConfig": {"NetworkMode": "none", **host}}
        status, found = as_user(daemon, uid, "POST", "/containers/create", body)
        assert status == 200, found
        return str(found["Id"])

    # A network's name is free again when the network is gone, and then it is whoever takes it.
    assert as_user(daemon, ALICE, "POST", "/networks/create", {"Name": "wandering"})[0] == 200
    mine = create(ALICE, NetworkMode="wandering")
    assert as_user(daemon, ALICE, "DELETE", "/networks/wandering")[0] == 200
    assert as_user(daemon, BOB, "POST", "/networks/create", {"Name": "wandering"})[0] == 200
    status, text = as_user(daemon, ALICE, "POST", f"/containers/{mine}/start")
    assert status == 403, text
    assert "network wandering, which container" in text
    assert as_user(daemon, BOB, "DELETE", "/networks/wandering")[0] == 200
    # What is another tenant's may be had by who manages that one, and no longer.
    policy = (top / "policy.toml").read_text()
    (top / "policy.toml").write_text(policy.replace("mounts =", f'manages = ["~{BOB}"]\nmounts ='))
    assert as_user(daemon, BOB, "POST", "/volumes/create", {"Name": "secret"})[0] == 200
    assert as_user(daemon, BOB, "POST", "/networks/create", {"Name": "inner"})[0] == 200
    try:
        theirs = create(BOB)
        assert as_user(daemon, BOB, "POST", f"/containers/{theirs}/start")[0] == 200
        having = [
            (create(ALICE, Binds=["secret:/s"]), "volume"),
            (create(ALICE, NetworkMode="inner"), "network"),
            *((create(ALICE, **{mode: f"container:{theirs}"}), "container") for mode in ("PidMode", "NetworkMode", "IpcMode")),
        ]  # fmt: skip
        running = create(ALICE, Binds=["secret:/s"])
        assert as_user(daemon, ALICE, "POST", f"/containers/{running}/start")[0] == 200
        (top / "policy.toml").write_text(policy)
        for identifier, kind in having:
            status, text = as_user(daemon, ALICE, "POST", f"/containers/{identifier}/start")
            assert (status, "is another tenant's" in text, kind in text) == (403, True, True), text
        assert as_user(daemon, ALICE, "GET", f"/containers/{having[0][0]}/archive?path=/s")[0] == 403
        assert as_user(daemon, ALICE, "POST", f"/containers/{running}/exec", {"Cmd": ["ls", "/s"]})[0] == 403
        assert as_user(daemon, ALICE, "POST", f"/containers/{running}/restart?t=0")[0] == 403
        daemon.http.call("POST", f"/containers/{theirs}/exec", {"Cmd": ["true"]})
    finally:
        for row in daemon.http.call("GET", "/containers/json?all=1"):
            daemon.http.call("DELETE", f"/containers/{row['Id']}?force=1")
        daemon.http.call("DELETE", "/volumes/secret")
        daemon.http.call("DELETE", "/networks/inner")
