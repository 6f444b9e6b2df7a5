"""Every command of our own CLI against a real daemon."""

from __future__ import annotations

import io
import json
import os
import resource
import tarfile
import time
from pathlib import Path

import pytest

from tests.conftest import Daemon, eventually
from tests.support.commands import NONE, background


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("true",), 0),
        (("sh", "-c", "exit 7"), 7),
        (("/etc",), 126),
        (("nope",), 127),
        (("/no/such",), 127),
    ],
)
def test_exit_codes(daemon: Daemon, command: tuple[str, ...], code: int) -> None:
    assert daemon.sampan("run", "--rm", *NONE, "busybox", *command).returncode == code


def test_bad_input_is_named(daemon: Daemon) -> None:
    cases = [
        (("run", "--badflag"), 125, "unknown flag: --badflag"),
        (("run", *NONE, "127.0.0.1:1/no/such:image"), 125, "Unable to find image '127.0.0.1:1/no/such:image' locally"),
        (("run", *NONE, "--pull", "never", "no/such:image"), 125, "No such image: no/such:image"),
        (("run", *NONE, "--memory", "1k", "busybox"), 125, "Minimum memory limit"),
        (("run", *NONE, "--cpus", "99", "busybox"), 125, "range of CPUs"),
        (("run", *NONE, "--cap-add", "nope", "busybox"), 125, "invalid capability"),
        (("run", *NONE, "-v", "a:b:c:d", "busybox"), 125, "invalid volume specification"),
        (("run", *NONE, "-w", "rel", "busybox"), 125, "absolute path"),
        (("run", *NONE, "-u", "nobodyknows", "busybox", "true"), 125, "unable to find user nobodyknows"),
        (("run", *NONE, "-u", "4294967296", "busybox", "true"), 125, "out of range"),
        (("run", *NONE, "--sysctl", "vm.swappiness=1", "busybox"), 125, "vm.swappiness"),
        (("stop", "nobody"), 1, "No such container: nobody"),
        (("frobnicate",), 1, "is not a sampan command"),
    ]
    for args, code, message in cases:
        done = daemon.sampan(*args)
        assert (done.returncode, message in done.stderr.decode()) == (code, True), (args, done.stderr)


def test_failed_start_leaves_a_created_container(daemon: Daemon) -> None:
    """P039"""
    daemon.sampan("run", *NONE, "--name", "box", "busybox", "nope")
    state = json.loads(daemon.ok("inspect", "box"))[0]["State"]
    assert (state["Status"], state["ExitCode"]) == ("created", 127)
    assert "not found" in state["Error"]


def test_busy_name(daemon: Daemon) -> None:
    background(daemon)
    done = daemon.sampan("create", "--name", "box", "busybox")
    assert done.returncode == 1
    assert b'name "/box" is already in use' in done.stderr


def test_streams_stay_apart_and_stdin_half_closes(daemon: Daemon) -> None:
    done = daemon.sampan(
        "run", "-i", "--rm", *NONE, "busybox", "sh", "-c", "cat; echo err >&2; echo end", input=b"in\n"
    )
    assert (done.stdout, done.stderr) == (b"in\nend\n", b"err\n")


def test_large_stdin_is_read_to_its_end(daemon: Daemon) -> None:
    """P047 a"""
    data = os.urandom(8 << 20)
    done = daemon.sampan("run", "-i", "--rm", *NONE, "busybox", "wc", "-c", input=data)
    assert done.stdout.strip() == str(len(data)).encode()


def test_large_output_is_exact(daemon: Daemon) -> None:
    done = daemon.sampan("run", "--rm", *NONE, "busybox", "sh", "-c", "seq 1 300000")
    assert done.stdout == b"".join(b"%d\n" % n for n in range(1, 300001))


def test_process_that_ends_before_its_stdin(daemon: Daemon) -> None:
    """P047 d"""
    reader, writer = os.pipe()
    import subprocess

    done = subprocess.run(
        ["sampan", "run", "-i", "--rm", *NONE, "busybox", "true"], env=daemon.env, stdin=reader, timeout=20
    )
    os.close(writer)
    os.close(reader)
    assert done.returncode == 0


def test_lifecycle(daemon: Daemon) -> None:
    background(daemon, "sh", "-c", "trap 'exit 5' TERM; while :; do sleep 0.05; done")
    assert "Up" in daemon.ok("ps")
    daemon.ok("pause", "box")
    assert "(Paused)" in daemon.ok("ps")
    daemon.ok("unpause", "box")
    daemon.ok("rename", "box", "boxed")
    daemon.ok("update", "-m", "64m", "boxed")
    assert json.loads(daemon.ok("inspect", "boxed"))[0]["HostConfig"]["Memory"] == 64 << 20
    daemon.ok("stop", "-t", "5", "boxed")
    assert daemon.ok("wait", "boxed").strip() == "5"
    daemon.ok("start", "boxed")
    daemon.ok("kill", "boxed")
    assert daemon.ok("wait", "boxed").strip() == "137"
    assert "Exited (137)" in daemon.ok("ps", "-a")
    daemon.ok("rm", "boxed")
    assert "boxed" not in daemon.ok("ps", "-a")


def test_stop_kills_what_ignores_the_signal(daemon: Daemon) -> None:
    background(daemon, "sh", "-c", "trap '' TERM; while :; do sleep 0.05; done")
    started = time.monotonic()
    daemon.ok("stop", "-t", "1", "box")
    assert 0.9 < time.monotonic() - started < 5


def test_exec(daemon: Daemon) -> None:
    background(daemon, options=("-e", "FROM=container", "-u", "www-data"))
    assert daemon.ok("exec", "box", "sh", "-c", "echo $FROM").strip() == "container"
    assert (
        daemon.ok("exec", "-e", "X=1", "-w", "/tmp", "-u", "0", "box", "sh", "-c", "echo $X $(pwd) $(id -u)").strip()
        == "1 /tmp 0"
    )
    assert daemon.ok("exec", "box", "id", "-u").strip() == "33"
    assert daemon.sampan("exec", "box", "sh", "-c", "exit 9").returncode == 9
    assert daemon.sampan("exec", "box", "nope").returncode == 127
    assert daemon.ok("exec", "-i", "box", "cat", input=b"through").strip() == "through"
    daemon.ok("exec", "-d", "-u", "0", "box", "touch", "/tmp/made")
    eventually(lambda: daemon.sampan("exec", "box", "ls", "/tmp/made").returncode == 0)


def test_workdir(daemon: Daemon) -> None:
    """P044"""
    assert daemon.ok("run", "--rm", *NONE, "-w", "/no/such", "busybox", "pwd").strip() == "/no/such"
    background(daemon)
    assert daemon.sampan("exec", "-w", "/missing", "box", "pwd").returncode in (126, 127)
    assert daemon.sampan("exec", "box", "ls", "/missing").returncode == 1


def test_logs(daemon: Daemon) -> None:
    background(daemon, "sh", "-c", "echo one; echo two >&2; printf 'no newline\\000\\377'")
    daemon.ok("wait", "box")
    done = daemon.sampan("logs", "box")
    assert (done.stdout, done.stderr) == (b"one\nno newline\0\xff", b"two\n")
    assert daemon.sampan("logs", "--tail", "0", "box").stdout == b""
    assert daemon.sampan("logs", "-t", "box").stdout.startswith(b"20")
    assert daemon.sampan("logs", "--since", "1h", "box").stdout == done.stdout
    assert daemon.sampan("logs", "--until", "1h", "box").stdout == b""


def test_logs_follow_ends_with_the_container(daemon: Daemon) -> None:
    background(daemon, "sh", "-c", "for i in 1 2 3 4 5; do echo $i; sleep 0.1; done")
    assert daemon.ok("logs", "-f", "box") == "1\n2\n3\n4\n5\n"


def test_copy(daemon: Daemon, tmp_path: Path) -> None:
    """P086, running and stopped"""
    (tmp_path / "dir/sub").mkdir(parents=True)
    (tmp_path / "dir/sub/f").write_text("content")
    background(daemon)
    for _ in ("running", "stopped"):
        daemon.ok("cp", f"{tmp_path}/dir", "box:/tmp/copied")
        daemon.ok("cp", f"{tmp_path}/dir/sub/f", "box:/tmp/")
        daemon.ok("cp", "box:/tmp/copied/sub/f", f"{tmp_path}/back")
        assert (tmp_path / "back").read_text() == "content"
        stream = daemon.sampan("cp", "box:/tmp/f", "-").stdout
        assert tarfile.open(fileobj=io.BytesIO(stream)).getnames() == ["f"]
        assert daemon.sampan("cp", f"{tmp_path}/back", "box:/missing/").returncode == 1
        assert daemon.sampan("cp", "box:/missing", f"{tmp_path}/x").returncode == 1
        daemon.sampan("kill", "box")


def test_copy_into_the_volume_of_a_stopped_container(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    daemon.ok("create", *NONE, "--name", "box", "-v", "vol:/data", "busybox", "cat", "/data/f")
    daemon.ok("cp", f"{tmp_path}/f", "box:/data/")
    assert daemon.ok("start", "-a", "box") == "x"
    daemon.ok("rm", "box")
    daemon.ok("volume", "rm", "vol")


def test_commit_diff_export_import(daemon: Daemon, tmp_path: Path) -> None:
    background(daemon, "sh", "-c", "echo new >/tmp/new; rm -r /home; sleep 600")
    eventually(lambda: "/tmp/new" in daemon.ok("diff", "box"))
    assert set(daemon.ok("diff", "box").splitlines()) >= {"C /tmp", "A /tmp/new", "D /home"}
    daemon.ok("commit", "-a", "Some One", "-c", "ENV A=b", "-c", 'CMD ["cat", "/tmp/new"]', "box", "committed:1")
    assert daemon.ok("image", "inspect", "-f", "{{.Author}}", "committed:1") == "Some One\n"
    assert daemon.http.call("GET", "/images/busybox/json")["Author"] == ""
    assert daemon.ok("run", "--rm", *NONE, "committed:1") == "new\n"
    assert daemon.sampan("run", "--rm", *NONE, "committed:1", "ls", "/home").returncode == 1
    daemon.ok("export", "-o", f"{tmp_path}/x.tar", "box")
    daemon.ok("import", f"{tmp_path}/x.tar", "imported")
    assert daemon.ok("run", "--rm", *NONE, "imported", "cat", "/tmp/new") == "new\n"
    daemon.ok("rmi", "committed:1", "imported")


def test_images(daemon: Daemon, tmp_path: Path) -> None:
    daemon.ok("tag", "busybox", "other:2")
    assert "other" in daemon.ok("images")
    daemon.ok("save", "-o", f"{tmp_path}/saved.tar", "other:2")
    daemon.ok("rmi", "other:2")
    assert daemon.ok("load", "-i", f"{tmp_path}/saved.tar").strip() == "Loaded image: other:2"
    layout = tmp_path / "layout"
    with tarfile.open(tmp_path / "saved.tar") as archive:
        archive.extractall(layout)  # our own archive
    (layout / "manifest.json").unlink()
    daemon.ok("rmi", "other:2")
    assert daemon.ok("load", "-i", str(layout)).strip() == "Loaded image: other:2"
    assert "bootstrap busybox" in daemon.ok("history", "other:2")
    background(daemon)
    assert daemon.sampan("rmi", "-f", "busybox", "other:2").returncode in (0, 1)
    daemon.ok("tag", json.loads(daemon.ok("inspect", "box"))[0]["Image"], "busybox:latest")
    daemon.sampan("rmi", "other:2")


def test_corrupt_archive_is_refused(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "bad.tar").write_bytes(b"garbage" * 1000)
    done = daemon.sampan("load", "-i", f"{tmp_path}/bad.tar")
    assert done.returncode == 1
    assert b"not an image archive" in done.stderr


def test_volumes(daemon: Daemon) -> None:
    daemon.ok("volume", "create", "vol")
    daemon.ok("run", "--rm", *NONE, "-v", "vol:/data", "busybox", "sh", "-c", "echo x >/data/f")
    done = daemon.sampan(
        "run", "--rm", *NONE, "-v", "vol:/data:ro", "busybox", "sh", "-c", "cat /data/f; touch /data/g"
    )
    assert done.stdout == b"x\n"
    assert b"Read-only" in done.stderr
    daemon.ok("run", "--rm", *NONE, "-v", "vol2:/bin", "busybox", "true")
    assert (
        daemon.ok("run", "--rm", *NONE, "-v", "vol2:/mnt", "busybox", "ls", "/mnt/busybox").strip() == "/mnt/busybox"
    ), "copy-up"
    background(daemon, options=("-v", "vol:/data"))
    assert b"volume is in use" in daemon.sampan("volume", "rm", "vol").stderr
    daemon.ok("rm", "-f", "box")
    daemon.ok("volume", "rm", "vol", "vol2")


def test_mount_options(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("bound")
    assert (
        daemon.ok("run", "--rm", *NONE, "--mount", f"type=bind,src={tmp_path},dst=/x,ro", "busybox", "cat", "/x/f")
        == "bound"
    )
    done = daemon.sampan("run", "--rm", *NONE, "--mount", "type=bind,src=/no/such/dir,dst=/x", "busybox", "true")
    assert (done.returncode, b"bind source path does not exist: /no/such/dir" in done.stderr) == (125, True)
    shown = daemon.ok("run", "--rm", *NONE, "--tmpfs", "/run:exec,size=1m,mode=700", "busybox", "sh", "-c", "grep ' /run ' /proc/mounts; dd if=/dev/zero of=/run/f bs=1M count=2 2>&1; true")  # fmt: skip
    assert "size=1024k" in shown
    assert "noexec" not in shown
    assert "No space left" in shown


def test_read_only_root(daemon: Daemon) -> None:
    """P049"""
    script = "touch /x 2>&1; touch /etc/x 2>&1; touch /dev/shm/ok && echo shm; cat /etc/hosts >/dev/null && echo hosts"
    shown = daemon.ok("run", "--rm", *NONE, "--read-only", "busybox", "sh", "-c", script)
    assert shown.count("Read-only file system") == 2
    assert shown.endswith("shm\nhosts\n")


def test_limits(daemon: Daemon) -> None:
    """P054"""
    assert "1024" in daemon.ok("run", "--rm", *NONE, "--shm-size", "1m", "busybox", "df", "-k", "/dev/shm")
    assert (
        daemon.ok("run", "--rm", *NONE, "--ulimit", "nofile=100:200", "busybox", "sh", "-c", "ulimit -n").strip()
        == "100"
    )
    done = daemon.sampan(
        "run",
        "--rm",
        *NONE,
        "-m",
        "16m",
        "--memory-swap",
        "16m",
        "busybox",
        "sh",
        "-c",
        "dd if=/dev/zero of=/dev/null bs=64M count=1",
    )
    assert done.returncode == 137
    done = daemon.sampan(
        "run", "--rm", *NONE, "--pids-limit", "10", "busybox", "sh", "-c", "for i in $(seq 30); do sleep 1 & done; wait"
    )
    assert b"can't fork" in done.stderr
    done = daemon.sampan(
        "run",
        "--rm",
        *NONE,
        "--device",
        "/dev/kmsg:/dev/x:r",
        "busybox",
        "sh",
        "-c",
        "dd if=/dev/x of=/dev/null count=0 && echo >/dev/x",
    )
    assert done.returncode != 0


def test_environment(daemon: Daemon) -> None:
    """P120"""
    shown = daemon.ok("run", "--rm", *NONE, "-h", "me", "-e", "A=1", "-e", "A=2", "busybox", "env").splitlines()
    assert {"A=2", "HOSTNAME=me", "HOME=/root"} <= set(shown)
    assert any(line.startswith("PATH=") for line in shown)
    assert "HOME=/var/www" in daemon.ok("run", "--rm", *NONE, "-u", "www-data", "busybox", "env")


def test_restart_policy(daemon: Daemon) -> None:
    background(daemon, "sh", "-c", "exit 3", options=("--restart", "on-failure:2"))
    eventually(lambda: json.loads(daemon.ok("inspect", "box"))[0]["RestartCount"] == 2)
    eventually(lambda: json.loads(daemon.ok("inspect", "box"))[0]["State"]["Status"] == "exited")


def test_health(daemon: Daemon) -> None:
    """P084"""
    options = ("--health-cmd", "test -e /tmp/well", "--health-interval", "100ms", "--health-retries", "2")
    background(daemon, options=options)
    eventually(lambda: "(unhealthy)" in daemon.ok("ps"))
    daemon.ok("exec", "box", "touch", "/tmp/well")
    eventually(lambda: "(healthy)" in daemon.ok("ps"))
    log = json.loads(daemon.ok("inspect", "box"))[0]["State"]["Health"]["Log"]
    assert 0 < len(log) <= 5


def test_init_reaps_and_forwards(daemon: Daemon) -> None:
    assert daemon.sampan("run", "--rm", "--init", *NONE, "busybox", "sh", "-c", "exit 6").returncode == 6


def test_system(daemon: Daemon) -> None:
    assert "Images" in daemon.ok("system", "df")
    assert "ServerVersion" in daemon.ok("info")
    assert daemon.ok("info", "-f", "{{.OSType}}").strip() == "linux"
    assert "Engine:" in daemon.ok("version")
    background(daemon, "true")
    daemon.ok("wait", "box")
    daemon.ok("system", "prune", "-f")
    assert "box" not in daemon.ok("ps", "-a", "--format", "{{.Names}}")
    assert "container destroy" in daemon.ok("events", "--since", "30s", "--until", "0s")
    assert "ok" in daemon.sampan("doctor").stdout.decode()


def test_host_network_and_shared_namespaces(daemon: Daemon) -> None:
    background(daemon)
    own = daemon.ok("exec", "box", "readlink", "/proc/self/ns/net").strip()
    shared = daemon.ok("run", "--rm", "--network", "container:box", "--pid", "container:box", "busybox", "sh", "-c", "readlink /proc/self/ns/net; ps | grep -c 'sleep 600'")  # fmt: skip
    assert shared.splitlines()[0] == own
    assert int(shared.splitlines()[1]) >= 1
    assert daemon.ok(
        "run", "--rm", "--network", "host", "busybox", "readlink", "/proc/self/ns/net"
    ).strip() == os.readlink("/proc/self/ns/net")


def test_terminal(daemon: Daemon) -> None:
    """`-it` driven through a real pty: size, echo, exit code."""
    import pty
    import select
    import subprocess

    from sampan.linux.tty import set_size

    master, slave = pty.openpty()
    set_size(master, 33, 77)
    process = subprocess.Popen(
        ["sampan", "run", "-it", "--rm", *NONE, "busybox", "sh"],
        env=daemon.env,
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    seen = b""

    def until(text: bytes) -> None:
        nonlocal seen
        deadline = time.monotonic() + 15
        while text not in seen:
            assert time.monotonic() < deadline, seen
            if select.select([master], [], [], 0.1)[0]:
                seen += os.read(master, 4096)

    until(b"# ")
    os.write(master, b"stty size; tty\n")
    until(b"33 77")
    until(b"/dev/pts/0")
    os.write(master, b"exit 4\n")
    assert process.wait(15) == 4
    os.close(master)


def test_a_limit_that_cannot_be_raised_is_a_warning(daemon: Daemon) -> None:
    """The whole way: from the process that sets it to the user who asked for it."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    done = daemon.sampan("run", "--rm", "--network", "none", "--ulimit", f"nofile={hard + 1}:{hard + 1}", "busybox",
                         "sh", "-c", "ulimit -n")  # fmt: skip
    assert done.returncode == 0
    if done.stdout.strip() != str(hard + 1).encode():
        assert done.stdout == b"%d\n" % hard
        assert f"WARNING: RLIMIT_NOFILE: may not be raised to {hard + 1}, clamped to {hard}".encode() in done.stderr
