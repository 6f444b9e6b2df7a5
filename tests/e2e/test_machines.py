"""Containers with a kernel of their own: what differs from sharing the host's, and what must not get out."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.client.http import Http
from sampan.linux import tsc
from tests.conftest import Daemon, end_daemon, eventually, new_daemon
from tests.support.commands import NONE
from tests.vm_differences import DIFFERENCES

pytestmark = pytest.mark.skipif(not shutil.which("qemu-system-x86_64"), reason="QEMU is not installed")
VM = ("--isolation", "vm")
MACHINES = 30 if os.environ.get("SAMPAN_SOAK") else 6


@pytest.fixture(scope="module")
def machines() -> Iterator[Daemon]:
    daemon = new_daemon()
    yield daemon
    end_daemon(daemon)


@pytest.fixture
def daemon(machines: Daemon) -> Iterator[Daemon]:
    yield machines
    for row in machines.http.call("GET", "/containers/json?all=1"):
        machines.http.call("DELETE", f"/containers/{row['Id']}?force=1&v=1")


def run(daemon: Daemon, *args: str, code: int = 0) -> str:
    """`sampan run --rm` without a network, its output."""
    done = daemon.sampan("run", "--rm", *VM, *NONE, *args)
    assert done.returncode == code, done.stderr.decode()
    return done.stdout.decode()


def background(daemon: Daemon, *options: str, name: str = "box") -> None:
    daemon.ok("run", "-d", "--name", name, *VM, *options, "busybox", "sleep", "600")


def inside(daemon: Daemon, script: str, name: str = "box") -> str:
    return daemon.ok("exec", name, "sh", "-c", script)


def state(daemon: Daemon, name: str = "box") -> dict[str, object]:
    found: dict[str, object] = json.loads(daemon.ok("inspect", name))[0]["State"]
    return found


def qemus(daemon: Daemon) -> list[int]:
    """The QEMU processes below this daemon's keeper: those whose parent is a shim of its socket."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        try:
            if Path(f"/proc/{name}/cmdline").read_bytes().startswith(b"qemu\0"):
                parent = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1]
                if str(daemon.root).encode() in Path(f"/proc/{parent}/cmdline").read_bytes():
                    found.append(int(name))
        except OSError:
            continue
    return found


def test_prepare(daemon: Daemon) -> None:
    out = daemon.ok("vm", "prepare", timeout=200)
    assert "kernel " in out
    assert "accelerator " in out
    assert "template ready" in out
    done = daemon.sampan("vm", "prepare", "--memory", "1m")
    assert (done.returncode, b"impossible shape" in done.stderr) == (1, True)
    assert daemon.sampan("vm", "nonsense").returncode == 1


def test_it_has_a_kernel_of_its_own(daemon: Daemon) -> None:
    assert run(daemon, "busybox", "uname", "-r").strip() != os.uname().release
    assert (
        json.loads(daemon.ok("inspect", daemon.ok("create", *VM, "busybox").strip()))[0]["HostConfig"]["Isolation"]
        == "vm"
    )
    clock = run(daemon, "busybox", "cat", "/sys/devices/system/clocksource/clocksource0/current_clocksource")
    assert clock.strip() in (("tsc", "kvm-clock") if tsc.rate() else clock), "by ticks, it would never be idle"
    assert "cgroup2" in run(daemon, "busybox", "sh", "-c", "grep ' /sys/fs/cgroup ' /proc/mounts")


def test_limits_are_the_guests(daemon: Daemon) -> None:
    background(daemon, *NONE, "--memory", "64m", "--pids-limit", "20", "--cpus", "0.5", "--ulimit", "nofile=77:88")
    limits = inside(daemon, "cd /sys/fs/cgroup; cat memory.max pids.max cpu.max; ulimit -n").split()
    assert limits == [str(64 << 20), "20", "50000", "100000", "77"]
    assert inside(daemon, "for i in $(seq 40); do sleep 5 & done 2>&1 | grep -c fork; true")
    assert int(inside(daemon, "cat /sys/fs/cgroup/pids.current")) <= 20
    done = daemon.sampan("exec", "box", "sh", "-c", "head -c 150m /dev/zero | tail | wc -c")
    assert done.returncode != 0 or b"157286400" not in done.stdout
    daemon.ok("update", "--pids-limit", "30", "box")
    assert inside(daemon, "cat /sys/fs/cgroup/pids.max") == "30\n"


def test_p106_memory(daemon: Daemon) -> None:
    """The guest has what its limit needs and little more; over the limit it is killed; what it frees the host has back."""
    background(daemon, *NONE, "--memory", "512m")
    total = int(inside(daemon, "grep MemTotal /proc/meminfo").split()[1]) << 10
    assert 512 << 20 <= total <= (512 << 20) * 1.1
    inside(daemon, "dd if=/dev/zero of=/tmp/big bs=1M count=200 2>/dev/null; sync")
    (pid,) = qemus(daemon)
    high = _resident(pid)
    inside(daemon, "rm /tmp/big")
    eventually(lambda: _resident(pid) < high - (100 << 20), 30)
    daemon.ok("rm", "-f", "box")
    out = daemon.sampan("run", "--name", "box", *VM, *NONE, "--memory", "64m", "busybox", "sh", "-c", "tail /dev/zero")
    assert out.returncode == 137
    assert state(daemon)["OOMKilled"] is True


def _resident(pid: int) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(re.findall(r"Private_Dirty:\s+(\d+)", text)[0]) << 10


def test_machines_of_one_template_are_told_apart(daemon: Daemon) -> None:
    """P100, P109: clock, randomness, MAC, host name."""
    for name in ("one", "two"):
        daemon.ok("run", "-d", "--name", name, *VM, "busybox", "sleep", "600")
    script = "date +%s; head -c 16 /dev/urandom | md5sum; cat /sys/class/net/eth0/address /proc/sys/kernel/random/boot_id; hostname"
    begun = time.time()
    one, two = (inside(daemon, script, name).split() for name in ("one", "two"))
    assert abs(int(one[0]) - begun) <= 3
    assert len({*one[1:2], *two[1:2]}) == 2
    assert one[3] != two[3]
    assert one[-1] != two[-1]
    daemon.ok("pause", "one")
    before = daemon.ok("exec", "two", "cat", "/proc/uptime")
    time.sleep(3)
    daemon.ok("unpause", "one")
    begun = time.time()  # and not how long the command takes
    assert begun - 2 <= int(inside(daemon, "date +%s", "one")) <= time.time() + 1
    assert float(daemon.ok("exec", "two", "cat", "/proc/uptime").split()[0]) > float(before.split()[0])
    assert "soft lockup" not in _console(daemon, "one")


def _console(daemon: Daemon, name: str) -> str:
    identifier = json.loads(daemon.ok("inspect", name))[0]["Id"]
    return (daemon.root / f"data/containers/{identifier}/console").read_text()


def test_it_keeps_its_files(daemon: Daemon, tmp_path: Path) -> None:
    """Over a stop, a kill and a start; reachable by cp, diff, export and commit also while it is stopped."""
    background(daemon, *NONE)
    inside(daemon, "echo kept > /root/file; rm /etc/group")
    daemon.ok("kill", "box")
    assert state(daemon)["ExitCode"] == 137
    assert set(daemon.ok("diff", "box").splitlines()) >= {"A /root/file", "D /etc/group"}
    (tmp_path / "in").write_text("put")
    daemon.ok("cp", str(tmp_path / "in"), "box:/root/in")
    daemon.ok("cp", "box:/root/file", str(tmp_path / "out"))
    assert (tmp_path / "out").read_text() == "kept\n"
    daemon.ok("start", "box")
    assert inside(daemon, "cat /root/file /root/in") == "kept\nput"
    daemon.ok("pause", "box")
    assert "A /root/in" in daemon.ok("diff", "box")  # the guest itself runs
    daemon.ok("unpause", "box")
    done = daemon.sampan("cp", "box:/nothere", str(tmp_path))
    assert (done.returncode, b"Could not find the file /nothere" in done.stderr) == (1, True)


def test_storage_options(daemon: Daemon) -> None:
    sized = run(
        daemon,
        "--storage-opt",
        "size=64m",
        "busybox",
        "sh",
        "-c",
        "df -m / | tail -1; dd if=/dev/zero of=/x bs=1M count=100 2>&1; true",
    )
    assert "No space left" in sized
    assert "tmpfs" not in run(daemon, "busybox", "sh", "-c", "df -m / | tail -1")
    small = run(
        daemon,
        "--storage-opt",
        "medium=memory",
        "--storage-opt",
        "size=32m",
        "busybox",
        "sh",
        "-c",
        "df -m / | tail -1",
    )
    assert int(small.split()[1]) <= 32
    for option, text in (("size=1m", "32m to 64g"), ("medium=tape", "disk or memory"), ("size=x", "invalid")):
        done = daemon.sampan("create", *VM, "--storage-opt", option, "busybox")
        assert (done.returncode, text in done.stderr.decode()) == (1, True), done.stderr


@pytest.mark.parametrize(
    "flags",
    [["--network", "host"], ["--pid", "host"], ["--ipc", "host"], ["--uts", "host"], ["--device", "/dev/loop-control"]],
)
def test_p109_what_it_can_not_share(daemon: Daemon, flags: list[str]) -> None:
    if flags[0] == "--device" and not os.path.exists(flags[1]):
        flags = ["--device", "/dev/kvm"]
    done = daemon.sampan("create", *VM, *flags, "busybox")
    assert (done.returncode, b"impossible with --isolation vm" in done.stderr) == (1, True), done.stderr
    assert daemon.sampan("create", "--isolation", "tent", "busybox").returncode == 1


def test_p107_signals_and_exit_codes(daemon: Daemon) -> None:
    for code in (0, 1, 126, 255):
        run(daemon, "busybox", "sh", "-c", f"exit {code}", code=code)
    daemon.ok("run", "-d", "--name", "box", *VM, *NONE, "busybox", "sh", "-c",
              "trap 'echo usr' USR1; trap 'echo term; exit 5' TERM; echo ready; while :; do sleep 0.1; done")  # fmt: skip
    eventually(lambda: "ready" in daemon.ok("logs", "box"))
    daemon.ok("kill", "-s", "USR1", "box")
    eventually(lambda: "usr" in daemon.ok("logs", "box"))
    began = time.monotonic()
    daemon.ok("stop", "-t", "20", "box")
    assert time.monotonic() - began < 15
    assert state(daemon)["ExitCode"] == 5
    assert daemon.ok("logs", "box").split() == ["ready", "usr", "term"]


def test_an_exec_and_all_it_started_end_with_its_client(daemon: Daemon) -> None:
    background(daemon, *NONE)
    client = subprocess.Popen(
        ["sampan", "exec", "--kill-on-disconnect", "box", "sh", "-c", "sleep 700 & sleep 701"], env=daemon.env
    )
    eventually(lambda: inside(daemon, "ps | grep -c 'sleep 70[0-9]$'; true").strip() == "2")
    client.kill()
    client.wait()
    eventually(lambda: inside(daemon, "ps | grep -c 'sleep 70[0-9]$'; true").strip() == "0")
    assert state(daemon)["Running"] is True


_FILES = r"""
set -e
cd /v
echo a > f; chown 70:71 f; chmod 4751 f; ln f hard; ln -s f soft; mkdir d
mv f g; [ "$(cat hard)" = a ]; exec 3<g; echo b > h; mv h g; [ "$(cat <&3)" = a ]
dd if=/dev/zero of=sparse bs=1 count=1 seek=10000000 2>/dev/null
touch "$(printf 'x%.0s' $(seq 255))"
i=0; while [ $i -lt 500 ]; do : > d/$i; i=$((i+1)); done; [ $(ls d | wc -l) = 500 ]
stat -c '%u:%g %a %h' hard; readlink soft; stat -c %s sparse
"""


def test_p113_an_idle_stream_is_not_cut(daemon: Daemon) -> None:
    """Of a container and of a machine, in the same time."""
    for isolation in ("container", "vm"):
        daemon.ok("run", "-d", "--isolation", isolation, *NONE, "--name", f"in-{isolation}", "busybox", "sh", "-c",
                  "sleep 20; echo late")  # fmt: skip
    followers = [
        daemon.http.send("GET", f"/containers/in-{isolation}/logs?stdout=1&follow=1")
        for isolation in ("container", "vm")
    ]
    for follower in followers:
        assert b"".join(data for _, data in follower.frames()) == b"late\n"


def test_p102_files_on_volumes(daemon: Daemon, tmp_path: Path) -> None:
    """As on the host's kernel, with the right owners there."""
    os.chmod(tmp_path, 0o755)
    out = {}
    for isolation in ("container", "vm"):
        (tmp_path / isolation).mkdir(mode=0o777)
        out[isolation] = daemon.ok(
            "run",
            "--rm",
            "--isolation",
            isolation,
            *NONE,
            "-v",
            f"{tmp_path}/{isolation}:/v",
            "busybox",
            "sh",
            "-c",
            _FILES,
        )
    assert out["vm"] == out["container"]
    listing = {isolation: sorted((entry.name, entry.lstat().st_mode, entry.lstat().st_uid, entry.lstat().st_gid)
                                 for entry in (tmp_path / isolation).iterdir()) for isolation in out}  # fmt: skip
    assert listing["vm"] == listing["container"]
    (tmp_path / "vm/secret").write_text("x")
    (tmp_path / "vm/secret").chmod(0o600)
    done = daemon.sampan(
        "run", "--rm", *VM, *NONE, "--user", "1000", "-v", f"{tmp_path}/vm:/v", "busybox", "cat", "/v/secret"
    )
    assert (done.returncode, b"Permission denied" in done.stderr) == (1, True)
    done = daemon.sampan("run", "--rm", *VM, *NONE, "-v", f"{tmp_path}/vm:/v:ro", "busybox", "touch", "/v/new")
    assert (done.returncode, b"Read-only" in done.stderr) == (1, True)


_LOOP = """
set -e
cd /v; chown 70:70 .
i=0
while [ $i -lt 60 ]; do
  dd if=/dev/zero bs=8192 count=1 2>/dev/null >> rel; sync rel
  [ $(stat -c %s rel) = $(((i + 1) * 8192)) ]; [ $(cat rel | wc -c) = $(((i + 1) * 8192)) ]
  i=$((i + 1))
done
truncate -s 8192 rel; [ $(wc -c < rel) = 8192 ]
"""


def test_p103_a_data_base_s_way_with_files(daemon: Daemon, tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o777)
    run(daemon, "-v", f"{tmp_path}:/v", "busybox", "sh", "-c", _LOOP)
    assert (tmp_path / "rel").stat().st_size == 8192
    assert tmp_path.stat().st_uid == 70


def test_p104_changes_of_the_host(daemon: Daemon, tmp_path: Path) -> None:
    """Files, and mounts made below a shared path before and after the start."""
    top = tmp_path / "top"
    for name in ("before", "after"):
        (top / name).mkdir(parents=True)
    subprocess.run(["mount", "--bind", str(top), str(top)], check=True)
    try:
        subprocess.run(["mount", "--make-shared", str(top)], check=True)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(top / "before")], check=True)
        (top / "before/seen").write_text("x")
        background(daemon, *NONE, "-v", f"{top}:/v:rslave")
        assert inside(daemon, "ls /v/before") == "seen\n"
        (top / "file").write_text("new")
        eventually(lambda: inside(daemon, "cat /v/file; true") == "new", 2)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(top / "after")], check=True)
        (top / "after/late").write_text("x")
        eventually(lambda: inside(daemon, "ls /v/after") == "late\n", 5)
        daemon.ok("rm", "-f", "box")
    finally:
        subprocess.run(["umount", "-R", "-l", str(top)], check=False)


def test_s045_a_hostile_guest(daemon: Daemon, tmp_path: Path) -> None:
    """Root with all the guest's privileges: no way to the host's files, the image, the template, other machines."""
    sentinel = tmp_path / "sentinel"
    sentinel.write_text("safe")
    (tmp_path / "v").mkdir()
    daemon.ok("run", "-d", "--name", "box", "--privileged", *VM, "-v", f"{tmp_path}/v:/v", "busybox", "sleep", "600")
    inside(daemon, f"ln -s {sentinel} /v/link; ln -s / /v/root; ln -s ../../.. /v/up; true")
    inside(daemon, "echo hacked > /v/link; echo hacked > /v/root/tmp/x; true")
    assert sentinel.read_text() == "safe"
    assert not inside(daemon, f"cat /v/up{sentinel} 2>/dev/null; true")
    # The image's disk, and what QEMU would let it write there.
    disks = inside(daemon, "for d in /sys/block/vd*; do echo $(basename $d) $(cat $d/serial) $(cat $d/ro); done").split(
        "\n"
    )
    read_only = {row.split()[1]: row.split()[2] for row in disks if row}
    assert read_only["root"] == "1"
    roots = {path: path.stat().st_mtime_ns for path in (daemon.root / "data/vm/roots").iterdir()}
    inside(
        daemon,
        "for d in /sys/block/vd*; do n=$(basename $d); mknod /tmp/$n b $(tr : ' ' < $d/dev); dd if=/dev/zero of=/tmp/$n bs=512 count=1 2>/dev/null; done; true",
    )
    assert {path: path.stat().st_mtime_ns for path in roots} == roots
    # What it has left in a volume leads nowhere on the host either.
    daemon.ok("rm", "-f", "box")
    assert sentinel.read_text() == "safe"
    assert run(daemon, "busybox", "echo", "ok") == "ok\n"
    background(daemon, *NONE)
    assert inside(daemon, "ls /dev/vd* /dev/vport* /dev/mem 2>/dev/null; true") == ""


def test_networks_of_machines_are_kept_apart(daemon: Daemon) -> None:
    """No way to the host's loopback, to another network, or to another machine's control socket."""
    daemon.ok("network", "create", "left")
    daemon.ok("network", "create", "right")
    try:
        daemon.ok("run", "-d", "--name", "secret", "--network", "right", *VM, "busybox", "httpd", "-f", "-p", "80")
        address = json.loads(daemon.ok("inspect", "secret"))[0]["NetworkSettings"]["Networks"]["right"]["IPAddress"]
        daemon.ok("run", "-d", "--name", "box", "--network", "left", "--privileged", *VM, "busybox", "sleep", "600")
        assert inside(daemon, f"timeout 3 wget -q -O - http://{address}/ && echo reached; true") == ""
        assert daemon.sampan("exec", "box", "nslookup", "secret").returncode == 1
        daemon.ok("network", "connect", "right", "box")
        assert "404" in inside(daemon, "timeout 5 wget -q -O - http://secret/nothing 2>&1; true")
        daemon.ok("network", "disconnect", "right", "box")
        assert "inet" not in inside(daemon, "ip addr show dev slot1")
        assert inside(daemon, f"timeout 3 wget -q -O - http://{address}/ && echo reached; true") == ""
        assert oct((daemon.root / "run/vm").stat().st_mode)[-3:] == "700"
    finally:
        daemon.ok("rm", "-f", "secret", "box")
        daemon.ok("network", "rm", "left", "right")


def test_s047_qemu_has_no_privileges(daemon: Daemon) -> None:
    background(daemon, *NONE)
    (pid,) = qemus(daemon)
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
    )
    uids = set(status["Uid"].split())
    assert len(uids) == 1
    assert int(uids.pop()) >= 1 << 30
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert sorted(os.listdir(f"/proc/{pid}/root")) == ["dev", "etc", "lib", "lib64", "proc", "shares", "tmp", "usr"]
    assert os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net")
    sockets = list((daemon.root / "run/vm").iterdir())
    assert [oct(path.stat().st_mode)[-3:] for path in sockets] == ["600"]


def test_the_end_of_qemu_is_the_end(daemon: Daemon) -> None:
    background(daemon, *NONE)
    (pid,) = qemus(daemon)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: state(daemon)["Running"] is False)
    assert state(daemon)["ExitCode"] == 255
    daemon.ok("start", "box")
    assert inside(daemon, "echo back") == "back\n"
    shim = state(daemon)["Pid"]
    os.kill(int(str(shim)), signal.SIGKILL)
    eventually(lambda: not qemus(daemon))
    eventually(lambda: state(daemon)["Running"] is False)


def _left(daemon: Daemon) -> dict[str, object]:
    taps = sum(os.path.exists(f"/sys/class/net/{name}/tun_flags") for name in os.listdir("/sys/class/net"))
    group = Path("/sys/fs/cgroup/memory", daemon.containers_group)
    groups = [name for name in os.listdir(group) if len(name) == 64] if group.is_dir() else []
    containers = [name for name in os.listdir(daemon.root / "data/containers") if len(name) == 64]
    return {"qemu": qemus(daemon), "taps": taps, "groups": groups, "sockets": os.listdir(daemon.root / "run/vm"), "containers": containers,
            "mounts": Path("/proc/self/mountinfo").read_text().count(str(daemon.root))}  # fmt: skip


def test_machines_under_sigkill_leave_nothing(own_daemon: Daemon) -> None:
    """Started, used and removed while sampand is killed again and again."""
    own_daemon.ok("vm", "prepare", timeout=200)
    before = _left(own_daemon)
    for number in range(MACHINES):
        name = f"m{number}"
        begun = own_daemon.sampan("run", "-d", "--name", name, *VM, "busybox", "sleep", "600")
        assert begun.returncode == 0, begun.stderr
        if number % 3 == 0:
            own_daemon.kill()
            own_daemon.start()
        assert own_daemon.ok("exec", name, "echo", "in") == "in\n"
        removal = subprocess.Popen(
            ["sampan", "rm", "-f", name], env=own_daemon.env, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        if number % 3 == 1:
            time.sleep(0.02 * (number % 7))
            own_daemon.kill()
            own_daemon.start()
        removal.wait(30)
        own_daemon.sampan("rm", "-f", name)
    eventually(lambda: _left(own_daemon) == before, 20)


def test_a_cold_boot_is_the_fallback(own_daemon: Daemon) -> None:
    """With templates whose devices' states are of no use; the container is warned of, and keeps its files as ever."""
    own_daemon.ok("vm", "prepare", timeout=200)
    own_daemon.kill()
    cache, shared = own_daemon.root / "own", (own_daemon.root / "data/vm").resolve()
    (cache / "templates").mkdir(parents=True)
    for entry in shared.iterdir():
        if entry.name != "templates":
            (cache / entry.name).symlink_to(entry)
    for template in (shared / "templates").iterdir():
        (cache / "templates" / template.name).mkdir()
        for name in ("memory", "disk"):
            (cache / "templates" / template.name / name).symlink_to(template / name)
        (cache / "templates" / template.name / "state").write_bytes(b"nonsense" * 100)
    (own_daemon.root / "data/vm").unlink()
    (own_daemon.root / "data/vm").symlink_to(cache)
    own_daemon.start()
    done = own_daemon.sampan(
        "run", "-d", "--name", "box", *VM, *NONE, "busybox", "sh", "-c", "cat /file; echo x >> /file; sleep 600"
    )
    assert (done.returncode, b"boots anew" in done.stderr) == (0, True), done.stderr
    eventually(lambda: inside(own_daemon, "cat /file 2>/dev/null; true") == "x\n")
    own_daemon.ok("restart", "-t", "0", "box")
    eventually(lambda: own_daemon.ok("logs", "box") == "x\n")
    assert inside(own_daemon, "uname -r").strip() != os.uname().release


def test_a_machine_outlives_sampand_and_the_keeper(own_daemon: Daemon) -> None:
    own_daemon.ok(
        "run",
        "-d",
        "--name",
        "box",
        *VM,
        "busybox",
        "sh",
        "-c",
        "i=0; while :; do echo $i; i=$((i+1)); sleep 0.2; done",
    )
    own_daemon.kill()
    own_daemon.start()
    assert own_daemon.ok("exec", "box", "echo", "in") == "in\n"
    os.kill(own_daemon.keeper_pid(), signal.SIGKILL)
    eventually(lambda: own_daemon.sampan("exec", "box", "true").returncode == 0)
    time.sleep(0.5)
    own_daemon.ok("stop", "-t", "1", "box")
    lines = own_daemon.ok("logs", "box").split()
    assert lines == [str(number) for number in range(len(lines))]
    assert state(own_daemon)["ExitCode"] == 137


def test_the_differences_are_documented() -> None:
    text = " ".join((Path(__file__).parents[2] / "docs/isolation.md").read_text().split())
    for name, reason in DIFFERENCES.items():
        assert name in text
        assert " ".join(reason.split()) in text


def test_sdk_and_api(daemon: Daemon) -> None:
    http: Http = daemon.http
    body = {"Image": "busybox", "Cmd": ["sleep", "600"], "HostConfig": {"Isolation": "vm", "NetworkMode": "none"}}
    identifier = http.call("POST", "/containers/create", body)["Id"]
    http.call("POST", f"/containers/{identifier}/start")
    top = http.call("GET", f"/containers/{identifier}/top")
    assert [row[-1] for row in top["Processes"]] == ["sleep 600"]
    stats = http.call("GET", f"/containers/{identifier}/stats?stream=0&one-shot=1")
    assert stats["memory_stats"]["usage"] > 0
    assert stats["pids_stats"]["current"] == 1
    assert http.call("GET", "/info")["Isolation"] in ("", "vm", "container")
