"""Cases of public bug reports by their number in the list of cases; those about one command live beside it."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import pty
import select
import shutil
import signal
import socket
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sampan.client.http import APIError, query
from tests.conftest import Daemon, eventually
from tests.support.commands import NONE


def processes(daemon: Daemon, name: str) -> list[str]:
    return [row[-1] for row in daemon.http.call("GET", f"/containers/{name}/top")["Processes"]]


def test_p041_an_exec_can_be_ended_with_all_it_started(daemon: Daemon) -> None:
    daemon.ok("run", "-d", *NONE, "--name", "box", "busybox", "sleep", "1000")
    body = {"Cmd": ["sh", "-c", "sleep 2000 & (sleep 3000 &) ; sleep 4000; true"], "AttachStdout": True}
    identifier = daemon.http.call("POST", "/containers/box/exec", body)["Id"]
    daemon.http.call("POST", f"/exec/{identifier}/start", {"Detach": True})
    eventually(lambda: len(processes(daemon, "box")) == 5)
    daemon.http.call("POST", f"/exec/{identifier}/kill")
    eventually(lambda: processes(daemon, "box")[:1] == ["sleep 1000"] and not _alive(daemon, ("2000", "3000", "4000")))
    # The processes are gone a moment before the keeper tells of it.
    eventually(lambda: daemon.http.call("GET", f"/exec/{identifier}/json")["ExitCode"] == 137)
    with pytest.raises(APIError, match="is not running") as error:
        daemon.http.call("POST", f"/exec/{identifier}/kill")
    assert error.value.status == 409


def _alive(daemon: Daemon, words: tuple[str, ...]) -> list[str]:
    return [line for line in processes(daemon, "box") if any(word in line for word in words)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_p041_the_end_of_a_client_and_its_exec(daemon: Daemon, number: int) -> None:
    daemon.ok("run", "-d", *NONE, "--name", "box", "busybox", "sleep", "1000")
    for flags, survives in (([], True), (["--kill-on-disconnect"], False)):
        client = subprocess.Popen(["sampan", "exec", *flags, "box", "sleep", "2000"], env=daemon.env)
        eventually(lambda: bool(_alive(daemon, ("2000",))))
        client.send_signal(number)
        client.wait(10)
        if survives:
            time.sleep(0.5)
            assert _alive(daemon, ("2000",))
            subprocess.run(["pkill", "-f", "^sleep 2000"], check=True)
        eventually(lambda: not _alive(daemon, ("2000",)))


def test_p045_probes_leave_no_zombies_with_init(daemon: Daemon) -> None:
    daemon.ok("run", "-d", *NONE, "--init", "--name", "box", "--health-cmd", "sleep 0.1 & true", "--health-interval", "200ms",
              "busybox", "sleep", "1000")  # fmt: skip
    time.sleep(4)
    pid = json.loads(daemon.ok("inspect", "box"))[0]["State"]["Pid"]
    time.sleep(0.3)
    states = daemon.ok("exec", "box", "sh", "-c", "grep -hs ^State /proc/[0-9]*/status; true").split("\n")
    assert not [line for line in states if "zombie" in line]
    os.kill(pid, signal.SIGTERM)
    assert daemon.ok("wait", "box").strip() == "143"


@pytest.fixture
def mountpoint(tmp_path: Path) -> Iterator[Path]:
    """A directory that is a mount of its own, shared with its peers."""
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tmp_path], check=True)
    subprocess.run(["mount", "--make-shared", tmp_path], check=True)
    yield tmp_path
    subprocess.run(["umount", "-R", "-l", tmp_path], check=True)


def test_p075_propagation(daemon: Daemon, mountpoint: Path) -> None:
    (mountpoint / "later").mkdir()
    for mode in ("rslave", "rprivate", "rshared"):
        daemon.ok("run", "-d", *NONE, "--name", mode, "-v", f"{mountpoint}:/m:{mode}", "--cap-add", "SYS_ADMIN",
                  "--security-opt", "seccomp=unconfined", "busybox", "sleep", "100")  # fmt: skip
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", mountpoint / "later"], check=True)
    (mountpoint / "later/file").touch()
    assert daemon.ok("exec", "rslave", "ls", "/m/later") == "file\n"
    assert daemon.ok("exec", "rshared", "ls", "/m/later") == "file\n"
    assert daemon.ok("exec", "rprivate", "ls", "/m/later") == ""
    daemon.ok("exec", "rshared", "sh", "-c", "mkdir /m/back && mount -t tmpfs none /m/back && touch /m/back/seen")
    assert (mountpoint / "back/seen").exists()
    daemon.ok("exec", "rslave", "sh", "-c", "mkdir /m/own && mount -t tmpfs none /m/own && touch /m/own/seen")
    assert not (mountpoint / "own/seen").exists()


def test_p075_shared_needs_a_shared_source(daemon: Daemon, mountpoint: Path) -> None:
    subprocess.run(["mount", "--make-private", mountpoint], check=True)
    done = daemon.sampan("run", "--rm", *NONE, "-v", f"{mountpoint}:/m:rshared", "busybox", "true")
    assert done.returncode == 125
    assert f"path {mountpoint} is mounted on {mountpoint} but it is not a shared mount".encode() in done.stderr


def test_p075_nested_mounts_and_read_only_ones(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "x/y").mkdir(parents=True)
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner/f").write_text("inner")
    done = daemon.ok(
        "run", "--rm", *NONE, "-v", f"{tmp_path}/inner:/x/y", "-v", f"{tmp_path}/x:/x", "busybox", "cat", "/x/y/f"
    )
    assert done == "inner"
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tmp_path / "x/y"], check=True)
    try:
        done = daemon.ok("run", "--rm", *NONE, "-v", f"{tmp_path}/x:/x:ro", "busybox", "sh", "-c",
                         "touch /x/a; touch /x/y/a; true")  # fmt: skip
        assert not (tmp_path / "x/y/a").exists()
    finally:
        subprocess.run(["umount", tmp_path / "x/y"], check=True)
    assert daemon.ok("run", "--rm", *NONE, "-v", "/:/host:ro", "busybox", "ls", "-d", "/host/etc") == "/host/etc\n"
    (tmp_path / "ro").mkdir()
    done = daemon.sampan(
        "run", "--rm", *NONE, "-v", f"{tmp_path}/ro:/r:ro", "-v", f"{tmp_path}/inner:/r/deep", "busybox", "true"
    )
    assert done.returncode in (125, 127)
    assert b"/r/deep" in done.stderr
    assert b"ead-only file system" in done.stderr


def test_p080_log_options(daemon: Daemon) -> None:
    daemon.sampan("run", *NONE, "--name", "box", "busybox", "sh", "-c",
              "echo one; sleep 0.3; echo two >&2; sleep 0.3; printf 'a\\000\\377b\\nlast'")  # fmt: skip
    lines = daemon.run("sampan", "logs", "--timestamps", "box").stdout.splitlines()
    stamp = lines[0].split(b" ")[0].decode() if b"one" in lines[0] else ""
    out = daemon.sampan("logs", "box")
    assert out.stdout == b"one\na\x00\xffb\nlast"
    assert out.stderr == b"two\n"
    logs = "/containers/box/logs"
    http = daemon.http
    with pytest.raises(APIError, match="at least one stream") as error:
        http.send("GET", f"{logs}?follow=0")
    assert error.value.status == 400

    def frames(**options: object) -> bytes:
        return b"".join(data for _, data in http.send("GET", logs + query(stdout=1, stderr=1, **options)).frames())

    assert frames() == b"one\ntwo\na\x00\xffb\nlast"
    assert frames(tail=0) == b""
    assert frames(tail="all") == frames()
    assert frames(tail=2) == b"a\x00\xffb\nlast"
    assert frames(since=stamp) == frames()
    whole, _, fraction = stamp.rstrip("Z").partition(".")
    seconds = int(time.mktime(time.strptime(whole, "%Y-%m-%dT%H:%M:%S")) - time.timezone)
    assert frames(since=f"{seconds}.{fraction}") == frames()
    assert frames(until=f"{seconds}.{fraction}") == b"one\n"
    later = f"{seconds}.{int(fraction) // 10**9:09d}"
    assert frames(since="10m", until=str(seconds + 3600), tail=1) == b"last"
    assert frames(since=str(seconds + 3600)) == b""
    assert frames(follow=1, tail=1) == b"last"
    assert later
    for bad in ("since=x", "until=1.2.3"):
        with pytest.raises(APIError, match="failed to parse") as error:
            http.send("GET", f"{logs}?stdout=1&{bad}")
        assert error.value.status == 400


def test_p080_log_drivers(daemon: Daemon) -> None:
    daemon.ok("run", *NONE, "--name", "none", "--log-driver", "none", "busybox", "echo", "hi")
    done = daemon.sampan("logs", "none")
    assert done.returncode == 1
    assert b"configured logging driver does not support reading" in done.stderr
    daemon.ok("run", *NONE, "--name", "local", "--log-driver", "local", "busybox", "echo", "hi")
    assert daemon.ok("logs", "local") == "hi\n"
    done = daemon.sampan("create", *NONE, "--log-driver", "gelf", "busybox", "true")
    assert done.returncode == 1
    assert b"gelf" in done.stderr


def test_p081_logs_end_with_the_run_they_follow(daemon: Daemon) -> None:
    daemon.ok("run", "-d", *NONE, "--name", "box", "busybox", "sh", "-c", "echo begun; sleep 100")
    follower = subprocess.Popen(["sampan", "logs", "-f", "box"], env=daemon.env, stdout=subprocess.PIPE)
    time.sleep(0.5)
    daemon.ok("restart", "-t", "0", "box")
    out, _ = follower.communicate(timeout=20)
    assert out == b"begun\n"
    eventually(lambda: daemon.ok("logs", "box") == "begun\nbegun\n")


def test_p082_a_full_log_directory_stops_no_container(own_daemon: Daemon) -> None:
    own_daemon.ok("create", *NONE, "--name", "box", "busybox", "sh", "-c",
                  "head -c 4000000 /dev/zero; echo end >/done; sleep 100")  # fmt: skip
    identifier = json.loads(own_daemon.ok("inspect", "box"))[0]["Id"]
    logs = own_daemon.root / f"data/containers/{identifier}/log"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", logs], check=True)
    try:
        own_daemon.ok("start", "box")
        eventually(lambda: own_daemon.sampan("exec", "box", "cat", "/done").stdout == b"end\n")
        before = _cpu_seconds(own_daemon.keeper_pid())
        time.sleep(1)
        assert _cpu_seconds(own_daemon.keeper_pid()) - before < 0.3
        kept = own_daemon.sampan("logs", "box").stdout
        assert 0 < len(kept) <= 1 << 20
        assert set(kept) == {0}
        said = (own_daemon.root / "run/keeper.sock.log").read_text()
        assert said.count(f"no space for the log of {identifier}") == 1
    finally:
        subprocess.run(["umount", "-l", logs], check=True)


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_p090_another_mount_namespace_does_not_hold_a_container(daemon: Daemon) -> None:
    daemon.ok("run", "-d", *NONE, "--name", "box", "busybox", "sleep", "1000")
    pid = json.loads(daemon.ok("inspect", "box"))[0]["State"]["Pid"]
    holder = subprocess.Popen(["nsenter", "-t", str(pid), "-m", "-r", "/bin/sh", "-c", "sleep 1000"])
    other = subprocess.Popen(["unshare", "-m", "--propagation", "private", "sleep", "1000"])
    try:
        time.sleep(0.3)
        daemon.ok("rm", "-f", "box")
        daemon.ok("run", "--rm", *NONE, "--name", "box", "busybox", "true")
    finally:
        for process in (holder, other):
            process.kill()
            process.wait()
    subprocess.run(["pkill", "-f", "^sleep 1000"], check=False)
    eventually(lambda: not os.listdir(daemon.root / "data/trash"))


def _raw(daemon: Daemon, data: bytes, until: Callable[[bytes], bool]) -> bytes:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(daemon.socket)
        with contextlib.suppress(BrokenPipeError):
            sock.sendall(data)
        seen = b""
        while not until(seen):
            part = sock.recv(65536)
            if not part:
                break
            seen += part
        return seen


def test_p113_http_shapes(daemon: Daemon) -> None:
    ping = b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n"
    assert _raw(daemon, ping * 3, lambda seen: seen.count(b"\r\n\r\nOK") == 3).count(b"200 OK") == 3
    old = _raw(daemon, b"GET /_ping HTTP/1.0\r\n\r\n", lambda seen: False)
    assert old.endswith(b"\r\n\r\nOK")
    body = b'{"Image":"busybox","Cmd":["true"],"HostConfig":{"NetworkMode":"none"}}'
    head = (b"POST /v1.43/containers/create HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n")  # fmt: skip
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(daemon.socket)
        sock.sendall(head)
        assert sock.recv(100).startswith(b"HTTP/1.1 100")
        sock.sendall(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        assert b" 201 " in sock.recv(4096)


def test_s013_sysctls_go_to_a_private_proc(daemon: Daemon, isolation: str) -> None:
    """A volume shared with a racing container cannot turn the write of a sysctl to another file."""
    daemon.ok("volume", "create", "shared")
    script = "cd /v; while :; do rm -rf proc; mkdir proc; rm -rf proc; ln -s /v/trap proc; done"
    daemon.ok("run", "-d", *NONE, "--name", "racer", "-v", "shared:/v", "busybox", "sh", "-c", script)
    for _ in range(15 if isolation == "container" else 3):  # a guest has a second's start, and the race in it
        done = daemon.sampan("run", "--rm", *NONE, "-v", "shared:/v", "--sysctl", "kernel.msgmax=7777", "busybox",
                             "cat", "/proc/sys/kernel/msgmax")  # fmt: skip
        assert done.stdout == b"7777\n", done.stderr
    daemon.ok("rm", "-f", "racer")
    done = daemon.sampan("run", "--rm", *NONE, "--sysctl", "kernel.sysrq=1", "busybox", "true")
    assert b"kernel.sysrq" in done.stderr
    assert done.returncode == 125


def _bomb(path: Path, megabytes: int) -> None:
    """A docker-archive whose one layer is zeros."""
    layer = io.BytesIO()
    with gzip.GzipFile(fileobj=layer, mode="wb", compresslevel=9) as packed:
        info = tarfile.TarInfo("zeros")
        info.size = megabytes << 20
        packed.write(info.tobuf())
        for _ in range(megabytes):
            packed.write(bytes(1 << 20))
        packed.write(bytes(1024))
    config = json.dumps(
        {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": ["sha256:" + "0" * 64]}}
    )
    with tarfile.open(path, "w") as tar:
        for name, data in (("layer.tar", layer.getvalue()), ("config.json", config.encode()),
                           ("manifest.json", b'[{"Config":"config.json","RepoTags":["bomb:1"],"Layers":["layer.tar"]}]')):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def test_s020_a_bomb_stops_before_the_disk_is_full(own_daemon: Daemon, tmp_path: Path) -> None:
    _bomb(tmp_path / "bomb.tar", 600)
    assert (tmp_path / "bomb.tar").stat().st_size < 1 << 20
    images = own_daemon.root / "data/images"
    own_daemon.stop()
    backup = tmp_path / "images"
    subprocess.run(["cp", "-a", images, backup], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128m", "tmpfs", images], check=True)
    try:
        subprocess.run(["cp", "-a", f"{backup}/.", images], check=True)
        own_daemon.start()
        free = os.statvfs(images).f_bavail
        done = own_daemon.sampan("load", "-i", str(tmp_path / "bomb.tar"))
        assert done.returncode == 1
        assert b"no space left on device" in done.stderr
        assert os.statvfs(images).f_bavail >= free - 256
        assert own_daemon.ok("run", "--rm", *NONE, "busybox", "echo", "on") == "on\n"
        own_daemon.stop()
    finally:
        subprocess.run(["umount", "-l", images], check=True)
        own_daemon.start()


def test_s038_slow_clients_cost_nobody_else(daemon: Daemon) -> None:
    """Readers that do not read, headers that do not end: memory stays, others are served."""
    assert daemon.process is not None
    daemon.ok("run", "-d", *NONE, "--name", "box", "busybox", "sleep", "1000")
    with contextlib.ExitStack() as stack:

        def connect(data: bytes) -> socket.socket:
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.connect(daemon.socket)
            sock.sendall(data)
            return sock

        for _ in range(100):
            connect(b"GET /_ping HTTP/1.1\r\nHost: x\r\nX-Slow: ")
            connect(
                b"POST /containers/box/attach?stream=1&stdout=1 HTTP/1.1\r\nHost: x\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\n"
            )
        connect(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
        body = {"Cmd": ["sh", "-c", "cat /dev/zero"], "AttachStdout": True}
        identifier = daemon.http.call("POST", "/containers/box/exec", body)["Id"]
        start = b'{"Detach":false,"Tty":false}'
        connect(b"POST /exec/%b/start HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
                % (identifier.encode(), len(start), start))  # fmt: skip
        time.sleep(1)
        before = _rss(daemon.process.pid)
        slowest = 0.0
        for _ in range(20):
            began = time.monotonic()
            daemon.http.call("GET", "/containers/json?all=1")
            slowest = max(slowest, time.monotonic() - began)
            time.sleep(0.1)
        assert slowest < 1
        assert _rss(daemon.process.pid) - before < 30 << 20
    huge = _raw(
        daemon,
        b"GET /_ping HTTP/1.1\r\nHost: x\r\nX-Big: " + b"a" * (1 << 20) + b"\r\n\r\n",
        lambda seen: b"\r\n\r\n" in seen,
    )
    assert huge.split(b" ")[1] in (b"400", b"431")
    daemon.ok("rm", "-f", "box")


def _rss(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def test_detach_keys_through_a_terminal(daemon: Daemon) -> None:
    """run, attach and exec by the docker CLI (or ours where it is missing): the container goes on."""
    program = "docker" if shutil.which("docker") else "sampan"
    name = "detached"

    def converse(*command: str, send: bytes, wait_for: bytes) -> tuple[int, bytes]:
        master, slave = pty.openpty()
        process = subprocess.Popen([program, *command], env=daemon.env, stdin=slave, stdout=slave, stderr=slave)
        os.close(slave)
        seen, sent, deadline = b"", False, time.monotonic() + 20
        while process.poll() is None and time.monotonic() < deadline:
            if select.select([master], [], [], 0.1)[0]:
                with contextlib.suppress(OSError):
                    seen += os.read(master, 4096)
            if wait_for in seen and not sent:
                time.sleep(0.2)
                os.write(master, send)
                sent = True
        os.close(master)
        assert process.poll() is not None, seen
        return process.returncode, seen

    shell = "echo ready; while read line; do echo got $line; done"
    code, _ = converse("run", "-it", "--network", "none", "--name", name, "busybox", "sh", "-c", shell,
                       send=b"\x10\x11", wait_for=b"ready")  # fmt: skip
    assert code == 0
    assert daemon.ok("ps", "--format", "{{.Names}}") == f"{name}\n"
    sender = threading.Timer(1.0, lambda: None)
    sender.start()
    code, _ = converse("attach", "--detach-keys", "ctrl-a,x", name, send=b"word\n\x01x", wait_for=b"")
    assert code in (0, 1)
    eventually(lambda: "got word" in daemon.ok("logs", name))
    code, _ = converse("exec", "-it", name, "sh", "-c", "echo in; sleep 100", send=b"\x10\x11", wait_for=b"in")
    assert code in (0, 1)
    assert any("sleep 100" in line for line in processes(daemon, name))
    sender.join()
