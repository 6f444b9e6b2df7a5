"""Out of a virtual machine there is no way: who reads what a guest says can do nothing, and QEMU little (issue 14, item 5)."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Daemon, end_daemon, eventually, new_daemon
from tests.support.processes import check_harmless, children_of, named, status_of

pytestmark = [
    pytest.mark.root,
    pytest.mark.e2e,
    pytest.mark.skipif(not shutil.which("qemu-system-x86_64"), reason="QEMU is not installed"),
]
VM = ("--isolation", "vm", "--network", "none")


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """With a machine that nothing is done to, and a container beside it."""
    made = new_daemon()
    made.ok("run", "-d", "--name", "other", *VM, "busybox", "sleep", "600", timeout=200)
    made.ok("run", "-d", "--name", "neighbour", "--network", "none", "busybox", "sleep", "600")
    yield made
    end_daemon(made)


@pytest.fixture
def box(daemon: Daemon) -> Iterator[Daemon]:
    daemon.ok("run", "-d", "--name", "box", "--privileged", "-v", "shared:/v", *VM, "busybox", "sleep", "600")
    yield daemon
    daemon.sampan("rm", "-f", "-v", "box")


def shim_of(daemon: Daemon, name: str) -> int:
    return int(json.loads(daemon.ok("inspect", name))[0]["State"]["Pid"])


def test_who_reads_a_guest_has_no_rights(box: Daemon) -> None:
    """The shim, an exec's relay, QEMU: each user is one machine's own, the root is empty, there is no privilege."""
    exec_ = subprocess.Popen(["sampan", "exec", "box", "sleep", "600"], env=box.env)
    try:
        keeper = int(status_of(shim_of(box, "box"))["PPid"])
        eventually(lambda: named("sampan-exec", keeper) != [])
        (relay,) = named("sampan-exec", keeper)
        eventually(lambda: status_of(relay)["Seccomp"] == "2")
        shim, other = shim_of(box, "box"), shim_of(box, "other")
        users = {check_harmless(relay), check_harmless(shim), check_harmless(other)}
        assert len(users) == 3
        for pid in (relay, shim, other):
            assert os.listdir(f"/proc/{pid}/root") == []
            assert os.listdir(f"/proc/{pid}/cwd") == []
            assert {os.stat(f"/proc/{pid}/fd/{fd}").st_rdev for fd in (0, 1, 2)} == {os.makedev(1, 3)}  # null
        for pid in (shim, other):
            for kind in ("net", "pid", "mnt", "ipc"):
                assert os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")
        (qemu,), (second,) = children_of(shim), children_of(other)
        assert check_harmless(second) == check_harmless(other)
        sharing = sum(1 << number for number in (0, 1, 3, 4, 31))  # it serves a volume, with the owners of its files
        assert check_harmless(qemu, sharing) == check_harmless(shim)
    finally:
        exec_.kill()
        exec_.wait()


_REACH = """
import os, sys
user, pids, paths = int(sys.argv[1]), [int(pid) for pid in sys.argv[2].split(",")], sys.argv[3:]
os.setgroups([]); os.setresgid(user, user, user); os.setresuid(user, user, user)
for pid in pids:
    try:
        os.kill(pid, 0)
        print("signal", pid)
    except PermissionError:
        pass
    paths += [f"/proc/{pid}/{name}" for name in ("mem", "environ", "root/.", "fd/0", "maps")]
for path in paths:
    try:
        os.close(os.open(path, os.O_RDONLY))
        print("open", path)
    except (PermissionError, FileNotFoundError):
        pass
print("done")
"""


def test_a_machine_does_not_reach_another(box: Daemon) -> None:
    """What a QEMU's user may do to the processes and files of another machine, and of the engine: nothing (S033, S048)."""
    shim, other = shim_of(box, "box"), shim_of(box, "other")
    user = status_of(shim)["Uid"].split()[0]
    victims = [other, *children_of(other), int(status_of(shim)["PPid"])]
    files = [str(box.root / "data/containers"), str(box.root / "data/vm/.")]
    files += [f"{top}/{name}" for top, _, names in os.walk(box.root) for name in names if ".sock" in name]
    done = subprocess.run(
        [sys.executable, "-c", _REACH, user, ",".join(map(str, victims)), *files], capture_output=True, text=True
    )
    assert done.stdout == "done\n", done.stdout + done.stderr


def test_s033_the_way_to_an_agent(box: Daemon) -> None:
    """No vsock, no name in an abstract namespace, a socket for root alone."""
    shim = shim_of(box, "box")
    (qemu,) = children_of(shim)
    words = Path(f"/proc/{qemu}/cmdline").read_bytes().split(b"\0")
    assert not [word for word in words if b"vsock" in word or b"vhost" in word or b"telnet" in word]
    names = [line.split()[-1] for line in Path(f"/proc/{shim}/net/unix").read_text().splitlines()[1:]]
    assert not [name for name in names if name.startswith("@")]
    sockets = list(box.root.rglob("vm/*.sock"))
    assert len(sockets) == 2
    for path in sockets:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_s047_qemu_has_what_it_needs(box: Daemon) -> None:
    """Its options, its devices, and what it may write to: its container's own disk."""
    (qemu,) = children_of(shim_of(box, "box"))
    words = Path(f"/proc/{qemu}/cmdline").read_bytes().decode().split("\0")
    assert (
        words[words.index("-sandbox") + 1] == "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
    )
    assert {"-nodefaults", "-no-user-config"} <= set(words)
    devices = {words[at + 1].partition(",")[0] for at, word in enumerate(words) if word == "-device"}
    assert devices == {"virtio-serial-device", "virtserialport", "virtio-rng-device", "virtio-balloon-device",
                       "virtio-9p-device", "virtio-blk-device", "virtio-net-device"}  # fmt: skip
    assert int(status_of(qemu)["Seccomp_filters"]) >= 2  # ours, and the sandbox's
    writable = set()
    for name in os.listdir(f"/proc/{qemu}/fd"):
        target = os.readlink(f"/proc/{qemu}/fd/{name}")
        flags = int(Path(f"/proc/{qemu}/fdinfo/{name}").read_text().split("flags:")[1].split()[0], 8)
        if flags & os.O_ACCMODE and target.startswith("/") and not target.startswith(("/dev/", "/memfd:")):
            writable.add(target)
    assert {os.path.basename(path) for path in writable} <= {"disk", "null"}
    outside = subprocess.run(
        ["nsenter", "-t", str(qemu), "-m", "--", "/usr/bin/test", "-e", str(box.root)], capture_output=True
    )
    assert outside.returncode == 1  # what it does not need is not there


# A line each for the capabilities that QEMU keeps for a machine with volumes, jail._SHARING, in its order; then what it has not.
_OWNERS = """
import os, struct
os.chdir("/v")
for name in ("a", "g"):
    open(name, "w").close()
os.chown("a", 1000, 1000); print(os.stat("a").st_uid)
os.mkdir("d", 0o700); os.chown("d", 1000, 1000); open("d/f", "w").close(); print(os.listdir("d"))
os.chmod("a", 0o640); os.utime("a", (1, 1)); print(oct(os.stat("a").st_mode), int(os.stat("a").st_mtime))
os.chown("g", 5, 7); os.chmod("g", 0o2755); print(oct(os.stat("g").st_mode))
try:
    os.setxattr("g", "security.capability", struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0))
except OSError:
    print("no file capabilities")
print(sum(line.split(":")[1].split().count(word) for line in open("/proc/cpuinfo") if line.startswith("flags") for word in ("svm", "vmx")))
"""


def test_files_with_their_owners(daemon: Daemon) -> None:
    """What the capabilities of QEMU are for; and a guest has no virtual machines of its own."""
    usr = [word for path in ("/usr", "/lib", "/lib64") if Path(path).is_dir() for word in ("-v", f"{path}:{path}:ro")]
    out = daemon.ok(
        "run",
        "--rm",
        *VM,
        "-v",
        "owned:/v",
        *usr,
        "busybox",
        "/usr/bin/python3",
        "-I",
        "-S",
        "-c",
        _OWNERS,
        timeout=200,
    )
    assert out.splitlines() == ["1000", "['f']", "0o100640 1", "0o102755", "no file capabilities", "0"]


def test_s048_what_is_kept_of_memory(box: Daemon) -> None:
    """Templates are the owner's to read; what a machine leaves goes with its container."""
    templates = (box.root / "data/vm/templates").resolve()
    newest = max(templates.iterdir(), key=lambda path: path.stat().st_mtime)  # each start touches its own
    assert len(list(newest.iterdir())) == 4
    for path in newest.iterdir():
        info = path.stat()
        assert (stat.S_IMODE(info.st_mode) & 0o277, info.st_uid) == (0, 0), path
    (directory,) = [path for path in (box.root / "data/containers").iterdir() if shim_report(box) in path.name]
    for name in ("disk", "console", "report"):
        assert stat.S_IMODE((directory / name).stat().st_mode) == 0o600
    box.ok("rm", "-f", "box")
    assert not directory.exists()


def shim_report(daemon: Daemon) -> str:
    return str(json.loads(daemon.ok("inspect", "box"))[0]["Id"])


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.sha256(file.read(4 << 20)).hexdigest()


def test_s045_a_guests_root_and_what_is_shared(box: Daemon, tmp_path: Path) -> None:
    """It can't write to the image's disk, and links that it leaves are nobody's way out: cp, a start, an end."""
    sentinel = tmp_path / "sentinel"
    sentinel.mkdir(mode=0o777)
    (sentinel / "file").write_text("host")
    image = json.loads(box.ok("inspect", "box"))[0]["Image"].removeprefix("sha256:")
    disk = (box.root / "data/vm/roots").resolve() / image
    before = _digest(disk)
    assert stat.S_IMODE(disk.stat().st_mode) & 0o222 == 0
    script = f"""
    for disk in /sys/block/vd*; do
        read serial <$disk/serial; [ "$serial" = root ] || continue
        IFS=: read major minor <$disk/dev
        mknod /x b $major $minor
        echo 0 >$disk/ro 2>/dev/null
        dd if=/dev/zero of=/x bs=4096 count=256 conv=fsync 2>/dev/null && echo WRITTEN
    done
    ln -s {sentinel} /v/link; ln -s {sentinel}/file /v/file; ln -s {sentinel} /link; echo DONE
    """
    assert box.ok("exec", "box", "sh", "-c", script) == "DONE\n"
    assert _digest(disk) == before
    (tmp_path / "in").write_text("guest")
    for target in ("box:/v/link/x", "box:/v/file", "box:/link/x", "box:/v/link"):
        box.sampan("cp", str(tmp_path / "in"), target)
    for number, source in enumerate(("box:/v/file", "box:/v/link/file", "box:/link/file")):
        out = tmp_path / f"out{number}"
        box.sampan("cp", source, str(out))
        assert not out.is_file() or out.is_symlink() or out.read_text() != "host"
    done = box.sampan("run", "--rm", *VM, "-v", "shared:/v", "busybox", "sh", "-c", "cat /v/file; echo x >/v/link/x; :")
    assert b"host" not in done.stdout
    box.ok("stop", "-t", "0", "box")
    box.sampan("cp", str(tmp_path / "in"), "box:/link/x")
    assert sorted(path.name for path in sentinel.iterdir()) == ["file"]
    assert (sentinel / "file").read_text() == "host"


def test_s047_a_guest_that_floods_its_console(box: Daemon) -> None:
    """What the host keeps of it is bounded."""
    identifier = shim_report(box)
    console = box.root / "data/containers" / identifier / "console"
    script = "mknod /tty c 4 64; head -c 600000 /dev/zero | tr '\\0' x >/tty; echo END-OF-IT >/tty"
    box.ok("exec", "box", "sh", "-c", script, timeout=100)
    eventually(lambda: b"END-OF-IT" in console.read_bytes())
    assert console.stat().st_size <= 256 << 10
    assert box.ok("exec", "box", "echo", "alive") == "alive\n"


# Root in a guest takes the port from the agent, and speaks for it.
_TAKE_OVER = r"""
for device in /sys/bus/virtio/drivers/virtio_console/virtio*; do name=${device##*/}; done
echo $name >/sys/bus/virtio/drivers/virtio_console/unbind
echo $name >/sys/bus/virtio/drivers/virtio_console/bind
sleep 0.5
for port in /sys/class/virtio-ports/*; do
    IFS=: read major minor <$port/dev
    mknod /port c $major $minor
done
REPLAY='\0\0\0\0\0\0\0\055\0{"event": "exit", "id": "../../x", "status": 0}'
i=0; while [ $i -lt 10000 ]; do printf "$REPLAY" || exit 0; head -c 200 /dev/urandom; i=$((i+1)); done >/port
"""


def test_an_agent_that_is_replaced(box: Daemon) -> None:
    """It ends its own machine, with an error that names it; the engine and all others go on."""
    box.sampan("exec", "-d", "box", "sh", "-c", _TAKE_OVER)
    eventually(lambda: json.loads(box.ok("inspect", "box"))[0]["State"]["Status"] == "exited", 60)
    found = json.loads(box.ok("inspect", "box"))[0]["State"]
    assert "virtual machine box: the guest was ended, since its agent does not keep to the protocol" in found["Error"]
    assert found["ExitCode"] == 255
    assert box.ok("exec", "other", "echo", "alive") == "alive\n"
    assert box.ok("exec", "neighbour", "echo", "alive") == "alive\n"
    assert int(status_of(box.process.pid)["VmRSS"].split()[0]) < 200 << 10
    box.ok("start", "box")  # and it is good for another try
    assert box.ok("exec", "box", "echo", "alive") == "alive\n"


def test_a_shim_that_was_taken_over(box: Daemon, tmp_path: Path) -> None:
    """Whatever answers on its socket, the engine gives the error to who has asked, and keeps nothing of it."""
    path = next(path for path in box.root.rglob("vm/*.sock") if shim_report(box).startswith(path.name.split(".")[0]))
    replies = [
        b"\0\0\0\2[]", b"\xff\xff\xff\xff", b"\0\0\0\5{\"a\":", b"\0\0\0\x0b{\"seq\": 1}\n" * 100,
        *(len(body).to_bytes(4, "big") + body for body in (
            b'{"seq": 1, "result": {"cpu_stats": 7}}', b'{"seq": 1, "error": {"a": 1}}', b"[" * 500_000,
            b'{"seq": 1, "result": "' + b"x" * 1_000_000 + b'"}')),
    ]  # fmt: skip
    path.rename(tmp_path / "real")
    for reply in replies:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen()
            client = subprocess.Popen(["sampan", "top", "box"], env=box.env, stderr=subprocess.PIPE)
            sock = listener.accept()[0]
            sock.recv(65536)
            try:
                sock.sendall(reply)
                sock.shutdown(socket.SHUT_WR)
            except OSError:
                pass
            _, said = client.communicate(timeout=30)
            sock.close()
            assert client.returncode != 0, reply[:40]
            assert b"Traceback" not in said
        path.unlink()
    (tmp_path / "real").rename(path)
    assert b"sleep 600" in box.sampan("top", "box").stdout
    assert int(status_of(box.process.pid)["VmRSS"].split()[0]) < 200 << 10
