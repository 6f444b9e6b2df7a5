"""Names that are exchanged between the check and the use (T50, T54): what was checked is what is used, whatever stands there by then.

Each race has a sentinel outside that must neither change nor be seen. CI tries each a few times, `make soak` for a minute or 1,000 times.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.client.http import APIError, NoEngine
from tests.conftest import Daemon
from tests.faults.exchanging import covered, exchanged, tries
from tests.support.commands import NONE
from tests.support.contexts import lay


def volume(daemon: Daemon, name: str) -> Path:
    """An empty volume, as its containers and the test see it."""
    daemon.ok("volume", "create", name)
    return daemon.root / f"data/volumes/{name}/_data"


@pytest.fixture
def sentinel(tmp_path: Path) -> Iterator[Path]:
    """A directory of the host that nobody may write to, or list: it holds a secret."""
    top = tmp_path / "outside"
    top.mkdir(0o700)
    (top / "secret").write_text("of the host")
    (top / "secret").chmod(0o600)
    (top / "inner").mkdir(0o700)
    (top / "inner/secret").write_text("of the host")
    before = described(top)
    yield top
    assert described(top) == before


def described(top: Path) -> list[tuple[str, int, int, int]]:
    """What a write, a chmod or a chown would have changed."""
    rows = [(str(path), path.lstat()) for path in [top, *sorted(top.rglob("*"))]]
    return [
        (path, info.st_mode, info.st_uid, info.st_mtime_ns if stat.S_ISREG(info.st_mode) else 0) for path, info in rows
    ]


def shown(daemon: Daemon, body: dict[str, object]) -> str:
    """What a container of this body prints; "" when it was refused to be made or started."""
    created = daemon.http.call("POST", "/containers/create", {"Image": "busybox", "NetworkDisabled": False, **body})[
        "Id"
    ]
    try:
        try:
            daemon.http.call("POST", f"/containers/{created}/start")
        except APIError:
            return ""
        daemon.http.call("POST", f"/containers/{created}/wait")
        answer = daemon.http.send("GET", f"/containers/{created}/logs?stdout=1&stderr=1")
        return b"".join(answer.chunks()).decode(errors="replace")
    finally:
        daemon.http.call("DELETE", f"/containers/{created}?force=1&v=1")


def test_t50_a_volumes_sub_path(daemon: Daemon, sentinel: Path, isolation: str) -> None:
    """T50: 17 of 60 starts mounted the host's root."""
    data = volume(daemon, "raced")
    (data / "sub").mkdir()
    (data / "sub/mine").touch()
    (data / "other").symlink_to(sentinel)
    mounts = [{"Type": "volume", "Source": "raced", "Target": "/m", "VolumeOptions": {"Subpath": "sub"}}]
    host = {"NetworkMode": "none", "Mounts": mounts}
    seen = refused = 0
    with exchanged(data / "sub", data / "other"):
        for _ in tries(2 if isolation == "vm" else 50):
            text = shown(daemon, {"HostConfig": host, "Cmd": ["sh", "-c", "ls /m; touch /m/x; chmod 777 /m"]})
            assert "secret" not in text
            seen += "mine" in text
            refused += not text
    assert seen or isolation == "vm"
    assert seen + refused
    daemon.ok("volume", "rm", "raced")


def test_s006_mountpoints_in_a_shared_volume(daemon: Daemon, sentinel: Path, isolation: str) -> None:
    """S005, S006, CVE-2021-30465, CVE-2024-45310: a mountpoint's parents are exchanged while they are made and mounted on.

    Every try has mountpoints of its own: only what is missing is made.
    """
    data = volume(daemon, "shared")
    (data / "a").mkdir()
    (data / "x").symlink_to(sentinel)
    (sentinel.parent / "f").write_text("")
    before = described(sentinel)
    with exchanged(data / "a", data / "x"):
        for number in tries(2 if isolation == "vm" else 20):
            places = [f"/v/a/{number}.{place}" for place in range(3 if isolation == "vm" else 10)]
            binds = ["shared:/v", *(f"{sentinel.parent / 'f'}:{place}.f/f" for place in places)]
            host = {
                "NetworkMode": "none",
                "Binds": [*binds, *(f"anything:{place}.v" for place in places)],
                "Tmpfs": {f"{place}.t/u": "" for place in places},
            }
            body = {"HostConfig": host, "WorkingDir": f"/v/a/{number}.w/w", "Cmd": ["sh", "-c", "find /v | sort"]}
            assert "secret" not in shown(daemon, body)
            assert described(sentinel) == before
    daemon.ok("volume", "rm", "shared")
    daemon.ok("volume", "rm", "anything")


def test_a_device_in_a_shared_volume(daemon: Daemon, sentinel: Path) -> None:
    """The mode of a device's node is not given to what has taken its place."""
    data = volume(daemon, "nodes")
    device = {"PathOnHost": "/dev/null", "PathInContainer": "/v/node", "CgroupPermissions": "rwm"}
    host = {"NetworkMode": "none", "Binds": ["nodes:/v"], "Devices": [device]}
    with covered(data / "node", sentinel / "secret"):
        for _ in tries(30):
            shown(daemon, {"HostConfig": host, "Cmd": ["true"]})
    daemon.ok("volume", "rm", "nodes")


def archive(*members: tuple[str, bytes, int, bytes]) -> bytes:
    """A tar of (name, type, mode, content or target)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, mode, content in members:
            member = tarfile.TarInfo(name)
            member.type, member.mode, member.uid, member.gid = kind, mode, 4321, 4321
            if kind == tarfile.REGTYPE:
                member.size = len(content)
                member.pax_headers = {"SCHILY.xattr.user.x": "y"}
                tar.addfile(member, io.BytesIO(content))
            else:
                member.linkname = content.decode()
                tar.addfile(member)
    return out.getvalue()


@contextlib.contextmanager
def root_of(daemon: Daemon, name: str) -> Iterator[Path]:
    """A container that runs, and its root as the host sees it."""
    daemon.ok("run", "-d", "--name", name, *NONE, "busybox", "sleep", "1000")
    pid = int(daemon.ok("inspect", "-f", "{{.State.Pid}}", name))
    yield Path(f"/proc/{pid}/root")
    daemon.ok("rm", "-f", name)


def test_t54_copying_into_a_running_container(daemon: Daemon, sentinel: Path) -> None:
    """T54: a host's file became 0666."""
    with root_of(daemon, "target") as root:
        (root / "w").mkdir()
        members = [(f"{place}{number}", tarfile.DIRTYPE if place == "d" else tarfile.REGTYPE, 0o2777, b"x")
                   for number in range(40) for place in "df"]  # fmt: skip
        body = archive(("d", tarfile.DIRTYPE, 0o777, b""), ("d/f", tarfile.REGTYPE, 0o666, b"x"), *(
            (f"{kind}", tarfile.REGTYPE if kind == "f" else tarfile.DIRTYPE, 0o666, b"x") for _ in range(100) for kind in ("f", "d")
        ), *members)  # fmt: skip
        with contextlib.ExitStack() as stack:
            for name, target in (("d", sentinel / "inner"), ("f", sentinel / "secret")):
                stack.enter_context(covered(root / "w" / name, target))
            for _ in tries(25):
                with contextlib.suppress(APIError):
                    daemon.http.send("PUT", "/containers/target/archive?path=/w", stream=iter([body])).read()


def test_copying_out_of_a_running_container(daemon: Daemon, sentinel: Path) -> None:
    """A file that has become a link, or a device, since it was listed is not read."""
    disk = sentinel.parent / "disk"
    os.mknod(disk, stat.S_IFCHR | 0o600, os.makedev(1, 1))  # /dev/mem
    with root_of(daemon, "source") as root:
        (root / "w").mkdir()
        (root / "w/f").write_text("a" * 11)
        (root / "w/d").mkdir()
        (root / "w/d/secret").write_text("a" * 11)
        (root / "w/l").symlink_to(sentinel / "secret")
        (root / "w/m").symlink_to(sentinel)
        with exchanged(root / "w/f", root / "w/l"), exchanged(root / "w/d", root / "w/m"):
            for number in tries(200):
                path = ("/w", "/w/f", "/w/d/secret", "/w/d/.")[number % 4]
                try:
                    answer = daemon.http.send("GET", f"/containers/source/archive?path={path}")
                    assert b"of the host" not in b"".join(answer.chunks())
                except (APIError, NoEngine):  # what is asked for is not there now, or gone when it is its turn
                    continue


def test_cp_to_a_directory_that_others_write_to(daemon: Daemon, sentinel: Path, tmp_path: Path) -> None:
    """`sampan cp` onto the host, as root, below a directory whose owner puts links there."""
    with root_of(daemon, "given") as root:
        (root / "t/d").mkdir(parents=True)
        (root / "t/d/secret").write_text("copied")
        (root / "t/secret").write_text("copied")
        target = tmp_path / "theirs"
        (target / "t/d").mkdir(parents=True)
        (target / "t/secret").symlink_to(sentinel / "secret")
        (target / "t/other").symlink_to(sentinel)
        daemon.ok("cp", "given:/t", str(target))
        assert (target / "t/secret").read_text() == (target / "t/d/secret").read_text() == "copied"
        assert not (target / "t/secret").is_symlink()
        with exchanged(target / "t/d", target / "t/other"):
            for _ in tries(8):
                daemon.sampan("cp", "given:/t", str(target))
        (target / "t/leak").symlink_to(sentinel / "secret")
        daemon.ok("cp", f"{target}/t/leak", "given:/leak")
        assert os.readlink(root / "leak") == str(sentinel / "secret")


def builds_see_no_secret(daemon: Daemon, top: Path, tmp_path: Path) -> None:
    """Builds, again and again, a Dockerfile that writes what it sees to /out."""
    seen = 0
    for number in tries(8):
        out = tmp_path / f"out{number}"
        daemon.sampan("build", *NONE, "--build-arg", f"N={number}", "-o", str(out), str(top))
        if (out / "out").exists():
            assert "secret" not in (out / "out").read_text()
            seen += 1
    assert seen


def test_s026_the_sub_path_of_a_cache_mount(daemon: Daemon, sentinel: Path, tmp_path: Path) -> None:
    """S026, CVE-2024-23651: a step exchanges the directory of a cache for a link while another step mounts it."""
    top = lay(
        tmp_path / "c",
        {
            "Dockerfile": "FROM busybox\nARG N\nRUN --mount=type=cache,target=/x,id=raced,source=a/inner ls /x >/out; touch /x/mine\n"
        },
    )
    daemon.ok("build", *NONE, "-q", str(top))
    caches = daemon.root / "data/builds/caches"
    data = next(path.parent / "data" for path in caches.glob("*/name") if path.read_text() == "raced")
    (data / "l").symlink_to(sentinel)
    (data / "l2").mkdir()
    with exchanged(data / "a", data / "l"):
        builds_see_no_secret(daemon, top, tmp_path)


def test_s027_a_bind_from_a_stage(daemon: Daemon, sentinel: Path, tmp_path: Path) -> None:
    """S027, CVE-2024-1753, CVE-2024-9675: links in another stage, or in the context, lead nowhere; a context that changes neither."""
    files = {"Dockerfile": "FROM busybox AS evil\nRUN ln -s / /l; ln -s ../../../../.. /up\nFROM busybox\n"
             "RUN --mount=type=bind,from=evil,source=/l,target=/a ls /a >/out\n"
             "RUN --mount=type=bind,from=evil,source=/up,target=/b ls /b >>/out\n"
             "RUN --mount=type=cache,id=../../../../../../x,target=/c ls -a /c >>/out; touch /c/mine\n"}  # fmt: skip
    top = lay(tmp_path / "s", files)
    daemon.ok("build", *NONE, "-o", str(tmp_path / "o"), str(top))
    assert not {"work", "data", "lib64"} & set((tmp_path / "o/out").read_text().split())
    mounts = " ".join(f"--mount=type=bind,source=d,target=/{number}" for number in range(10))  # each is a chance
    files = {
        "Dockerfile": f"FROM busybox\nARG N\nRUN {mounts} ls /0 /1 /2 /3 /4 /5 /6 /7 /8 /9 >/out\n",
        "d/mine": "",
        "l": f"-> {sentinel}",
        f"{sentinel.relative_to('/')}/mine": "",  # the link leads somewhere in the context, too: every build goes on to mount
    }
    top = lay(tmp_path / "c", files)
    with exchanged(top / "d", top / "l"):
        builds_see_no_secret(daemon, top, tmp_path)
