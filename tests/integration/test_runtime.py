"""`sampan-runtime` by its command line: the OCI runtime specification's operations on real bundles."""

from __future__ import annotations

import array
import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from sampan.runtime import bundle as bundles
from tests.support.bundles import RUNTIME, Bundle, chown_tree, in_user_namespace
from tests.support.bundles import bundle as bundle


def test_create_start_state_delete(bundle: Bundle) -> None:
    bundle.script("echo started; sleep 100", env=["PATH=/bin"])
    state = bundle.create("--pid-file", f"{bundle.path}/pid")
    assert state["status"] == "created"
    assert state["bundle"] == str(bundle.path)
    assert (bundle.path / "pid").read_text() == str(state["pid"])
    assert bundle.output == ""
    assert "already exists" in bundle.runtime("create", "c").stderr
    bundle.ok("start", "c")
    assert bundle.state()["status"] == "running"
    assert "not created" in bundle.runtime("start", "c").stderr
    assert "not stopped" in bundle.runtime("delete", "c").stderr
    bundle.ok("kill", "c", "KILL")
    bundle.until("stopped")
    assert bundle.state()["pid"] == 0
    assert "not running" in bundle.runtime("kill", "c").stderr
    bundle.ok("delete", "c")
    assert "does not exist" in bundle.runtime("state", "c").stderr
    assert bundle.output == "started\n"
    assert not os.path.exists("/sys/fs/cgroup/memory/sampan-runtime/c")


def test_exit_codes_and_signals(bundle: Bundle) -> None:
    bundle.script("exit 42")
    assert bundle.runtime("run", "c").returncode == 42
    bundle.script("kill -TERM $$; sleep 1")
    bundle.namespaces("mount", "uts")  # pid 1 of its own namespace would ignore the signal
    assert bundle.runtime("run", "c").returncode == 128 + 15
    assert bundle.ok("list", "-q") == ""


def test_a_signal_to_the_runtime_reaches_the_container(bundle: Bundle) -> None:
    bundle.script("trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done")
    (bundle.path / "config.json").write_text(json.dumps(bundle.spec))
    command = [RUNTIME, "--root", f"{bundle.path}/state", "run", "c"]
    with subprocess.Popen(command, cwd=bundle.path, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.terminate()
        assert process.wait(10) == 7


def test_list_ps_features(bundle: Bundle) -> None:
    bundle.script("sleep 100")
    bundle.create()
    bundle.ok("start", "c")
    bundle.until("running")
    (row,) = json.loads(bundle.ok("list", "--format", "json"))
    assert (row["id"], row["status"], row["owner"]) == ("c", "running", "root")
    assert bundle.ok("list").splitlines()[1].split()[:3] == ["c", str(row["pid"]), "running"]
    assert json.loads(bundle.ok("ps", "--format", "json", "c")) == [row["pid"]]
    assert "sleep 100" in bundle.ok("ps", "c")
    features = json.loads(bundle.ok("features"))
    assert features["ociVersionMax"] == "1.2.0"
    assert "tmpcopyup" in features["mountOptions"]


def test_pause_update_resume(bundle: Bundle) -> None:
    bundle.script("sleep 100")
    bundle.spec["linux"]["resources"]["memory"] = {"limit": 64 << 20}
    bundle.create()
    bundle.ok("start", "c")
    bundle.ok("pause", "c")
    assert bundle.state()["status"] == "paused"
    assert "paused" in bundle.runtime("exec", "c", "true").stderr
    bundle.ok("resume", "c")
    assert bundle.state()["status"] == "running"
    bundle.ok("update", "--memory", str(128 << 20), "--pids-limit", "7", "c")
    bundle.ok("update", "--resources", "-", "c", input=json.dumps({"cpu": {"shares": 77}}))
    directories = bundle.ok("exec", "c", "cat", "/proc/self/cgroup")
    assert "/sampan-runtime/c" in directories or "0::/" in directories
    groups = {"memory.limit_in_bytes": "memory", "cpu.shares": "cpu", "pids.max": "pids"}
    if os.path.isdir("/sys/fs/cgroup/memory"):
        values = [Path(f"/sys/fs/cgroup/{where}/sampan-runtime/c/{name}").read_text().strip()
                  for name, where in groups.items()]  # fmt: skip
        assert values == [str(128 << 20), "77", "7"]


def test_limits_that_cannot_be(bundle: Bundle) -> None:
    """An error, no traceback; an update that fails changes nothing."""
    bundle.script("sleep 100")
    bundle.create()
    bundle.ok("start", "c")
    for wanted in ({"pids": {"limit": "x"}}, {"memory": [1]}, [1], {"devices": [{}]}, {"blockIO": {"weight": "x"}}):
        done = bundle.runtime("update", "--resources", "-", "c", input=json.dumps(wanted))
        assert done.returncode == 1
        assert "linux.resources" in done.stderr
        assert "Traceback" not in done.stderr
    bundle.ok("update", "--pids-limit", "50", "--cpu-share", "200", "c")
    done = bundle.runtime("update", "--cpu-share", "300", "--pids-limit", str(1 << 40), "c")
    assert (done.returncode, f"pids limit {1 << 40}: Invalid argument (pids.max)" in done.stderr) == (1, True)
    if os.path.isdir("/sys/fs/cgroup/memory"):
        assert Path("/sys/fs/cgroup/cpu/sampan-runtime/c/cpu.shares").read_text() == "200\n"
    bundle.ok("delete", "--force", "c")
    bundle.spec["linux"]["resources"]["cpu"] = {"period": 8454240984}
    done = bundle.runtime("create", "c")
    assert (done.returncode, "cpu period 8454240984" in done.stderr) == (1, True)


def test_exec(bundle: Bundle) -> None:
    bundle.script("sleep 100")
    bundle.create()
    bundle.ok("start", "c")
    text = bundle.ok("exec", "--cwd", "/bin", "-e", "A=b", "-u", "1000:1001", "c", "sh", "-c", "id; pwd; echo $A $HOME")
    assert text == "uid=1000(app) gid=1001 groups=1001\n/bin\nb /home/app\n"
    assert bundle.runtime("exec", "c", "sh", "-c", "exit 3").returncode == 3
    assert "not found" in bundle.runtime("exec", "c", "nosuch").stderr
    process = {"args": ["cat", "/proc/1/comm"], "cwd": "/", "env": ["PATH=/bin"]}
    (bundle.path / "process.json").write_text(json.dumps(process))
    assert bundle.ok("exec", "--process", "process.json", "c") == "sleep\n"
    bundle.detached("exec", "--detach", "--pid-file", "p", "c", "sleep", "50")
    assert b"sleep" in Path(f"/proc/{(bundle.path / 'p').read_text()}/cmdline").read_bytes()


def _receive_master(listener: socket.socket) -> int:
    connection, _ = listener.accept()
    fds = array.array("i")
    _, ancillary, _, _ = connection.recvmsg(64, socket.CMSG_SPACE(4))
    fds.frombytes(ancillary[0][2][:4])
    connection.close()
    return fds[0]


def test_terminal_by_console_socket(bundle: Bundle) -> None:
    bundle.script("tty; stat -c %a /dev/console; test -t 0 && echo yes > /dev/console", terminal=True,
                  consoleSize={"height": 33, "width": 99})  # fmt: skip
    assert "--console-socket" in bundle.runtime("create", "c").stderr
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{bundle.path}/console")
    listener.listen(1)
    bundle.create("--console-socket", f"{bundle.path}/console")
    master = _receive_master(listener)
    assert os.get_terminal_size(master) == (99, 33)
    bundle.ok("start", "c")
    bundle.until("stopped")
    lines = os.read(master, 4096).decode().split("\r\n")
    os.close(master)
    listener.close()
    assert lines[0] == "/dev/pts/0"
    assert lines[2] == "yes"


def test_terminal_in_the_foreground(bundle: Bundle) -> None:
    bundle.script("tty; read line; echo got $line", terminal=True)
    text = bundle.ok("run", "c", input="word\n")
    assert "/dev/pts/0" in text
    assert "got word" in text


def test_preserved_descriptors_and_no_others(bundle: Bundle) -> None:
    bundle.script("ls /proc/self/fd; cat <&4")
    (bundle.path / "secret").write_text("s")
    (bundle.path / "config.json").write_text(json.dumps(bundle.spec))
    script = f"exec 3</dev/null 4<{bundle.path}/secret 5<{bundle.path}/secret; exec {RUNTIME} --root {bundle.path}/state run --preserve-fds 2 c"
    done = subprocess.run(["bash", "-c", script], cwd=bundle.path, capture_output=True, text=True, check=True)
    assert done.stdout == "0\n1\n2\n3\n4\n5\ns"  # 5 is ls's own


def test_a_created_process_is_no_writable_interpreter(bundle: Bundle) -> None:
    bundle.script("true")
    pid = bundle.create()["pid"]
    with open(f"/proc/{pid}/exe", "rb") as file:
        assert os.fstatvfs(file.fileno()).f_flag & os.ST_RDONLY  # and ETXTBSY as long as it runs
    with pytest.raises(OSError, match=r"Read-only|Text file busy"):
        os.open(f"/proc/{pid}/exe", os.O_WRONLY)


def test_hooks_run_in_order_with_the_state(bundle: Bundle) -> None:
    log = bundle.path / "hooks"
    stages = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]
    outside = bundle.path / "hook.sh"
    outside.write_text(f"#!/bin/sh\necho $1 $(tr -d ' \\n' | sed 's/.*status\":\"\\([a-z]*\\).*/\\1/') >> {log}\n")
    outside.chmod(0o755)
    inside = {"path": "/bin/sh", "args": ["sh", "-c", "echo startContainer $A $(cat) > /hooked"], "env": ["A=b"]}
    bundle.spec["hooks"] = {
        stage: [{"path": str(outside), "args": ["hook.sh", stage], "env": ["PATH=/bin:/usr/bin"]}]
        for stage in stages
        if stage != "startContainer"
    } | {"startContainer": [inside]}
    bundle.script("cat /hooked")
    bundle.create()
    assert [line.split()[0] for line in log.read_text().splitlines()] == stages[:3]
    bundle.ok("start", "c")
    bundle.until("stopped")
    bundle.ok("delete", "c")
    lines = log.read_text().splitlines()
    assert lines[:2] == ["prestart created", "createRuntime created"]
    assert lines[2:] == ["createContainer creating", "poststart running", "poststop stopped"]
    assert bundle.output.startswith("startContainer b {")
    assert '"status": "running"' in bundle.output


@pytest.mark.parametrize("stage", ["prestart", "createRuntime", "createContainer", "startContainer"])
def test_a_failing_hook_ends_the_container(bundle: Bundle, stage: str) -> None:
    bundle.spec["hooks"] = {stage: [{"path": "/bin/sh", "args": ["sh", "-c", "echo no way >&2; exit 3"]}]}
    bundle.script("echo ran")
    done = bundle.runtime("run", "c")
    assert done.returncode == 1
    assert f"{stage} hook /bin/sh: exit status 3: no way" in done.stderr
    assert done.stdout == ""
    assert bundle.ok("list", "-q") == ""


def test_a_hook_that_hangs_is_killed(bundle: Bundle) -> None:
    bundle.spec["hooks"] = {"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "100"], "timeout": 1}]}
    bundle.script("true")
    assert "timeout of 1 s" in bundle.runtime("run", "c").stderr


def test_namespaces_by_path(bundle: Bundle) -> None:
    with subprocess.Popen(["unshare", "--net", "--uts", "--ipc", "--pid", "--fork", "sleep", "100"]) as process:
        try:
            time.sleep(0.3)
            bundle.namespaces(
                "mount",
                {"type": "network", "path": f"/proc/{process.pid}/ns/net"},
                {"type": "uts", "path": f"/proc/{process.pid}/ns/uts"},
                {"type": "ipc", "path": f"/proc/{process.pid}/ns/ipc"},
                {"type": "pid", "path": f"/proc/{process.pid}/ns/pid_for_children"},
            )
            del bundle.spec["hostname"]
            text = bundle.run("for n in net uts ipc; do readlink /proc/self/ns/$n; done; cat /proc/1/comm")
            wanted = [os.readlink(f"/proc/{process.pid}/ns/{name}") for name in ("net", "uts", "ipc")]
            assert text.splitlines() == [*wanted, "sleep"]
        finally:
            process.kill()
            subprocess.run(["pkill", "-P", str(process.pid)], check=False)
    bundle.namespaces("mount", {"type": "network", "path": "/proc/self/ns/uts"})
    assert "is not a network namespace" in bundle.runtime("run", "c").stderr
    bundle.namespaces("mount", {"type": "network", "path": "/nonexistent"})
    assert "/nonexistent" in bundle.runtime("run", "c").stderr


def test_user_namespace(bundle: Bundle) -> None:
    in_user_namespace(bundle)
    text = bundle.run(
        "id -u; id -g; awk '{print $1,$2,$3}' /proc/self/uid_map /proc/self/gid_map; touch /new; echo x >/dev/null && echo ok"
    )
    assert text.splitlines() == ["0", "0", "0 100000 65536", "0 200000 65536", "ok"]
    made = (bundle.rootfs / "new").stat()
    assert (made.st_uid, made.st_gid) == (100000, 200000)


def test_user_namespace_exec_terminal_and_oom(bundle: Bundle) -> None:
    in_user_namespace(bundle)
    bundle.script("sleep 100", oomScoreAdj=500)
    bundle.create()
    bundle.ok("start", "c")
    assert bundle.ok("exec", "c", "sh", "-c", "id -u; cat /proc/1/oom_score_adj") == "0\n500\n"
    assert "/dev/pts/" in bundle.ok("exec", "--tty", "c", "tty", input="")


def test_bind_mounts_in_a_user_namespace(bundle: Bundle) -> None:
    """P077: a source below a directory closed to the mapped user, with and without mapped owners."""
    in_user_namespace(bundle)
    closed = bundle.path / "closed"
    (closed / "data").mkdir(parents=True)
    (closed / "data/file").write_text("content")
    closed.chmod(0o700)
    base = {"type": "bind", "source": str(closed / "data")}
    bundle.spec["mounts"] += [
        {**base, "destination": "/plain", "options": ["rbind"]},
        {**base, "destination": "/mapped", "options": ["rbind", "idmap"]},
    ]
    bundle.spec["process"]["capabilities"] = {key: ["CAP_CHOWN", "CAP_DAC_OVERRIDE"] for key in
                                              ("bounding", "effective", "permitted")}  # fmt: skip
    text = bundle.run("stat -c %u /plain/file /mapped/file; touch /mapped/new; cat /mapped/file")
    assert text.splitlines() == ["65534", "0", "content"]
    assert (closed / "data/new").stat().st_uid == 0


def test_joining_a_user_namespace_makes_the_others_in_it(bundle: Bundle) -> None:
    in_user_namespace(bundle)
    bundle.script("sleep 100")
    first = bundle.create()["pid"]
    bundle.ok("start", "c")
    bundle.spec["linux"].pop("uidMappings")
    bundle.spec["linux"].pop("gidMappings")
    bundle.namespaces({"type": "user", "path": f"/proc/{first}/ns/user"}, "mount", "pid", "network", "ipc", "uts")
    bundle.script("readlink /proc/self/ns/user; id -u; echo $$; hostname inner && hostname",
                  capabilities={key: ["CAP_SYS_ADMIN"] for key in ("bounding", "effective", "permitted")})  # fmt: skip
    text = bundle.ok("run", "second")
    assert text.splitlines() == [os.readlink(f"/proc/{first}/ns/user"), "0", "1", "inner"]


def test_time_namespace(bundle: Bundle) -> None:
    bundle.spec["linux"]["namespaces"].append({"type": "time"})
    bundle.spec["linux"]["timeOffsets"] = {"boottime": {"secs": 10**8}, "monotonic": {"secs": 5, "nanosecs": 7}}
    text = bundle.run("cat /proc/uptime; echo $$; awk '{print $1,$2,$3}' /proc/self/timens_offsets")
    lines = text.splitlines()
    assert float(lines[0].split()[0]) > 10**8
    assert lines[1:] == ["1", "monotonic 5 7", "boottime 100000000 0"]


def test_tmpcopyup(bundle: Bundle) -> None:
    (bundle.rootfs / "data/sub").mkdir(parents=True)
    (bundle.rootfs / "data/sub/file").write_text("below")
    (bundle.rootfs / "data/link").symlink_to("/etc/passwd")
    os.chown(bundle.rootfs / "data/sub", 12, 34)
    bundle.spec["mounts"].append(
        {"destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", "size=1m"]}
    )
    text = bundle.run("cat /data/sub/file; stat -c ' %u:%g' /data/sub; readlink /data/link; touch /data/new")
    assert text.splitlines() == ["below 12:34", "/etc/passwd"]
    assert not (bundle.rootfs / "data/new").exists()


def test_scheduling_and_limits(bundle: Bundle) -> None:
    bundle.spec["process"] |= {
        "scheduler": {"policy": "SCHED_BATCH", "nice": 5},
        "ioPriority": {"class": "IOPRIO_CLASS_IDLE"},
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 1 << 40}],
        "user": {"uid": 1000, "gid": 1000, "umask": 0o077, "additionalGids": [5, 6]},
    }
    bundle.script("ulimit -n; awk '{print $19, $41}' /proc/self/stat; umask; id -G")
    done = bundle.runtime("run", "c")
    assert done.stdout.splitlines() == ["100", "5 3", "0077", "1000 5 6"]
    assert "RLIMIT_NOFILE: may not be raised" in done.stderr or done.stderr == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ociVersion": "7.0"}, "ociVersion"),
        ({"process": {"args": [], "cwd": "/"}}, "process.args"),
        ({"process": {"args": ["x"], "cwd": "rel"}}, "process.cwd"),
        ({"root": {"path": "nowhere"}}, "nowhere"),
        ({"root": {}}, "root.path"),
        ({"linux": {"namespaces": [{"type": "mount"}, {"type": "mount"}]}}, "twice"),
        ({"linux": {"namespaces": [{"type": "mount"}, {"type": "brane"}]}}, "brane"),
        ({"linux": {"namespaces": [{"type": "pid"}]}}, "mount namespace"),
        ({"linux": {"namespaces": [{"type": "mount"}], "seccomp": {"defaultAction": "X"}}, "hostname": ""}, "X"),
        ({"linux": {"namespaces": 5}}, "config.json"),
        ({"linux": {"namespaces": [{"type": "mount"}], "intelRdt": {"closID": "a"}}, "hostname": ""}, "resctrl"),
        ({"linux": {"namespaces": [{"type": "mount"}], "mountLabel": "a"}, "hostname": ""}, "no SELinux"),
        ({"process": {"args": ["x"], "cwd": "/", "selinuxLabel": "a"}}, "selinuxLabel"),
    ],
)
def test_a_bad_config_is_named_and_leaves_nothing(bundle: Bundle, change: dict[str, Any], message: str) -> None:
    bundle.script("true")
    bundle.spec |= change
    done = bundle.runtime("run", "c")
    assert done.returncode == 1
    assert message in done.stderr
    assert bundle.ok("list", "-q") == ""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vm.swappiness", "of no namespace"), ("vm/swappiness", "of no namespace"), ("kernel.core_pattern", "of no namespace"),
        ("net/../vm/swappiness", "no name"), ("net.ipv4.../../vm/swappiness", "no name"), ("net..vm", "no name"),
        ("/vm/swappiness", "no name"), ("net.ipv4.ip_forward\0x", "no name"), ("..vm.swappiness", "no name"),
        ("", "no name"), ("net", "of no namespace"), ("fs.mqueue", "of no namespace"), ("kernel.shmmaxx", "of no namespace"),
        ("kernel.shmmax", "host's ipc"), ("fs.mqueue.msg_max", "host's ipc"), ("kernel.hostname", "host's uts"),
        ("net.ipv4.ip_forward", "host's network"), ("net/ipv4/ip_forward", "host's network"),
        ("user.max_net_namespaces", "host's user"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("how", ["absent", "by path"])
def test_a_sysctl_of_the_host_is_refused(bundle: Bundle, name: str, message: str, how: str) -> None:
    """T45: whatever it is called, and whether the host's namespace is not left or joined by its name."""
    before = [Path(path).read_text() for path in ("/proc/sys/vm/swappiness", "/proc/sys/net/ipv4/ip_forward")]
    paths = [{"type": kind, "path": f"/proc/self/ns/{file}"} for kind, file in
             (("ipc", "ipc"), ("uts", "uts"), ("network", "net"), ("user", "user"))]  # fmt: skip
    bundle.namespaces("mount", "pid", *(paths if how == "by path" else ()))
    bundle.spec.pop("hostname")
    bundle.spec["linux"]["sysctl"] = {name: "1"}
    done = bundle.runtime("run", "c")
    assert done.returncode == 1
    assert message in done.stderr
    assert before == [Path(path).read_text() for path in ("/proc/sys/vm/swappiness", "/proc/sys/net/ipv4/ip_forward")]


def test_sysctls_of_its_own(bundle: Bundle) -> None:
    wanted = {"net.ipv4.conf.lo.rp_filter": "2", "net/ipv4/ip_forward": "1", "kernel.shmmax": "4096", "fs.mqueue.msg_max": "7",
              "kernel.domainname": "d"}  # fmt: skip
    bundle.spec["linux"]["sysctl"] = wanted
    names = (
        "net/ipv4/conf/lo/rp_filter",
        "net/ipv4/ip_forward",
        "kernel/shmmax",
        "fs/mqueue/msg_max",
        "kernel/domainname",
    )
    shown = bundle.run(" ".join(["cat", *(f"/proc/sys/{name}" for name in names)])).split()
    assert shown == list(wanted.values())


def test_errors_by_the_log_file(bundle: Bundle) -> None:
    done = bundle.runtime("--log", "log", "--log-format", "json", "state", "none")
    assert done.returncode == 1
    record = json.loads((bundle.path / "log").read_text())
    assert (record["level"], record["msg"]) == ("error", "container none does not exist")
    assert "invalid container id" in bundle.runtime("state", "../x").stderr
    (bundle.path / "config.json").write_text("{")
    done = subprocess.run([RUNTIME, "run", "-b", str(bundle.path), "c"], capture_output=True, text=True, check=False)
    assert "config.json" in done.stderr
    done = subprocess.run([RUNTIME, "run", "-b", "/nonexistent", "c"], capture_output=True, text=True, check=False)
    assert "is /nonexistent a bundle?" in done.stderr


def test_missing_program_fails_at_create(bundle: Bundle) -> None:
    bundle.spec["process"]["args"] = ["nosuch"]
    assert 'exec: "nosuch": executable file not found in $PATH' in bundle.runtime("create", "c").stderr
    (bundle.rootfs / "plain").write_text("x")
    bundle.spec["process"]["args"] = ["/plain"]
    assert "permission denied" in bundle.runtime("create", "c").stderr
    assert bundle.ok("list", "-q") == ""


def test_an_ordinary_user_runs_containers(bundle: Bundle) -> None:
    bundle.spec = bundles.template(rootless=True)
    bundle.spec["linux"]["uidMappings"][0]["hostID"] = bundle.spec["linux"]["gidMappings"][0]["hostID"] = 4242
    bundle.spec["root"]["readonly"] = False
    bundle.script("id -u; touch /mine; cat /proc/self/setgroups; echo x >/dev/null; hostname", terminal=False)
    (bundle.path / "config.json").write_text(json.dumps(bundle.spec))
    chown_tree(bundle.rootfs, 4242, 4242)
    os.chown(bundle.path, 4242, 4242)
    command = ["setpriv", "--reuid=4242", "--regid=4242", "--clear-groups", RUNTIME, "--root", f"{bundle.path}/state"]
    done = subprocess.run([*command, "run", "c"], cwd=bundle.path, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["0", "deny", "sampan"], done.stderr
    assert done.returncode == 0
    assert (bundle.rootfs / "mine").stat().st_uid == 4242


@pytest.mark.skipif(shutil.which("podman") is None, reason="podman is not installed")
def test_podman_drives_it(bundle: Bundle) -> None:
    """podman run, exec, pause and rm with `--runtime`, through conmon."""
    options = ["--root", f"{bundle.path}/p", "--runroot", f"{bundle.path}/r", "--cgroup-manager", "cgroupfs",
               "--events-backend", "file", "--runtime", RUNTIME]  # fmt: skip

    def podman(*args: str) -> str:
        done = subprocess.run(["podman", *options, *args], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    archive = bundle.path / "root.tar"
    subprocess.run(["tar", "-C", bundle.rootfs, "-cf", archive, "."], check=True)
    podman("import", str(archive), "box")
    try:
        assert podman("run", "--rm", "--net=none", "box", "echo", "hi") == "hi\n"
        podman("run", "-d", "--net=none", "--name", "long", "box", "sleep", "100")
        assert podman("exec", "long", "cat", "/proc/1/comm") == "sleep\n"
        podman("pause", "long")
        assert podman("ps", "-a", "--format", "{{.Status}}").startswith("Paused")
        podman("unpause", "long")
        done = subprocess.run(
            ["podman", *options, "run", "--rm", "--net=none", "box", "sh", "-c", "exit 5"], check=False
        )
        assert done.returncode == 5
    finally:
        podman("rm", "-f", "-t", "0", "long")
        subprocess.run(["podman", *options, "rmi", "-f", "-a"], capture_output=True, check=False)
        subprocess.run(["podman", *options, "system", "reset", "-f"], capture_output=True, check=False)
