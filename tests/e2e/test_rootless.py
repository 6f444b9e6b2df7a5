"""An engine of an ordinary user: containers, networks and published ports without root (P068, S014)."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.vm import kernel
from tests.conftest import BIN, VM_CACHE, Daemon, eventually
from tests.support import everyday
from tests.support.network_site import HOST, HOST6, OUTSIDE, OUTSIDE6, Site

USER = "sampan-test"


class RootlessSite(Site):
    """The site, with a daemon that an ordinary user runs."""

    def new_daemon(self) -> Daemon:
        user = pwd.getpwnam(USER)
        root = Path(tempfile.mkdtemp(prefix="sampan-test-"))
        os.chown(root, user.pw_uid, user.pw_gid)
        prefix = ["nsenter", "-t", str(self.host), "-n", "setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}",
                  "--clear-groups", "env", f"HOME={root}"]  # fmt: skip
        return Daemon(root, prefix=prefix)


@pytest.fixture(scope="module")
def site() -> Iterator[RootlessSite]:
    subprocess.run(["useradd", "-m", USER], check=True, capture_output=True)
    mode = stat.S_IMODE(os.stat("/dev/net/tun").st_mode)
    os.chmod("/dev/net/tun", 0o666)  # as udev has it
    try:
        site = RootlessSite()
        yield site
        site.close()
        eventually(lambda: not _processes())
    finally:
        os.chmod("/dev/net/tun", mode)
        subprocess.run(["userdel", "-r", USER], check=True, capture_output=True)


@pytest.fixture
def daemon(site: RootlessSite) -> Iterator[Daemon]:
    yield site.daemon
    for row in site.daemon.http.call("GET", "/containers/json?all=1"):
        site.daemon.http.call("DELETE", f"/containers/{row['Id']}?force=1&v=1")


def _processes() -> list[str]:
    """The user's processes that are not waiting to be reaped."""
    listed = subprocess.run(["ps", "-u", USER, "-o", "stat=,args="], capture_output=True, text=True, check=False).stdout
    return [line for line in listed.splitlines() if not line.startswith("Z")]


def test_a_container_and_its_users(daemon: Daemon) -> None:
    script = "id -u; touch /mine; su -s /bin/sh nobody -c 'id -u; touch /tmp/x'; echo x >/dev/null; ls /sys/fs/cgroup"
    out = daemon.ok("run", "--rm", "--tmpfs", "/tmp:mode=1777", "busybox", "sh", "-c", script)
    assert out.split() == ["0", "65534"]


def test_everyday_images(daemon: Daemon) -> None:
    everyday.modes_of_what_is_made(daemon)
    everyday.modes_of_tmpfs(daemon)
    everyday.streams_of_a_user(daemon)
    everyday.streams_of_further_processes(daemon)
    everyday.files_copied_before_the_start(daemon)


def test_files_that_the_user_names(daemon: Daemon) -> None:
    """A context, an output and a disk of the user's own; what it may not read stays so."""

    def own(*args: str) -> subprocess.CompletedProcess[bytes]:
        command = [*daemon.prefix, str(BIN / "sampan"), *args]
        return subprocess.run(command, env=daemon.env, cwd="/", capture_output=True, timeout=60)

    user, top = pwd.getpwnam(USER), daemon.root / "context"
    top.mkdir()
    (top / "Dockerfile").write_text("FROM busybox\nCOPY file /file\nRUN test -s /file\n")
    (top / "file").write_text("x")
    (top / "disk").write_bytes(bytes(1 << 20))
    for path in (top, *top.iterdir()):
        os.chown(path, user.pw_uid, user.pw_gid)
    done = own("build", "--network", "none", "-o", str(top / "out"), str(top))
    assert done.returncode == 0, done.stderr
    assert (top / "out/file").read_text() == "x"
    done = own("vm", "create", "--disk", str(top / "disk"), "machine")
    assert done.returncode == 0, done.stderr
    daemon.http.call("DELETE", "/sampan/vm/machine?force=1")
    done = own("vm", "create", "--disk", "/etc/shadow", "machine")
    assert (done.returncode, b"permission denied" in done.stderr) == (1, True), done.stderr


def test_root_inside_is_the_user_outside(daemon: Daemon) -> None:
    user = pwd.getpwnam(USER)
    share = daemon.root / "share"
    share.mkdir()
    os.chown(share, user.pw_uid, user.pw_gid)
    daemon.ok(
        "run",
        "--rm",
        "-v",
        f"{share}:/share",
        "busybox",
        "sh",
        "-c",
        "touch /share/a; chown 7:7 /share/a; touch /share/b",
    )
    first = next(
        int(line.split(":")[1]) for line in Path("/etc/subuid").read_text().splitlines() if line.startswith(USER)
    )
    assert (share / "a").stat().st_uid == first + 6
    assert (share / "b").stat().st_uid == user.pw_uid
    # What only the machine's root may read, its root may not.
    done = daemon.sampan("run", "--rm", "-v", "/etc/shadow:/s", "busybox", "cat", "/s")
    assert b"Permission denied" in done.stderr
    done = daemon.sampan("run", "--rm", "--privileged", "-v", "/:/host", "busybox", "touch", "/host/root/x")
    assert done.returncode != 0
    assert not Path("/root/x").exists()


def test_setgroups_and_keys(daemon: Daemon) -> None:
    """S014: the ids are the user's own ranges and no more."""
    out = daemon.ok("run", "--rm", "busybox", "cat", "/proc/self/uid_map").split()
    assert out[1] == str(pwd.getpwnam(USER).pw_uid)
    assert out[2] == "1"
    done = daemon.sampan("run", "--rm", "busybox", "chown", "4000000", "/tmp")
    assert done.returncode != 0


def test_exec_logs_cp_top_and_stop(daemon: Daemon) -> None:
    daemon.ok("run", "-d", "--name", "box", "busybox", "sh", "-c", "echo started; exec sleep 600")
    assert daemon.ok("exec", "box", "id", "-u") == "0\n"
    assert daemon.ok("exec", "-t", "box", "tty").strip().startswith("/dev/pts/")
    eventually(lambda: daemon.ok("logs", "box") == "started\n")
    (daemon.root / "file").write_text("x")
    daemon.ok("cp", str(daemon.root / "file"), "box:/file")
    assert "A /file" in daemon.ok("diff", "box")
    assert "sleep 600" in daemon.ok("top", "box")
    daemon.ok("stop", "-t", "0", "box")
    assert json.loads(daemon.ok("inspect", "box"))[0]["State"]["ExitCode"] == 137


def test_limits_that_it_has_no_control_groups_for(daemon: Daemon) -> None:
    done = daemon.sampan("run", "--rm", "-m", "64m", "busybox", "true")
    assert done.returncode == 0
    assert b"memory" in done.stderr
    daemon.ok("run", "-d", "--name", "box", "busybox", "sleep", "600")
    done = daemon.sampan("pause", "box")
    assert done.returncode != 0
    assert b"control groups" in done.stderr
    assert '"name=rootless"' in json.dumps(daemon.http.call("GET", "/info")["SecurityOptions"])


def test_names_and_isolation(site: RootlessSite, daemon: Daemon) -> None:
    daemon.ok("network", "create", "one")
    try:
        daemon.ok(
            "run", "-d", "--name", "server", "--network", "one", "busybox", "httpd", "-f", "-p", "80", "-h", "/etc"
        )
        assert "server" in daemon.ok("run", "--rm", "--network", "one", "busybox", "nslookup", "server")
        assert "localhost" in daemon.ok(
            "run", "--rm", "--network", "one", "busybox", "wget", "-qO-", "http://server/hosts"
        )
        address = site.address("server", "one")
        done = daemon.sampan("run", "--rm", "busybox", "wget", "-T", "1", "-qO-", f"http://{address}/hosts")
        assert done.returncode != 0
    finally:
        daemon.ok("rm", "-f", "server")
        daemon.ok("network", "rm", "one")


@pytest.mark.parametrize("network", ["bridge", "own"])
def test_published_ports_show_the_clients_address(site: RootlessSite, daemon: Daemon, network: str) -> None:
    """P068: default and user-defined network, TCP and UDP, IPv4 and IPv6."""
    if network == "own":
        daemon.ok("network", "create", "--ipv6", "--subnet", "fd77::/64", "own")
    pid = site.container("web", "-p", "8080:80", "-p", "8080:80/udp", "--network", network)
    with site.server(pid, 80):
        for kind in ("tcp", "udp"):
            assert site.reach(site.outside, kind, HOST, 8080) == OUTSIDE
            assert site.reach(site.host, kind, HOST, 8080) != "no"
            assert site.reach(site.host, kind, "127.0.0.1", 8080) != "no"
        if network == "own":
            assert site.reach(site.outside, "tcp", HOST6, 8080) == OUTSIDE6
        # Another container reaches it by the gateway of its own network.
        other = site.container("other")
        gateway = site.address("other", key="Gateway")
        assert site.reach(other, "tcp", gateway, 8080) != "no"
    daemon.ok("rm", "-f", "web")
    assert site.reach(site.outside, "tcp", HOST, 8080) == "no"
    if network == "own":
        daemon.ok("network", "rm", "own")


def test_the_way_out(site: RootlessSite, daemon: Daemon) -> None:
    with site.server(site.outside, 7000):
        pid = site.container("client")
        assert site.reach(pid, "tcp", OUTSIDE, 7000) == HOST
    # slirp4netns must not lead to what listens on the host's loopback only (S033).
    with site.server(site.host, 7001):
        assert site.reach(pid, "tcp", "10.0.2.2", 7001) == "no"


def test_a_port_that_is_taken_or_reserved(site: RootlessSite, daemon: Daemon) -> None:
    with site.server(site.host, 8090):
        done = daemon.sampan("run", "--rm", "-p", f"{HOST}:8090:80", "busybox", "true")
        assert done.returncode == 125
        assert b"8090" in done.stderr
    done = daemon.sampan("run", "--rm", "-p", "81:80", "busybox", "true")
    assert done.returncode == 125
    assert b"ip_unprivileged_port_start" in done.stderr


def test_containers_survive_sampand(site: RootlessSite, daemon: Daemon) -> None:
    pid = site.container("web", "-p", "8081:80")
    daemon.kill()
    time.sleep(0.2)
    daemon.start()
    assert site.pid("web") == pid
    with site.server(pid, 80):
        assert site.reach(site.outside, "tcp", HOST, 8081) == OUTSIDE
    assert daemon.ok("exec", "web", "echo", "here") == "here\n"
    site.daemon.ok("rm", "-f", "web")


def test_the_socket_is_the_users(daemon: Daemon) -> None:
    """S033"""
    info = os.stat(daemon.socket)
    assert info.st_uid == pwd.getpwnam(USER).pw_uid
    assert stat.S_IMODE(info.st_mode) & 0o007 == 0


def _give_kernel(daemon: Daemon) -> None:
    """The site has no way to the distribution's packages: it gets the kernel that other tests have fetched."""
    VM_CACHE.mkdir(mode=0o700, exist_ok=True)
    found = kernel.find(str(VM_CACHE)) or kernel.fetch(str(VM_CACHE))
    target = daemon.root / "data/vm/kernel" / found.release
    if target.exists():
        return
    shutil.copytree(VM_CACHE / "kernel" / found.release, target, symlinks=True)
    subprocess.run(["chown", "-R", USER, daemon.root / "data/vm/kernel"], check=True)


def test_a_virtual_machine(daemon: Daemon) -> None:
    """An ordinary user's machines: a kernel of their own, the engine's network, names and volumes."""
    _give_kernel(daemon)
    daemon.ok("vm", "prepare", timeout=250)
    daemon.ok(
        "run", "-d", "--name", "box", "--isolation", "vm", "-v", "data:/data", "busybox", "sleep", "600", timeout=200
    )
    assert daemon.ok("exec", "box", "uname", "-r").strip() != os.uname().release
    daemon.ok("exec", "box", "sh", "-c", "echo x > /data/file; echo y > /file")
    address = json.loads(daemon.ok("inspect", "box"))[0]["NetworkSettings"]["IPAddress"]
    assert "1 packets received" in daemon.ok("run", "--rm", "busybox", "ping", "-c", "1", "-W", "5", address)
    assert daemon.ok("run", "--rm", "-v", "data:/data", "busybox", "cat", "/data/file") == "x\n"
    assert "A /file" in daemon.ok("diff", "box")
    daemon.ok("stop", "-t", "0", "box")


def test_the_page_is_on_the_host(site: RootlessSite, daemon: Daemon) -> None:
    """The engine is in a network namespace of its own, whose loopback nobody's browser reaches."""
    url = daemon.ok("ui").strip()
    ask = f"import urllib.request; print(urllib.request.urlopen({url.partition('#')[0]!r}).read().decode())"
    done = subprocess.run(["nsenter", "-t", str(site.host), "-n", "python3", "-c", ask], capture_output=True, text=True)
    assert "<title>Sampan</title>" in done.stdout, done.stderr
    daemon.ok("ui", "--off")


def test_a_comparison(daemon: Daemon) -> None:
    _give_kernel(daemon)
    daemon.ok("vm", "prepare", timeout=250)
    command = ["sampan", "compare", "--rounds", "1", "--starts", "2", "--instances", "2", "--format", "json", "busybox"]
    done = subprocess.run([*daemon.prefix, *command], env=daemon.env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    middle = {(key, kind): each["median"] for key, row in found["measures"].items() for kind, each in row.items()}
    assert middle["start.warm", "container"] < middle["start.warm", "vm"]
    assert middle["net.latency", "container"] > 0
    assert any("only root can drop" in text for text in found["notes"])
