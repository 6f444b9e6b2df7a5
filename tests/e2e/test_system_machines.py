"""Virtual machines of the classic kind, and disks for other hypervisors."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import stat
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.vm import ovf
from tests.conftest import Daemon, end_daemon, eventually, new_daemon
from tests.support.processes import check_harmless, children_of

pytestmark = pytest.mark.skipif(
    not shutil.which("qemu-system-x86_64") or not shutil.which("grub-mkimage"), reason="QEMU or GRUB is not installed"
)
HELLO = "echo BOOTED-$((40+2)) as $(id -u) in $PWD with $GREETING"


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    daemon = new_daemon()
    daemon.ok(
        "run", "--name", "made", "--network", "none", "busybox", "sh", "-c", "mkdir -p /srv; echo data > /srv/file"
    )
    daemon.ok(
        "commit",
        "-c",
        f'CMD ["sh", "-c", "{HELLO}; cat /srv/file"]',
        "-c",
        "ENV GREETING=hi",
        "-c",
        "WORKDIR /srv",
        "made",
        "hello",
    )
    daemon.ok(
        "commit", "-c", 'CMD ["sh", "-c", "echo up; while :; do read line && echo got $line; done"]', "made", "server"
    )
    daemon.ok("rm", "made")
    yield daemon
    for name in daemon.ok("vm", "ls", "-q").split():
        daemon.ok("vm", "rm", "-f", name)
    end_daemon(daemon)


def inspect(daemon: Daemon, name: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(daemon.ok("vm", "inspect", name))[0]
    return found


def test_a_system_machine(daemon: Daemon) -> None:
    """From creation to removal: network, agent, console, snapshots, pause, stop, over the end of sampand."""
    daemon.ok("vm", "create", "srv1", "--from", "server", "-m", "256m", "--cpus", "1", timeout=200)
    assert "srv1" in daemon.ok("vm", "ls")
    assert "srv1" not in daemon.ok("ps", "-a")
    assert daemon.sampan("vm", "create", "srv1", "--from", "server").returncode == 1
    daemon.ok("vm", "start", "srv1")
    eventually(lambda: inspect(daemon, "srv1").get("Agent") is True, 120)
    found = inspect(daemon, "srv1")
    _who_reads_it(int(found["State"]["Pid"]))  # type: ignore[index]
    assert stat.S_IMODE(next(daemon.root.glob("data/containers/*/disk.qcow2")).stat().st_mode) == 0o600  # S048
    address = found["Networks"]["bridge"]["IPv4"].partition("/")[0]  # type: ignore[index]
    assert "6." in daemon.ok("vm", "exec", "srv1", "uname", "-r")
    assert address in daemon.ok("vm", "exec", "srv1", "ip", "addr")
    assert daemon.ok("vm", "exec", "srv1", "hostname") == "srv1\n"
    assert (
        daemon.ok(
            "run", "--rm", "busybox", "sh", "-c", f"ping -c 1 -W 5 {address} | grep -c '1 packets received'"
        ).strip()
        == "1"
    )
    assert daemon.sampan("vm", "exec", "srv1", "sh", "-c", "exit 9").returncode == 9
    _console(daemon)
    _snapshots(daemon)
    _as_a_container(daemon)
    daemon.ok("vm", "pause", "srv1")
    assert inspect(daemon, "srv1")["State"]["Status"] == "paused"  # type: ignore[index]
    daemon.ok("vm", "unpause", "srv1")
    daemon.kill()
    daemon.start()
    assert daemon.ok("vm", "exec", "srv1", "cat", "/kept") == "1\n"
    began = time.monotonic()
    daemon.ok("vm", "stop", "-t", "3", "srv1")
    assert time.monotonic() - began < 15
    assert inspect(daemon, "srv1")["State"]["Status"] == "exited"  # type: ignore[index]
    assert daemon.sampan("vm", "exec", "srv1", "true").returncode == 1
    daemon.ok("vm", "rm", "srv1")
    assert daemon.sampan("vm", "inspect", "srv1").returncode == 1
    assert not [name for name in os.listdir(daemon.root / "data/containers") if len(name) == 64]


def _who_reads_it(shim: int) -> None:
    """The shim and its QEMU have a user of their own and no rights, the shim an empty root (issue 14, item 5)."""
    assert os.listdir(f"/proc/{shim}/root") == []
    (qemu,) = children_of(shim)
    assert check_harmless(qemu) == check_harmless(shim)


def _as_a_container(daemon: Daemon) -> None:
    """The commands of containers, by its name: what they do, and what is refused."""
    assert daemon.ok("ps", "--filter", "isolation=machine", "--format", "{{.Names}}").split() == ["srv1"]
    assert json.loads(daemon.ok("inspect", "srv1"))[0]["HostConfig"]["Isolation"] == "machine"
    assert daemon.ok("exec", "srv1", "hostname") == "srv1\n"
    assert "up" in daemon.ok("logs", "srv1")
    assert "qemu" in daemon.ok("top", "srv1")
    used = daemon.http.call("GET", "/containers/srv1/stats?stream=false&one-shot=1")
    assert used["memory_stats"]["usage"] > 64 << 20
    daemon.ok("rename", "srv1", "srv2")
    daemon.ok("rename", "srv2", "srv1")
    daemon.ok("update", "--restart", "no", "srv1")
    for command in (["cp", "srv1:/etc/hostname", "-"], ["export", "srv1"], ["diff", "srv1"], ["commit", "srv1", "x"],
                    ["update", "--memory", "64m", "srv1"]):  # fmt: skip
        done = daemon.sampan(*command)
        assert done.returncode == 1, command
        assert b"system VM srv1" in done.stderr, (command, done.stderr)
    assert not daemon.ok("container", "prune", "-f").count("srv1")


def _console(daemon: Daemon) -> None:
    eventually(lambda: "up" in daemon.ok("vm", "logs", "srv1"))
    master, slave = pty.openpty()
    client = subprocess.Popen(
        ["sampan", "vm", "console", "srv1"],
        env=daemon.env,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    try:
        time.sleep(0.5)
        os.write(master, b"typed\r")
        heard = b""
        deadline = time.monotonic() + 20
        while b"got typed" not in heard and time.monotonic() < deadline:
            if select.select([master], [], [], 1)[0]:
                heard += os.read(master, 4096)
        assert b"got typed" in heard
        os.write(master, b"\x10\x11")  # the keys that detach
        assert client.wait(10) == 0
    finally:
        client.kill()
        client.wait()
        os.close(master)


def _snapshots(daemon: Daemon) -> None:
    daemon.ok("vm", "exec", "srv1", "sh", "-c", "echo 1 > /kept")
    daemon.ok("vm", "snapshot", "srv1", "first")
    daemon.ok("vm", "exec", "srv1", "sh", "-c", "echo 2 > /gone; echo 2 > /kept")
    time.sleep(2)
    daemon.ok("vm", "restore", "srv1", "first")
    assert daemon.ok("vm", "exec", "srv1", "sh", "-c", "cat /kept; ls /gone 2>/dev/null; true") == "1\n"
    eventually(lambda: abs(int(daemon.ok("vm", "exec", "srv1", "date", "+%s")) - time.time()) < 2)  # P100
    assert daemon.ok("vm", "snapshot", "srv1") == "first\tdisk and memory\n"
    assert daemon.sampan("vm", "snapshot", "srv1", "first").returncode == 1
    assert daemon.sampan("vm", "restore", "srv1", "second").returncode == 1
    assert daemon.sampan("vm", "snapshot", "srv1", "a b").returncode == 1
    daemon.ok("vm", "snapshot", "--delete", "srv1", "first")
    assert daemon.ok("vm", "snapshot", "srv1") == ""


# An ordinary PC of an old generation; one of a newer is what an appliance comes back to.
_IDE = ("-M", "pc", "-nic", "user,model=e1000", "-nic", "user,model=e1000e", "-drive", "file={},format={},if=ide")


def _boot(disk: Path) -> str:
    """What such a PC in QEMU says on its serial line when it boots from a disk, until it switches itself off."""
    words = [word.format(disk, disk.suffix[1:]) for word in _IDE]
    done = subprocess.run(
        ["qemu-system-x86_64", *words, "-cpu", "max", "-m", "512", "-nodefaults", "-display", "none", "-vga", "std", "-serial", "stdio",
         "-no-reboot"],
        stdin=subprocess.DEVNULL, capture_output=True, timeout=150,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.decode(errors="replace")


def _export(daemon: Daemon, source: str, target: Path) -> Path:
    """A disk in the format that its name says, which qemu-img finds to be that and whole."""
    form = target.suffix[1:]
    daemon.ok("vm", "export", source, "--format", form, "-o", str(target), timeout=200)
    found = subprocess.run(["qemu-img", "info", "--output=json", target], check=True, capture_output=True).stdout
    assert json.loads(found)["format"] == form
    if form != "raw":
        subprocess.run(["qemu-img", "check", "-f", form, target], check=True, capture_output=True)
    return target


def test_exported_disks_boot(daemon: Daemon, tmp_path: Path) -> None:
    """Each format passes qemu-img's check and boots to the image's command with its environment, user and directory.

    All hold the same, block for block: one of them is booted.
    """
    daemon.ok("vm", "create", "one", "--from", "hello", timeout=200)
    forms = [_export(daemon, "one", tmp_path / f"disk.{form}") for form in ("raw", "qcow2", "vmdk", "vdi", "vhdx")]
    daemon.ok("vm", "rm", "one")
    raw = forms[0]
    assert raw.stat().st_blocks * 512 < raw.stat().st_size / 2
    for disk in forms[1:]:
        subprocess.run(["qemu-img", "compare", "-f", "raw", "-F", disk.suffix[1:], raw, disk], check=True)
    said = _boot(_export(daemon, "hello", tmp_path / "image.vmdk"))
    assert "BOOTED-42 as 0 in /srv with hi" in said
    assert "data" in said
    assert "ended with 0" in said


def test_an_appliance_and_its_way_back(daemon: Daemon, tmp_path: Path) -> None:
    target = tmp_path / "hello.ova"
    daemon.ok("vm", "export", "hello", "-o", str(target), timeout=200)
    with tarfile.open(target) as tar:
        names = tar.getnames()
        assert names == ["hello.ovf", "hello.mf", "hello-disk1.vmdk"]
        described = tar.extractfile("hello.ovf").read()  # type: ignore[union-attr]
    assert ovf.parse(described) == ovf.Appliance("hello", 1, 1024, "hello-disk1.vmdk", 1 << 30)
    daemon.ok("vm", "import", "--bus", "sata", str(target), "back", timeout=100)
    found = inspect(daemon, "back")
    assert (found["Cpus"], found["Memory"]) == (1, 1 << 30)
    daemon.ok("vm", "start", "back")
    eventually(lambda: "BOOTED-42" in daemon.ok("vm", "logs", "back"), 120)
    eventually(lambda: inspect(daemon, "back")["State"]["Status"] == "exited", 60)  # type: ignore[index]
    daemon.ok("vm", "export", "back", "--format", "vdi", "-o", str(tmp_path / "again.vdi"), timeout=100)
    daemon.ok("vm", "rm", "back")
    damaged = bytearray(target.read_bytes())
    damaged[-200000] ^= 0xFF
    (tmp_path / "damaged.ova").write_bytes(damaged)
    done = daemon.sampan("vm", "import", str(tmp_path / "damaged.ova"), "bad")
    assert (done.returncode, b"not what the manifest says" in done.stderr) == (1, True), done.stderr


def test_what_can_not_be_made(daemon: Daemon, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x" * 4096)
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(secret), "-F", "raw", tmp_path / "evil.qcow2"], check=True
    )
    for args, text in (
        (["create", "xx"], "made of one thing"),
        (["create", "xx", "--from", "nothere"], "No such image"),
        (["create", "xx", "--disk", str(tmp_path / "evil.qcow2")], "refers to another file"),
        (["create", "xx", "--disk", "/nothere"], "no disk at"),
        (["create", "xx", "--from", "hello", "--bus", "scsi"], "unknown bus"),
        (["export", "nothere"], "No such image"),
        (["export", "hello", "--format", "iso"], "unknown format"),
        (["start", "nothere"], "No such virtual machine"),
        (["snapshot", "nothere", "s"], "No such virtual machine"),
    ):
        done = daemon.sampan("vm", *args)
        assert (done.returncode, text in done.stderr.decode()) == (1, True), (args, done.stderr)
    assert daemon.ok("vm", "ls", "-q") == ""
    assert not [name for name in os.listdir(daemon.root / "data/containers") if len(name) == 64]
