"""Files that a client names are opened with its rights, where it sees them; a policy is asked where they are on the host (T52)."""

from __future__ import annotations

import base64
import ctypes
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sampan.client.http import APIError, Http
from sampan.engine import hostpaths
from sampan.linux import mount, peer
from sampan.linux import namespaces as ns
from sampan.runtime import borrowed
from tests.conftest import Daemon, end_daemon, new_daemon

BOB, HIS = 4002, "/bobs"
SOAK = bool(os.environ.get("SAMPAN_SOAK"))
POLICY = f"""
[[tenant]]
name = "ops"
users = ["root"]
trusted = true

[[tenant]]
name = "shop"
users = ["{BOB}"]
mounts = ["HIS"]

[[trust]]
tenants = ["ops", "shop"]
"""
FROM = base64.b64encode(b"FROM busybox\nCOPY . /c/\n").decode()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bob's own directory, and beside it what is not his."""
    top = tmp_path_factory.mktemp("identity")
    for path in (top, *top.parents):
        if path.stat().st_mode & 0o001 == 0:
            path.chmod(path.stat().st_mode | 0o011)
    top.chmod(0o755)
    for name in ("his", "his/context", "his/out", "other", "other/context"):
        (top / name).mkdir()
    (top / "his/context/mine").write_text("his own")
    (top / "other/context/theirs").write_text("not his")
    (top / "other/secret").write_text("not his")
    (top / "other/secret").chmod(0o600)
    (top / "other/disk").write_bytes(bytes(1 << 20))
    (top / "other/closed").write_bytes(b"closed" + bytes(1 << 20))
    (top / "other/closed").chmod(0o600)
    for path in (top / "his", *(top / "his").rglob("*")):
        os.chown(path, BOB, BOB)
    return top


@pytest.fixture(scope="module")
def daemon_of_all(place: Path) -> Iterator[Daemon]:
    """Without a policy: bob may do anything but what takes more rights than he has."""
    daemon = new_daemon()
    os.chmod(daemon.root, 0o711)
    yield daemon
    end_daemon(daemon)


@pytest.fixture(scope="module")
def guarded(place: Path) -> Iterator[Daemon]:
    path = place / "policy.toml"
    path.write_text(POLICY.replace("HIS", str(place / "his")))
    daemon = new_daemon("container", "--policy", str(path))
    os.chmod(daemon.root, 0o711)
    yield daemon
    end_daemon(daemon)


def as_bob(work: Callable[[], Any], prepare: Callable[[], object] = lambda: None, uid: int = BOB) -> Any:
    """What `work` returns, or says when the engine refuses, in a process of bob's; `prepare` is done as root before."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            prepare()
            os.setgroups([0] if uid else [])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            try:
                answer = work()
            except APIError as error:
                answer = f"{error.status} {error}"
            os.write(writer, json.dumps(answer).encode())
        except BaseException as error:
            os.write(writer, json.dumps(f"failed: {error!r}").encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        found = json.loads(file.read())
    os.waitpid(pid, 0)
    return found


def elsewhere(source: Path | str, target: Path | str) -> Callable[[], None]:
    """A mount namespace in which `source` is on `target`."""

    def enter() -> None:
        ns.unshare(ns.CLONE_NEWNS)
        mount.mount(None, "/", None, mount.MS_PRIVATE | mount.MS_REC)
        mount.mount(str(source), str(target), None, mount.MS_BIND)

    return enter


def own_tmpfs(target: Path, *files: str) -> Callable[[], None]:
    def enter() -> None:
        ns.unshare(ns.CLONE_NEWNS)
        mount.mount(None, "/", None, mount.MS_PRIVATE | mount.MS_REC)
        mount.mount("x", str(target), "tmpfs")
        for name in files:
            (target / name).write_text(name)

    return enter


def build(daemon: Daemon, **asked: Any) -> Any:
    """Messages of a build; an error among them as text."""
    messages = list(Http(daemon.socket).send("POST", "/sampan/build", {"text": FROM, **asked}).lines())
    found = [json.loads(line) if isinstance(line, bytes | str) else line for line in messages]
    return next((message["error"] for message in found if "error" in message), "built")


def files_of(daemon: Daemon, tag: str) -> list[str]:
    return daemon.ok("run", "--rm", "--network", "none", tag, "ls", "/c").split()


def test_a_context_is_the_clients_own_to_read(daemon_of_all: Daemon, place: Path) -> None:
    daemon = daemon_of_all
    assert as_bob(lambda: build(daemon, context=str(place / "his/context"), tags=["one"])) == "built"
    assert files_of(daemon, "one") == ["mine"]
    assert "closed: Permission denied" in as_bob(lambda: build(daemon, context=str(place / "other")))
    assert "permission denied" in as_bob(lambda: build(daemon, context="/root"))
    assert build(daemon, context=str(place / "other"), tags=["all"]) == "built"  # root
    assert "secret" in files_of(daemon, "all")
    # .dockerignore keeps what can't be read out of it, as it does with Docker's client.
    ignore = base64.b64encode(b"secret\nclosed\n").decode()
    assert as_bob(lambda: build(daemon, context=str(place / "other"), ignore=ignore, tags=["some"])) == "built"
    assert files_of(daemon, "some") == ["context", "disk"]


def test_a_steps_mount_of_the_context_is_the_clients_own_to_read(daemon_of_all: Daemon, place: Path) -> None:
    text = base64.b64encode(b"FROM busybox\nRUN --mount=type=bind,target=/m cat /m/other/secret\n").decode()
    assert "Permission denied" in as_bob(lambda: build(daemon_of_all, context=str(place), text=text, network="none"))


def test_a_context_in_a_namespace_of_its_own(daemon_of_all: Daemon, place: Path) -> None:
    """What the client sees, not what is there for the engine; a file system that only the client has, too."""
    context = place / "his/context"
    for uid in (BOB, 0):
        enter = elsewhere(place / "other/context", context)
        assert as_bob(lambda: build(daemon_of_all, context=str(context), tags=["there"]), enter, uid) == "built"
        assert files_of(daemon_of_all, "there") == ["theirs"]
        own = own_tmpfs(context, "private")
        assert as_bob(lambda: build(daemon_of_all, context=str(context), tags=["own"]), own, uid) == "built"
        assert files_of(daemon_of_all, "own") == ["private"]


def test_the_policy_is_asked_where_a_file_is_on_the_host(guarded: Daemon, place: Path) -> None:
    context = str(place / "his/context")
    assert as_bob(lambda: build(guarded, context=context)) == "built"
    assert f"{place}/other/context is the host's" in as_bob(
        lambda: build(guarded, context=str(place / "other/context"))
    )
    # The path that is allowed is another directory there.
    enter = elsewhere(place / "other/context", context)
    assert f"{place}/other/context is the host's" in as_bob(lambda: build(guarded, context=context), enter)
    # Another name for his own is fine, by whatever path.
    assert as_bob(lambda: build(guarded, context="/mnt"), elsewhere(context, "/mnt")) == "built"
    # What is on no file system of the host can't be allowed.
    refused = as_bob(lambda: build(guarded, context=context), own_tmpfs(place / "his/context", "x"))
    assert refused.startswith("403")
    assert "on no file system of the host" in refused
    (place / "his/link").unlink(missing_ok=True)
    (place / "his/link").symlink_to(place / "other/context")
    assert f"{place}/other/context is the host's" in as_bob(lambda: build(guarded, context=str(place / "his/link")))


def test_a_user_namespace_gives_no_rights(daemon_of_all: Daemon, place: Path) -> None:
    """Root in a namespace of bob's is bob."""

    def work() -> Any:
        ns.unshare(ns.CLONE_NEWUSER)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {BOB} 1")
        os.setresuid(0, 0, 0)
        return build(daemon_of_all, context=str(place / "other"))

    assert "Permission denied" in as_bob(work)


def test_a_pid_namespace_is_no_way_around(daemon_of_all: Daemon, place: Path) -> None:
    def work() -> Any:
        reader, writer = os.pipe()
        if os.fork() == 0:  # process 1 of it, and in its own eyes nobody else's pid
            os.write(writer, build(daemon_of_all, context=str(place / "other")).encode())
            os._exit(0)
        os.close(writer)
        with open(reader, encoding="utf-8") as file:
            return file.read()

    assert "Permission denied" in as_bob(work, lambda: ns.unshare(ns.CLONE_NEWPID))


def test_a_client_that_has_gone_is_nobody(daemon_of_all: Daemon, place: Path) -> None:
    """The connection is handed on; who made it is not there any more."""
    sock = socket.socket(socket.AF_UNIX)
    pid = os.fork()
    if pid == 0:
        sock.connect(daemon_of_all.socket)
        os._exit(0)
    os.waitpid(pid, 0)
    body = json.dumps({"context": str(place / "his/context"), "text": FROM}).encode()
    sock.sendall(b"POST /sampan/build HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
                 b"Content-Length: %d\r\n\r\n%s" % (len(body), body))  # fmt: skip
    answer = b""
    while data := sock.recv(4096):
        answer += data
    assert b" 400 " in answer.split(b"\r\n")[0]
    assert b"can't be read for this client" in answer


def test_outputs_are_the_clients_own(daemon_of_all: Daemon, place: Path) -> None:
    text = base64.b64encode(b"FROM scratch\nCOPY mine /new/mine\n").decode()

    def export(dest: Path | str) -> Any:
        output = {"type": "local", "dest": str(dest)}
        return build(daemon_of_all, context=str(place / "his/context"), text=text, output=output)

    assert as_bob(lambda: export(place / "his/out")) == "built"
    made = place / "his/out/new/mine"
    assert (made.read_text(), made.stat().st_uid, made.parent.stat().st_uid) == ("his own", BOB, BOB)
    before = sorted(os.listdir("/"))
    assert "Permission denied" in as_bob(lambda: export("/"))
    assert "Permission denied" in as_bob(lambda: export(place / "other"))
    assert sorted(os.listdir("/")) == before
    assert not (place / "other/new").exists()
    # A link that waits there leads nowhere.
    (place / "his/out2").mkdir()
    (place / "his/out2/new").symlink_to("/tmp")
    as_bob(lambda: export(place / "his/out2"))
    assert not Path("/tmp/mine").exists()
    root = place / "roots"
    root.mkdir()
    output = {"type": "local", "dest": str(root)}
    assert build(daemon_of_all, context=str(place / "his/context"), text=text, output=output) == "built"
    assert (root / "new/mine").stat().st_uid == 0


def test_agents_are_the_clients_own(daemon_of_all: Daemon, place: Path) -> None:
    text = base64.b64encode(
        b"FROM busybox\nRUN --mount=type=ssh test -S $SSH_AUTH_SOCK && ! test -S $SSH_AUTH_SOCK/..\n"
    ).decode()

    def ask(path: Path) -> Any:
        context = str(place / "his/context")
        return build(
            daemon_of_all, context=context, text=text, network="none", nocache=True, ssh={"default": str(path)}
        )

    for name, mode in (("agent", 0o600), ("roots-agent", 0o600)):
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(place / name))
        listening.listen()
        os.chmod(place / name, mode)
    os.chown(place / "agent", BOB, BOB)
    assert as_bob(lambda: ask(place / "agent")) == "built"
    assert "permission denied" in as_bob(lambda: ask(place / "roots-agent"))
    assert "connection refused" in as_bob(lambda: ask(place / "his/context/mine"))
    assert ask(place / "roots-agent") == "built"


def test_disks_are_the_clients_own(daemon_of_all: Daemon, guarded: Daemon, place: Path) -> None:
    def create(daemon: Daemon, path: Path | str, name: str) -> Any:
        messages = Http(daemon.socket).send("POST", "/sampan/vm/create", {"Name": name, "Disk": str(path)}).lines()
        return b"\n".join(messages).decode()

    disk, closed = place / "other/disk", place / "other/closed"
    assert '"ID"' in as_bob(lambda: create(daemon_of_all, disk, "one"))
    assert "permission denied" in as_bob(lambda: create(daemon_of_all, closed, "two"))
    assert '"ID"' in create(daemon_of_all, closed, "three")
    for path in ("/dev/null", "/proc/kmsg", str(place), "relative", "/nothere"):
        assert as_bob(lambda path=path: create(daemon_of_all, path, "four")).startswith("400 no disk at")
    assert f"{disk} is the host's" in as_bob(lambda: create(guarded, disk, "five"))
    mine = place / "his/disk"
    mine.write_bytes(bytes(1 << 20))
    os.chown(mine, BOB, BOB)
    assert '"ID"' in as_bob(lambda: create(guarded, mine, "six"))
    assert f"{disk} is the host's" in as_bob(lambda: create(guarded, mine, "seven"), elsewhere(disk, mine))
    # Where only its owner sees it, it is copied first.
    there = elsewhere(disk, mine)
    assert '"ID"' in as_bob(lambda: create(daemon_of_all, mine, "eight"), there)
    for daemon in (daemon_of_all, guarded):
        for row in daemon.http.call("GET", "/sampan/vm/json"):
            inside = daemon.root / "data/containers" / row["Id"] / "disk.qcow2"
            assert inside.stat().st_mode & 0o777 == 0o600
            assert inside.stat().st_uid == 0
            daemon.http.call("DELETE", f"/sampan/vm/{row['Name']}?force=1")


def exchange(one: Path, other: Path) -> None:
    """renameat2(RENAME_EXCHANGE)."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.renameat2(-100, os.fsencode(one), -100, os.fsencode(other), 2) == 0


def test_no_race_between_the_check_and_the_use(guarded: Daemon, place: Path) -> None:
    """The name is exchanged for a link to what is not his as fast as it goes, while it is checked and read."""
    top = place / "his/race"
    top.mkdir()
    (top / "context").mkdir()
    (top / "context/mine").write_text("his own")
    (top / "link").symlink_to(place / "other/context")
    for path in (top, *top.rglob("*")):
        os.lchown(path, BOB, BOB)
    going = True

    def swap() -> None:
        while going:
            exchange(top / "context", top / "link")

    # By the policy, by the file system (the link leads where he may not go), or as the name was another's when it was looked up.
    whys = ("is the host's", "permission denied", "is on no file system of the host")
    tags = 0
    thread = threading.Thread(target=swap)
    thread.start()
    try:
        results = set()
        deadline = time.monotonic() + (60 if SOAK else 4)
        for number in range(1000 if SOAK else 30):
            found = as_bob(lambda: build(guarded, context=str(top / "context"), tags=["race"]))
            results.add("built" if found == "built" else "refused" if any(why in found for why in whys) else found)
            if found == "built":
                tags += 1
                image = guarded.http.call("GET", "/images/race/json")["Id"]
                assert files_of(guarded, image) == ["mine"], number
            if time.monotonic() > deadline:
                break
    finally:
        going = False
        thread.join()
    assert results <= {"built", "refused"}
    assert tags


# The pieces.


def connected(uid: int = BOB, groups: tuple[int, ...] = (7, 9)) -> tuple[socket.socket, int]:
    """Our end of a connection of bob's, and the process at the other end."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(f"\0sampan-test-{os.getpid()}")
    listening.listen()
    pid = os.fork()
    if pid == 0:
        os.setgroups(groups)
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(listening.getsockname())
            sock.recv(1)
        os._exit(0)
    ours, _ = listening.accept()
    listening.close()
    return ours, pid


@pytest.mark.parametrize("old", [False, True])
def test_who_a_peer_is(old: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if old:  # a kernel before 6.5
        monkeypatch.setattr(peer, "_SO_PEERPIDFD", 9999)
    sock, pid = connected()
    try:
        found = peer.of(sock, time.clock_gettime(time.CLOCK_BOOTTIME))
        assert (found.uid, found.gid, found.groups, found.pid, found.every) == (BOB, BOB, [7, 9], pid, False)
        found.close()
        if old:
            with pytest.raises(peer.NoPeer, match="another has its pid"):
                peer.of(sock, time.clock_gettime(time.CLOCK_BOOTTIME) - 3600)
    finally:
        sock.send(b"x")
        os.waitpid(pid, 0)
    with pytest.raises(peer.NoPeer, match="has ended"):
        peer.of(sock, time.clock_gettime(time.CLOCK_BOOTTIME))
    sock.close()


def test_a_process_that_works_for_a_peer_has_its_rights_only(tmp_path: Path) -> None:
    who = peer.Peer(BOB, BOB, [7], os.open("/", os.O_PATH), 0)
    reader, writer = os.pipe()
    process = borrowed.start(who, "tests.security.test_identity:tell", [], [writer])
    os.close(writer)
    with open(reader, encoding="ascii") as file:
        text = file.read()
    process.wait()
    who.close()
    lines = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    assert lines["Uid"].split() == [str(BOB)] * 4
    assert lines["Gid"].split() == [str(BOB)] * 4
    assert lines["Groups"].split() == ["7"]
    assert {lines[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert lines["NoNewPrivs"] == "1"


def tell(writer: int) -> None:
    """What /proc says of this process."""
    os.write(writer, Path("/proc/self/status").read_bytes())


def test_paths_do_not_go_through_magic_links(tmp_path: Path) -> None:
    who = peer.Peer(BOB, BOB, [], os.open("/", os.O_PATH), 0)
    try:
        for path in ("/proc/self/root/etc", "/proc/self/cwd", "/proc/self/fd/3"):
            with pytest.raises(OSError, match=r"symbolic links|No such file|Permission"):
                borrowed.open_as(who, path, borrowed.DIRECTORY)
    finally:
        who.close()


def test_where_a_file_is_on_the_host(tmp_path: Path) -> None:
    (tmp_path / "a b\\c").mkdir()
    (tmp_path / "a b\\c/file").write_text("x")
    for path in (tmp_path, tmp_path / "a b\\c", tmp_path / "a b\\c/file"):
        fd = os.open(path, os.O_PATH)
        assert hostpaths.find(fd) == str(path)
        assert hostpaths.here(fd)
        os.close(fd)
    fd = os.open(tmp_path / "a b\\c/file", os.O_RDONLY)
    (tmp_path / "a b\\c/file").unlink()
    assert hostpaths.find(fd) is None
    os.close(fd)
    tree = mount.open_tree(mount.AT_FDCWD, str(tmp_path))
    assert hostpaths.find(tree) is None
    assert not hostpaths.here(tree)
    os.close(tree)
