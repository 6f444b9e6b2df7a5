"""Attacks, each tried for real (cases S001 to S049 and P053 to P055)."""

from __future__ import annotations

import hashlib
import io
import os
import sys
import tarfile
from pathlib import Path

import pytest

from tests.conftest import Daemon
from tests.support.commands import NONE, background
from tests.support.images import image_with


def test_no_descriptor_leaks(daemon: Daemon) -> None:
    """S002: only 0, 1, 2 and ls's own."""
    for command in (("run", "--rm", *NONE, "busybox"), ("exec", "box")):
        if command[0] == "exec":
            background(daemon)
        shown = daemon.ok(*command, "ls", "/proc/self/fd").split()
        assert shown == ["0", "1", "2", "3"], command


def test_workdir_in_proc_self_fd(daemon: Daemon, isolation: str) -> None:
    """S002 / CVE-2024-21626: no working directory leads to the host."""
    host = set(os.listdir("/"))
    background(daemon)
    for number in range(3, 30):
        exec_ = ("exec", "-w", f"/proc/self/fd/{number}", "box")
        run = ("run", "--rm", *NONE, "-w", f"/proc/self/fd/{number}", "busybox")
        # A guest's agent starts both alike, and each `run` is a guest of its own.
        for command in (exec_, run) if isolation == "container" or number % 9 == 3 else (exec_,):
            done = daemon.sampan(*command, "ls", "../../../..")
            assert not {"work", "lib64"} & set(done.stdout.decode().split()) or done.returncode, (number, host)


def test_interpreter_cannot_be_overwritten(daemon: Daemon) -> None:
    """S001 / CVE-2019-5736: an entrypoint that is /proc/self/exe, and a process that waits for joiners."""
    binary = Path(sys.executable).resolve()
    before = hashlib.sha256(binary.read_bytes()).hexdigest()
    image_with(daemon, "selfexe", ("bin/evil", "/proc/self/exe"))
    daemon.sampan("run", "--rm", *NONE, "selfexe", "/bin/evil")
    script = (
        "while true; do for p in /proc/[0-9]*; do case $p in */1|*/$$) continue;; esac; "
        "if exec 9<$p/exe; then if (echo x >/proc/self/fd/9) 2>/dev/null; then case $(readlink $p/exe) in *python*) echo OVERWRITTEN;; esac; fi; exec 9<&-; fi; done; done 2>/dev/null"
    )
    background(daemon, "sh", "-c", script, options=("--cap-add", "SYS_PTRACE"))
    for _ in range(40):
        daemon.sampan("exec", "box", "true")
    assert b"OVERWRITTEN" not in daemon.sampan("logs", "box").stdout
    assert hashlib.sha256(binary.read_bytes()).hexdigest() == before


def test_keeper_runs_from_a_read_only_mount(daemon: Daemon) -> None:
    exe = f"/proc/{daemon.keeper_pid()}/exe"
    with pytest.raises(OSError, match=r"Text file busy|Read-only file system"):
        os.open(exe, os.O_WRONLY)
    held = os.open(exe, os.O_RDONLY)  # what an attacker keeps until nobody runs the file any more
    assert os.fstatvfs(held).f_flag & os.ST_RDONLY
    os.close(held)


@pytest.mark.parametrize("path", ["proc", "sys"])
def test_proc_as_a_symlink_is_refused(daemon: Daemon, path: str) -> None:
    """S004"""
    image_with(daemon, f"link-{path}", (path, "/tmp"))
    done = daemon.sampan("run", "--rm", *NONE, f"link-{path}", "true")
    assert done.returncode == 125
    assert b"is not a plain directory" in done.stderr


def test_symlinks_in_the_rootfs_stay_inside(daemon: Daemon, tmp_path: Path) -> None:
    """Mountpoints, WORKDIR, volumes and cp through a link to a directory of the host."""
    outside = tmp_path / "sentinel"
    outside.mkdir()
    image_with(daemon, "links", ("escape", str(outside)), ("up", "../../../../../.." + str(outside)))
    daemon.ok(
        "run",
        "--rm",
        *NONE,
        "-v",
        "vol:/escape/v",
        "-w",
        "/up/w",
        "--tmpfs",
        "/escape/t",
        "links",
        "touch",
        "/escape/v/x",
    )
    daemon.ok("create", *NONE, "--name", "box", "links", "true")
    (tmp_path / "f").write_text("x")
    daemon.sampan("cp", str(tmp_path / "f"), "box:/escape/f")
    daemon.sampan("cp", str(tmp_path / "f"), "box:/up/f")
    assert os.listdir(outside) == []
    daemon.ok("rm", "box")
    daemon.ok("volume", "rm", "vol")


def test_copying_out_never_reads_the_host(daemon: Daemon, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("host secret")
    image_with(daemon, "reader", ("leak", str(secret)), ("dir", str(tmp_path)))
    daemon.ok("create", *NONE, "--name", "box", "reader", "true")
    for path in ("/leak", "/dir/secret", "/leak/"):
        assert b"host secret" not in daemon.sampan("cp", f"box:{path}", "-").stdout


def test_masked_paths_use_the_real_null_device(daemon: Daemon) -> None:
    """S011 / CVE-2025-31133: /dev/null of the image is something else."""
    image_with(daemon, "null", ("dev/null", "/proc/sys/kernel/core_pattern"))
    before = Path("/proc/sys/kernel/core_pattern").read_text()
    script = "echo evil >/proc/timer_list; cat /proc/keys | wc -c; echo x >/proc/sys/kernel/core_pattern"
    done = daemon.sampan("run", "--rm", *NONE, "null", "sh", "-c", script)
    assert done.stdout.split() == [b"0"]
    assert Path("/proc/sys/kernel/core_pattern").read_text() == before


def test_release_agent(daemon: Daemon) -> None:
    """S008 / CVE-2022-0492"""
    script = (
        "mkdir /tmp/c; mount -t cgroup -o memory cgroup /tmp/c && echo MOUNTED; unshare -UrmC true && echo UNSHARED; "
        "for f in /sys/fs/cgroup/*/notify_on_release /sys/fs/cgroup/*/release_agent; do echo 1 >$f && echo WROTE $f; done; mkdir /sys/fs/cgroup/x && echo MADE"
    )
    shown = daemon.sampan("run", "--rm", *NONE, "busybox", "sh", "-c", script).stdout
    assert shown == b""


def test_kernel_interfaces_are_closed(daemon: Daemon) -> None:
    """S049: sysctls, sysfs, devices, clock and modules."""
    script = (
        "for f in /proc/sys/kernel/core_pattern /proc/sys/vm/swappiness /proc/sysrq-trigger /sys/kernel/uevent_helper; "
        "do (echo 1 >$f) 2>/dev/null && echo WROTE $f; done; "
        "mknod /tmp/sda b 8 0 && dd if=/tmp/sda of=/dev/null bs=1 count=1 2>/dev/null && echo DISK; "
        "test -e /dev/mem && echo MEM; date -s 2000-01-01 >/dev/null 2>&1; test $(date +%Y) -gt 2000 || echo CLOCK; "
        "mount -t tmpfs x /mnt 2>/dev/null && echo MOUNT; dmesg 2>/dev/null | grep -q . && echo DMESG; true"
    )
    assert daemon.ok("run", "--rm", *NONE, "busybox", "sh", "-c", script) == ""


def test_capability_sets(daemon: Daemon) -> None:
    """S007, P053"""

    def sets(*options: str) -> dict[str, int]:
        text = daemon.ok("run", "--rm", *NONE, *options, "busybox", "grep", "^Cap", "/proc/self/status")
        return {line.split(":")[0]: int(line.split(":")[1], 16) for line in text.splitlines()}

    root = sets()
    assert root["CapInh"] == root["CapAmb"] == 0
    assert root["CapEff"] == root["CapPrm"] == root["CapBnd"] == 0xA80425FB
    user = sets("-u", "1000")
    assert user["CapEff"] == user["CapPrm"] == user["CapInh"] == user["CapAmb"] == 0
    raw = sets("-u", "1000", "--cap-drop", "ALL", "--cap-add", "net_raw")
    assert raw["CapEff"] == raw["CapAmb"] == 1 << 13
    assert sets("--cap-add", "ALL", "-u", "1000")["CapAmb"] == 0
    assert sets("--privileged", "-u", "1000")["CapEff"] == 0
    assert sets("--privileged")["CapInh"] == 0


def test_groups(daemon: Daemon) -> None:
    """S015: our own groups never leak, the primary is always there."""
    assert daemon.ok("run", "--rm", *NONE, "-u", "1000:1000", "busybox", "id", "-G").strip() == "1000"
    assert daemon.ok("run", "--rm", *NONE, "-u", "1000:5", "--group-add", "7", "busybox", "id", "-G").strip() == "5 7"


def test_no_new_privileges(daemon: Daemon) -> None:
    shown = daemon.ok(
        "run",
        "--rm",
        *NONE,
        "--security-opt",
        "no-new-privileges",
        "busybox",
        "grep",
        "NoNewPrivs",
        "/proc/self/status",
    )
    assert shown.split() == ["NoNewPrivs:", "1"]


def test_data_root_is_out_of_reach_of_users(daemon: Daemon) -> None:
    """S010"""
    for path in ("data", "run", "data/containers", "data/images", "data/volumes"):
        assert os.stat(daemon.root / path).st_mode & 0o077 == 0, path


def test_socket_mode(daemon: Daemon) -> None:
    """S033"""
    assert os.stat(daemon.socket).st_mode & 0o777 == 0o660


def test_tar_slip_through_the_archive_api(daemon: Daemon, tmp_path: Path) -> None:
    daemon.ok("create", *NONE, "--name", "box", "busybox", "true")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name in (f"../../../..{tmp_path}/slip", f"{tmp_path}/abs"):
            info = tarfile.TarInfo(name)
            info.size = 4
            archive.addfile(info, io.BytesIO(b"evil"))
    daemon.ok("cp", "-", "box:/tmp", input=out.getvalue())
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100000,
        b"{",
        b"null",
        b'{"Image": 5}',
        b'{"Image": "busybox", "HostConfig": []}',
        b'{"Image":"busybox","Cmd":[1]}',
        b"\xff\xfe",
    ],
)
def test_hostile_json_is_answered_and_survived(daemon: Daemon, body: bytes) -> None:
    """S021, S038"""
    import http.client
    import socket

    connection = http.client.HTTPConnection("sampan")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(daemon.socket)
    connection.request("POST", "/containers/create", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    assert answer.status in (201, 400, 404, 500)
    answer.read()
    assert daemon.http.call("GET", "/version")["ApiVersion"]
