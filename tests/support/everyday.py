"""What images expect of their surroundings; the same for every kind of engine and isolation."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable

from tests.conftest import Daemon, eventually
from tests.support.commands import NONE

Case = Callable[[Daemon], None]


def modes_of_what_is_made(daemon: Daemon) -> None:
    """Parents and mountpoints are 0755 of root, and usable by anybody (T30)."""
    script = "umask; stat -c '%n %a %u:%g' /a /a/b /a/b/c /f /f/g /f/g/hosts /w /w/x /s /s/t; ls /a/b/c /w/x"
    out = daemon.ok(
        "run", "--rm", *NONE, "-u", "1000:1000", "-v", "everyday:/a/b/c", "-v", "/etc/hosts:/f/g/hosts:ro", "-w", "/w/x",
        "--tmpfs", "/s/t:mode=755", "busybox", "sh", "-c", script,
    ).splitlines()  # fmt: skip
    assert out[0] == "0022"
    made = {line.split()[0]: line.split()[1:] for line in out[1:11]}
    for path in ("/a", "/a/b", "/f", "/f/g", "/w", "/w/x", "/s", "/s/t"):
        assert made[path] == ["755", "0:0"], path
    assert made["/a/b/c"][0] == "755"
    daemon.ok("volume", "rm", "everyday")


def modes_of_tmpfs(daemon: Daemon) -> None:
    """1777 unless something else is asked for, or a directory of the image is there (T43)."""
    out = daemon.ok(
        "run", "--rm", *NONE, "-u", "1000", "--tmpfs", "/new", "--mount", "type=tmpfs,target=/deep/new2", "--tmpfs", "/m:mode=750",
        "--mount", "type=tmpfs,target=/n,tmpfs-mode=1770", "--tmpfs", "/etc/profile.d", "--tmpfs", "/root", "busybox", "sh", "-c",
        "touch /new/x /deep/new2/x; stat -c '%a' /new /deep/new2 /m /n /etc/profile.d /root /dev/shm /dev /deep",
    )  # fmt: skip
    root = daemon.ok("run", "--rm", *NONE, "busybox", "stat", "-c", "%a", "/root").strip()
    assert out.split() == ["1777", "1777", "750", "1770", "1777", root, "1777", "755", "755"]


def streams_of_a_user(daemon: Daemon) -> None:
    """Standard streams belong to the user of the process: of a container, an exec, a health check (T42)."""
    script = "echo one >/dev/stdout; echo two >/dev/stderr; echo three >>/proc/self/fd/1; cat </dev/stdin; stat -Lc %u /dev/stdout"
    done = daemon.sampan("run", "--rm", "-i", *NONE, "-u", "1000:1000", "busybox", "sh", "-c", script, input=b"in\n")
    assert done.stdout.split() == [b"one", b"three", b"in", b"1000"], done
    assert done.stderr.split() == [b"two"]
    out = daemon.ok("run", "--rm", "-t", *NONE, "-u", "1000", "busybox", "sh", "-c",
                    "echo one >/dev/tty; echo two >$(tty); echo three >/dev/stdout; stat -c '%u %g' $(tty)")  # fmt: skip
    assert out.split() == ["one", "two", "three", "1000", "5"]


def streams_of_further_processes(daemon: Daemon) -> None:
    """The same of a detached container, what is executed in it, and its health check (T42)."""
    daemon.ok(
        "run", "-d", "--name", "daily", *NONE, "-u", "1000", "--tmpfs", "/tmp", "--health-cmd", "echo fine >/dev/stdout",
        "--health-interval", "300ms", "busybox", "sh", "-c", "ln -s /dev/stdout /tmp/log; echo up >/tmp/log; exec sleep 1000",
    )  # fmt: skip
    script = "echo out >/dev/stdout; echo err >/dev/stderr; id -u"
    for user in ("1000", "2000", "0"):
        done = daemon.sampan("exec", "-u", user, "daily", "sh", "-c", script)
        assert (done.stdout.split(), done.stderr) == ([b"out", user.encode()], b"err\n"), done
    out = daemon.ok("exec", "-t", "-u", "2000", "daily", "sh", "-c", "echo tty >/dev/stdout; stat -c '%u %g' $(tty)")
    assert out.split() == ["tty", "2000", "5"]
    assert daemon.ok("logs", "daily") == "up\n"

    def healthy() -> bool:
        health = daemon.http.call("GET", "/containers/daily/json")["State"]["Health"]
        return bool(health["Status"] == "healthy" and health["Log"][-1]["Output"] == "fine\n")

    eventually(healthy, 30)
    daemon.ok("rm", "-f", "daily")


def files_copied_before_the_start(daemon: Daemon, rounds: int = 1) -> None:
    """Compose's configs and secrets: create, cp, start at once; all of the image can be written (T29)."""
    write = "cat /etc/x/app.conf && echo more >>/etc/passwd && mkdir /bin/sub && mv /etc/group /etc/group2 && rm /bin/true && echo fine"
    for number in range(rounds):
        name = f"copied{number}"
        daemon.ok("create", "--name", name, *NONE, "busybox", "sh", "-c", write)
        for _ in range(rounds):
            daemon.ok("cp", "-", f"{name}:/etc", input=tar_of("x/app.conf", b"config\n"))
        done = daemon.sampan("start", "-a", name)
        daemon.ok("wait", name)
        assert daemon.sampan("logs", name).stdout == b"config\nfine\n", done
        # Once more, on the stopped one: what was written is there, and can be written again.
        daemon.ok("cp", "-", f"{name}:/etc", input=tar_of("group", b"root:x:0:\n"))
        daemon.ok("rm", name)


def working_directory_before_the_start(daemon: Daemon) -> None:
    """`create -w /new/dir` makes it, so that files can be copied into it; links are followed in the root."""
    daemon.ok(
        "create",
        "--name",
        "made",
        *NONE,
        "-u",
        "1000",
        "-w",
        "/new/dir",
        "busybox",
        "sh",
        "-c",
        "stat -c '%a %u' /new . && cat app.conf",
    )
    daemon.ok("cp", "-", "made:/new/dir", input=tar_of("app.conf", b"config\n"))
    assert daemon.ok("start", "-a", "made") == "755 0\n755 0\nconfig\n"
    daemon.ok("rm", "made")


def tar_of(name: str, data: bytes) -> bytes:
    """A tar with one file."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    return out.getvalue()
