"""Options of `run` on devices, groups and what is passed on: each reaches the kernel, or is refused by name."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sampan.client.http import APIError
from sampan.linux.cgroup import Cgroup, hierarchies
from tests.conftest import Daemon
from tests.support.commands import NONE

V1 = hierarchies().v1
IO = "blkio" in V1


def disk() -> str:
    """A block device of this machine's, whose node is in /dev."""
    for name in sorted(os.listdir("/sys/block")):
        path = f"/dev/{name}"
        if (
            os.path.exists(path)
            and stat.S_ISBLK(os.stat(path).st_mode)
            and Path(f"/sys/block/{name}/size").read_text() != "0\n"
        ):
            return path
    pytest.skip("no block device here")


@pytest.fixture
def box(daemon: Daemon) -> Iterator[Any]:
    """Runs a container with options; gives its group and how the engine shows it."""
    made: list[str] = []

    def run(*options: str) -> tuple[Cgroup, dict[str, Any]]:
        made.append(daemon.ok("run", "-d", *NONE, *options, "busybox", "sleep", "60").strip())
        found = daemon.http.call("GET", f"/containers/{made[-1]}/json")
        pid = found["State"]["Pid"]
        rows = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
        return Cgroup(next(path for _, kinds, path in rows if "memory" in kinds.split(",") or not kinds)), found

    yield run
    for name in made:
        daemon.sampan("rm", "-f", name)


def written(group: Cgroup, controller: str, name: str) -> str:
    directory = group.directories().get(controller) or group.v2_directory
    return Path(f"{directory}/{name}").read_text().strip()


def test_rates_of_a_device(box: Any) -> None:
    path = disk()
    number = os.stat(path).st_rdev
    device = f"{os.major(number)}:{os.minor(number)}"
    group, shown = box("--device-read-bps", f"{path}:2mb", "--device-write-bps", f"{path}:3000", "--device-read-iops", f"{path}:50",
                       "--device-write-iops", f"{path}:60")  # fmt: skip
    if IO:
        wanted = {"read_bps": 2 << 20, "write_bps": 3000, "read_iops": 50, "write_iops": 60}
        for name, rate in wanted.items():
            assert written(group, "blkio", f"blkio.throttle.{name}_device") == f"{device} {rate}"
    else:
        assert written(group, "io", "io.max") == f"{device} rbps={2 << 20} wbps=3000 riops=50 wiops=60"
    assert shown["HostConfig"]["BlkioDeviceReadBps"] == [{"Path": path, "Rate": 2 << 20}]
    assert shown["HostConfig"]["BlkioDeviceWriteIOps"] == [{"Path": path, "Rate": 60}]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--device-read-bps", "/dev/null:1mb"), "no block device"),
        (("--device-read-bps", "/dev/no-such:1mb"), "no-such"),
        (("--device-read-bps", "sda:1mb"), "bad format for device path"),
        (("--device-read-iops", "/dev/null:1mb"), "invalid rate for device"),
        (("--device-write-bps", "/dev/null:-1"), "invalid rate for device"),
        (("--blkio-weight-device", "/dev/null:5"), "invalid weight for device"),
        (("--device-cgroup-rule", "x 1:3 r"), "invalid device cgroup rule format: 'x 1:3 r'"),
        (("--cgroup-parent", "/a/../b"), "invalid CgroupParent"),
        (("--memory-swappiness", "101"), "valid memory swappiness range is 0-100"),
        (("--userns", "private"), "invalid userns mode"),
        (("--annotation", "=x"), "empty string is not permitted as an annotation key"),
        (("--kernel-memory", "64m"), "KernelMemory is not implemented"),
        (("--volume-driver", "flocker"), "VolumeDriver is not implemented"),
        (("--gpus", "all"), 'could not select device driver "" with capabilities: [[gpu]]'),
        (("--gpus", "some"), 'value must be either "all" or an integer'),
        (("--gpus", "device=0,colour=red"), "unexpected key 'colour'"),
        (("--device", "vendor.com/class=name"), "unresolvable CDI devices vendor.com/class=name"),
        (("--runtime", "nosuch"), "unknown or invalid runtime name: nosuch"),
    ],
)
def test_what_can_t_be_is_refused_by_name(daemon: Daemon, options: tuple[str, ...], why: str) -> None:
    done = daemon.sampan("run", "--rm", *NONE, *options, "busybox", "true")
    assert (done.returncode, why in done.stderr.decode()) == (125, True), done.stderr


def test_rules_of_devices(daemon: Daemon) -> None:
    """/dev/kmsg is no device of a container's; a rule lets it be read, and nothing else."""
    script = "mknod /k c 1 11 && (head -c1 /k >/dev/null && echo read; true >/k && echo written) 2>/dev/null; true"
    assert daemon.ok("run", "--rm", *NONE, "--cap-add", "SYSLOG", "busybox", "sh", "-c", script) == ""
    for rule in ("c 1:11 rm", "c 1:* r", "a 1:11 r"):
        got = daemon.ok(
            "run", "--rm", *NONE, "--cap-add", "SYSLOG", "--device-cgroup-rule", rule, "busybox", "sh", "-c", script
        )
        assert got == "read\n", rule


@pytest.mark.parametrize("parent", ["/sampan-test-parent", "sampan-test-parent/inner"])
def test_a_parent_of_its_group(box: Any, daemon: Daemon, parent: str) -> None:
    top = Cgroup("/sampan-test-parent")
    try:
        group, shown = box("--cgroup-parent", parent, "--memory", "64m")
        assert group.path == f"/{parent.strip('/')}/{shown['Id']}"
        assert shown["HostConfig"]["CgroupParent"] == parent
        assert group.pids()
        daemon.ok("pause", shown["Id"])
        daemon.ok("unpause", shown["Id"])
        assert "sleep" in daemon.ok("top", shown["Id"])
        daemon.ok("rm", "-f", shown["Id"])
        assert not group.exists()
    finally:
        top.remove()


@pytest.mark.skipif("memory" not in V1, reason="cgroup v2 has no swappiness")
def test_swappiness(box: Any) -> None:
    group, shown = box("--memory-swappiness", "0")
    assert written(group, "memory", "memory.swappiness") == "0"
    assert shown["HostConfig"]["MemorySwappiness"] == 0
    group, shown = box()
    assert shown["HostConfig"]["MemorySwappiness"] is None
    assert written(group, "memory", "memory.swappiness") != "0"


def test_real_time(daemon: Daemon) -> None:
    done = daemon.sampan("run", "--rm", *NONE, "--cpu-rt-runtime", "2000", "--cpu-rt-period", "1000", "busybox", "true")
    assert done.returncode == 125
    assert b"real-time" in done.stderr


def test_what_is_passed_on(box: Any) -> None:
    _, shown = box("--annotation", "a.b/c=d e", "--userns", "host", "--volume-driver", "local", "--entrypoint", "")
    host = shown["HostConfig"]
    assert (host["Annotations"], host["UsernsMode"]) == ({"a.b/c": "d e"}, "host")


def test_gpus_as_they_are_asked_for(daemon: Daemon) -> None:
    from sampan.cli.devices import _gpus

    assert _gpus("all") == {"Driver": "", "Count": -1, "DeviceIDs": [], "Capabilities": [["gpu"]], "Options": {}}
    assert _gpus('"device=0,1",driver=nvidia,"capabilities=utility,video"') == {
        "Driver": "nvidia", "Count": 0, "DeviceIDs": ["0", "1"], "Capabilities": [["utility", "video", "gpu"]], "Options": {},
    }  # fmt: skip
    assert _gpus("2")["Count"] == 2
    assert _gpus("driver=x")["Count"] == 1


def test_cp_as_the_container_s_user(box: Any, daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    _, shown = box("-u", "1234:4321")
    for options, owner in (((), "0 0"), (("-a",), "1234 4321")):
        daemon.ok("cp", *options, str(tmp_path / "f"), f"{shown['Id']}:/tmp/f")
        assert daemon.ok("exec", shown["Id"], "stat", "-c", "%u %g", "/tmp/f").strip() == owner


def test_the_api_s_socket_in_a_container(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"auths": {"r.test:5000": {"auth": "dTpw"}}}))
    script = "test -S /var/run/docker.sock && cat $DOCKER_CONFIG/config.json"
    command = ["sampan", "run", "--rm", *NONE, "--use-api-socket", "busybox", "sh", "-c", script]
    done = subprocess.run(command, env={**daemon.env, "DOCKER_CONFIG": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["auths"]["r.test:5000"]["password"] == "p"


def test_a_link_is_not_removed_alone(daemon: Daemon) -> None:
    name = daemon.ok("create", "busybox", "true").strip()
    done = daemon.sampan("rm", "-l", name)
    assert (done.returncode, b"goes with that container" in done.stderr) == (1, True)
    for words in (("start", "--checkpoint", "a", name), ("start", "-a", "--checkpoint", "a", name)):
        assert b"only supported in experimental mode" in daemon.sampan(*words).stderr
    for words in (("create", name, "x"), ("ls", name), ("rm", name, "x")):
        assert b"experimental feature is disabled" in daemon.sampan("checkpoint", *words).stderr
    daemon.ok("rm", name)


@pytest.mark.parametrize("flag", ["--tls", "--tlsverify", "--tlscacert=x", "--tlscert=x", "--tlskey=x"])
def test_tls_is_refused_by_name(daemon: Daemon, flag: str) -> None:
    done = daemon.sampan(flag, "ps")
    assert (done.returncode, flag.partition("=")[0].encode() in done.stderr, b"no TLS" in done.stderr) == (
        1,
        True,
        True,
    )


def test_images_as_a_tree(daemon: Daemon) -> None:
    lines = daemon.ok("images", "--tree").splitlines()
    assert lines[0].split() == ["IMAGE", "ID", "DISK", "USAGE", "CONTENT", "SIZE", "IN", "USE"]
    at = next(index for index, line in enumerate(lines) if line.startswith("busybox:latest"))
    assert lines[at + 1].startswith("└─ linux/")
    assert daemon.sampan("images", "--tree", "-q").returncode == 1


def test_three_times_control_c_leaves(daemon: Daemon) -> None:
    command = [
        "sampan",
        "run",
        "--rm",
        "--name",
        "deaf",
        *NONE,
        "busybox",
        "sh",
        "-c",
        'trap "" INT TERM; echo up; sleep 30; sleep 30',
    ]
    with subprocess.Popen(command, env=daemon.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        for number in (signal.SIGINT, signal.SIGTERM):
            process.send_signal(number)
            time.sleep(0.3)
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=10)
    assert (process.returncode, said) == (1, b"\ngot 3 SIGTERM/SIGINTs, forcefully exiting\n")
    assert daemon.http.call("GET", "/containers/deaf/json")["State"]["Running"]
    daemon.ok("rm", "-f", "deaf")


def test_the_api_s_words_for_it(daemon: Daemon) -> None:
    for host, why in (({"BlkioDeviceReadBps": [{"Path": "/dev/null", "Rate": 0}]}, "BlkioDeviceReadBps"),
                      ({"BlkioWeightDevice": [{"Path": "/dev/null", "Weight": 1}]}, "BlkioWeightDevice"),
                      ({"MemorySwappiness": -2}, "MemorySwappiness")):  # fmt: skip
        with pytest.raises(APIError, match=why) as caught:
            daemon.http.call("POST", "/containers/create", {"Image": "busybox", "HostConfig": host})
        assert caught.value.status == 400
