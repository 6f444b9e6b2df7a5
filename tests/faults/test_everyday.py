"""Everyday images start: the lines of faults.md marked (!), in both kinds of isolation."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.conftest import Daemon
from tests.support import everyday
from tests.support.bundles import Bundle, in_user_namespace
from tests.support.bundles import bundle as bundle
from tests.support.contexts import build, lay, result


@pytest.mark.parametrize(
    "case",
    [
        everyday.modes_of_what_is_made,
        everyday.modes_of_tmpfs,
        everyday.streams_of_a_user,
        everyday.streams_of_further_processes,
        everyday.files_copied_before_the_start,
        everyday.working_directory_before_the_start,
    ],
    ids=lambda case: case.__name__,
)
def test_everyday(daemon: Daemon, case: everyday.Case) -> None:
    case(daemon)


def test_a_working_directory_that_cannot_be(daemon: Daemon) -> None:
    done = daemon.sampan("create", "-w", "/etc/passwd/x", "busybox", "true")
    assert done.returncode
    assert b"/etc/passwd/x: Not a directory" in done.stderr
    assert daemon.ok("ps", "-aq") == ""


def test_copying_and_starting_at_the_same_time(daemon: Daemon) -> None:
    """One root of a container, whoever mounts it first: copies into it go on while it starts, and nothing is lost (T29)."""
    everyday.files_copied_before_the_start(daemon, 3)
    daemon.ok("create", "--name", "busy", *everyday.NONE, "busybox", "sh", "-c",
              "while ! [ -e /go ]; do touch /bin/$RANDOM || exit 1; done; ls /etc | grep -c copied")  # fmt: skip
    failures: list[str] = []

    def copy(number: int) -> None:
        for round_ in range(6):
            done = daemon.sampan(
                "cp", "-", "busy:/etc", input=everyday.tar_of(f"copied{number}-{round_}", bytes(100_000))
            )
            failures.extend([done.stderr.decode()] if done.returncode else [])

    threads = [threading.Thread(target=copy, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    daemon.ok("start", "busy")
    for thread in threads:
        thread.join()
    daemon.ok("cp", "-", "busy:/", input=everyday.tar_of("go", b""))
    assert daemon.ok("wait", "busy").strip() == "0", daemon.ok("logs", "busy")
    assert not failures
    assert daemon.ok("logs", "busy") == "18\n"


def test_everyday_in_builds(daemon: Daemon, tmp_path: Path) -> None:
    """Steps of a build have the same runtime: parents, tmpfs, streams."""
    dockerfile = (
        "FROM busybox\nWORKDIR /w/x\nUSER 1000:1000\nWORKDIR /u/y\n"
        "RUN --mount=type=tmpfs,target=/t/t --mount=type=cache,target=/c/c,mode=777 touch /t/t/x /c/c/x"
        " && echo step >/dev/stdout && echo err >/dev/stderr && stat -c '%n %a %u' / /w /w/x /t /t/t /c >/tmp/modes\n"
    )
    top = lay(tmp_path / "context", {"Dockerfile": dockerfile})
    done = build(daemon, top)
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    assert b"step" in done.stdout + done.stderr
    modes = dict(line.split(maxsplit=1) for line in (result(daemon, top) / "tmp/modes").read_text().splitlines())
    assert modes == {"/": "755 0", "/w": "755 0", "/w/x": "755 0", "/t": "755 0", "/t/t": "1777 0", "/c": "755 0"}


@pytest.mark.parametrize("mapped", [False, True], ids=["root", "user-namespace"])
def test_everyday_in_the_runtime(bundle: Bundle, mapped: bool) -> None:
    """The OCI runtime alone, whatever the umask of its caller, and in a user namespace."""
    if mapped:
        in_user_namespace(bundle)
    terminals = next(entry for entry in bundle.spec["mounts"] if entry["type"] == "devpts")
    terminals["options"].append("gid=5")
    bundle.spec["mounts"] += [
        {"destination": "/new/tmp", "type": "tmpfs", "source": "tmpfs"},
        {"destination": "/etc", "type": "tmpfs", "source": "tmpfs"},
        {"destination": "/d/e/f", "type": "bind", "source": str(bundle.path / "config.json"), "options": ["bind"]},
    ]
    script = (
        "echo out >/dev/stdout; echo err >/dev/stderr; touch /new/tmp/x;"
        "stat -c '%n %a %u' /new /new/tmp /etc /d /d/e /w /w/w"
    )
    bundle.script(script, user={"uid": 1000, "gid": 1000}, cwd="/w/w")
    done = bundle.runtime("run", "c", umask=0o077)
    assert (done.returncode, done.stderr) == (0, "err\n"), done.stderr
    lines = ["out", "/new 755 0", "/new/tmp 1777 0", "/etc 755 0", "/d 755 0", "/d/e 755 0", "/w 755 0", "/w/w 755 0"]
    assert done.stdout.splitlines() == lines
    assert (bundle.rootfs / "w").stat().st_uid == (100000 if mapped else 0)
    bundle.script("sleep 100")
    bundle.create()
    bundle.ok("start", "c")
    try:
        inner = ("sh", "-c", "echo out >/dev/stdout; stat -Lc %u /proc/self/fd/1")
        assert bundle.ok("exec", "-u", "1000:1000", "c", *inner) == "out\n1000\n"
        line = bundle.ok(
            "exec", "--tty", "-u", "1000:1000", "c", "sh", "-c", "echo x >$(tty); stat -c '%u %g' $(tty)", input=""
        )
        assert line.split() == ["x", "1000", "5"]
    finally:
        bundle.ok("delete", "--force", "c")
