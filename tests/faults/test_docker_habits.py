"""What clients of Docker's ask for is done or refused, never passed over: found by running theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sampan.client.http import APIError
from tests.conftest import Daemon


def run(daemon: Daemon, *args: str) -> str:
    return daemon.ok("run", "--rm", "--network", "none", *args)


def test_volumes_from(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("of the host")
    lender = daemon.ok(
        "create", "--network", "none", "-v", "lent:/named", "-v", "/anonymous", "-v", f"{tmp_path}:/bind:ro", "--tmpfs", "/own",
        "busybox", "true",
    ).strip()  # fmt: skip
    write = "echo kept | tee /named/a /anonymous/a; cat /bind/file; grep -c ' /own ' /proc/mounts"
    assert run(daemon, "--volumes-from", lender, "busybox", "sh", "-c", write + " || true") == "kept\nof the host0\n"
    assert run(daemon, "--volumes-from", lender, "busybox", "cat", "/named/a", "/anonymous/a") == "kept\nkept\n"
    for mode, path in (("", "/bind/x"), (":ro", "/named/x"), (":ro", "/anonymous/x")):
        done = daemon.sampan(
            "run", "--rm", "--network", "none", "--volumes-from", lender + mode, "busybox", "touch", path
        )
        assert b"Read-only file system" in done.stderr
    # What is asked for besides comes first, and an anonymous volume stays for as long as somebody has it.
    other = daemon.ok("create", "--volumes-from", lender, "-v", f"{tmp_path}:/named", "busybox", "true").strip()
    mounts = {row["Destination"]: row for row in daemon.http.call("GET", f"/containers/{other}/json")["Mounts"]}
    assert set(mounts) == {"/named", "/anonymous", "/bind"}
    assert mounts["/named"]["Source"] == str(tmp_path)
    daemon.ok("rm", "-v", lender)
    assert run(daemon, "--volumes-from", other, "busybox", "cat", "/anonymous/a") == "kept\n"
    daemon.ok("rm", "-v", other)
    with pytest.raises(APIError, match="no such volume"):
        daemon.http.call("GET", f"/volumes/{mounts['/anonymous']['Name']}")
    for text, why in (("nobody", b"No such container"), ("nobody:ro", b"No such container")):
        assert why in daemon.sampan("create", "--volumes-from", text, "busybox").stderr


def test_a_link_in_a_volume_may_be_a_subpath(daemon: Daemon) -> None:
    make = "mkdir -p /v/releases/7; echo seven > /v/releases/7/f; ln -s releases/7 /v/current; ln -s /etc /v/out; ln -s ../.. /v/up"
    run(daemon, "-v", "linked:/v", "busybox", "sh", "-c", make)
    of = "type=volume,src=linked,dst=/m,volume-subpath="
    assert run(daemon, "--mount", f"{of}current", "busybox", "cat", "/m/f") == "seven\n"
    for path in ("out", "up", "current/../../.."):
        done = daemon.sampan("run", "--rm", "--network", "none", "--mount", of + path, "busybox", "true")
        assert b"cannot access path" in done.stderr


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ({"Runtime": "kata"}, "unknown or invalid runtime name: kata"),
        (
            {"DeviceRequests": [{"Count": -1, "Capabilities": [["gpu"]]}]},
            r"could not select device driver .*\[\[gpu\]\]",
        ),
    ],
)
def test_what_nobody_can_give_is_refused(daemon: Daemon, host: dict[str, Any], why: str) -> None:
    with pytest.raises(APIError, match=why):
        daemon.http.call("POST", "/containers/create", {"Image": "busybox", "HostConfig": host})


def test_links_and_new_names(daemon: Daemon) -> None:
    """What a container is called by others: an alias of --link, wherever it is, and its name of now."""
    daemon.ok("network", "create", "renamed")
    try:
        for network, names in (("bridge", False), ("renamed", True)):
            target = daemon.ok("run", "-d", "--name", "target", "--network", network, "busybox", "sleep", "600").strip()
            linked: dict[str, Any] = {"Image": "busybox", "Cmd": ["sleep", "600"],
                                      "HostConfig": {"NetworkMode": network, "Links": ["target:web"]}}  # fmt: skip
            box = daemon.http.call("POST", "/containers/create?name=box", linked)["Id"]
            daemon.http.call("POST", f"/containers/{box}/start")
            daemon.ok("exec", box, "ping", "-c1", "-W5", "web")
            daemon.ok("rename", "target", "other")
            daemon.ok("exec", box, "ping", "-c1", "-W5", "other")
            if names:
                assert daemon.sampan("exec", box, "ping", "-c1", "-W5", "target").returncode
                places = daemon.http.call("GET", f"/networks/{network}")["Containers"]
                assert places[target]["Name"] == "other"
            daemon.ok("stop", "-t", "0", target)
            taken = daemon.ok("run", "-d", "--network", network, "busybox", "sleep", "600").strip()
            daemon.ok("start", target)
            daemon.ok("exec", box, "ping", "-c1", "-W5", "web")
            assert daemon.http.call("GET", f"/containers/{box}/json")["HostConfig"]["Links"] == ["/other:/box/web"]
            daemon.ok("rm", "-f", target, box, taken)
    finally:
        daemon.ok("network", "rm", "renamed")


PING = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as echo, socket.socket() as web:
    echo.settimeout(5)
    echo.sendto(bytes([8, 0, 0, 0, 0, 0, 0, 1]), ("127.0.0.1", 0))
    web.bind(("127.0.0.1", 80))
    print(echo.recv(100)[0], web.getsockname()[1])
"""


def test_users_may_ping_and_listen_in_a_network_of_the_containers_own(daemon: Daemon) -> None:
    read = ("busybox", "sh", "-c", "cd /proc/sys/net/ipv4; cat ping_group_range ip_unprivileged_port_start")
    theirs = "0\t2147483647\n0\n"
    user = ("-u", "1000:1000", "--cap-drop", "ALL")
    for _ in range(2):  # the second one is made ahead
        assert run(daemon, *read) == theirs
        assert daemon.ok("run", "--rm", *read) == theirs
    assert run(daemon, "--sysctl", "net.ipv4.ip_unprivileged_port_start=80", *read) == "0\t2147483647\n80\n"
    usr = [word for path in ("/usr", "/lib", "/lib64") if Path(path).is_dir() for word in ("-v", f"{path}:{path}:ro")]
    for network in ("none", "bridge"):
        options = (
            "run",
            "--rm",
            "--network",
            network,
            *user,
            *usr,
            "busybox",
            "/usr/bin/python3",
            "-I",
            "-S",
            "-c",
            PING,
        )
        assert daemon.ok(*options) == "0 80\n"  # an echo's reply, and where it listens
    # Of the host's nothing is changed, and of another's what that one has.
    ours = "".join(
        Path(f"/proc/sys/net/ipv4/{name}").read_text() for name in ("ping_group_range", "ip_unprivileged_port_start")
    )
    assert daemon.ok("run", "--rm", "--network", "host", *read) == ours != theirs
    lender = daemon.ok("run", "-d", "--sysctl", "net.ipv4.ping_group_range=7 8", "busybox", "sleep", "60").strip()
    assert daemon.ok("run", "--rm", "--network", f"container:{lender}", *read) == "7\t8\n0\n"
    daemon.ok("rm", "-f", lender)


def test_the_runtime_is_named(daemon: Daemon) -> None:
    default = daemon.http.call("GET", "/info")["DefaultRuntime"]
    for wanted, shown in ((None, default), ("", default), ("runc", "runc")):
        body = {"Image": "busybox", "HostConfig": {} if wanted is None else {"Runtime": wanted}}
        made = daemon.http.call("POST", "/containers/create", body)["Id"]
        host = daemon.http.call("GET", f"/containers/{made}/json")["HostConfig"]
        assert host["Runtime"] == shown
        again = daemon.http.call("POST", "/containers/create", {"Image": "busybox", "HostConfig": host})["Id"]
        for each in (made, again):
            daemon.http.call("DELETE", f"/containers/{each}")
