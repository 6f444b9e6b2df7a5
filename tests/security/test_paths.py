"""Names in images, volumes and archives that lead where they should not (S004, S011, S013, S017, T55), tried for real."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from sampan.images.errors import ImageError
from sampan.images.extract import Extractor
from tests.conftest import Daemon
from tests.support.commands import NONE
from tests.support.contexts import lay
from tests.support.images import image_with


def test_s004_nothing_is_mounted_in_proc(daemon: Daemon) -> None:
    """S004, CVE-2019-19921, CVE-2023-27561, CVE-2023-28642: by its own name, and by those of the image."""
    image_with(daemon, "toproc", ("data", "/proc/sys"), ("deep/up", "../proc"))
    for options in (
        ("-v", "v4:/proc"), ("-v", "v4:/proc/sys"), ("-v", "/etc/hosts:/proc/version"), ("--tmpfs", "/proc/acpi"), ("-v", "v4:/data"),
        ("-v", "v4:/deep/up"), ("--tmpfs", "/data/kernel"), ("-v", "/proc/self:/proc"), ("-v", "/proc/sys:/proc/sys"),
    ):  # fmt: skip
        done = daemon.sampan("run", "--rm", *NONE, *options, "toproc", "cat", "/proc/1/status")
        assert done.returncode == 125, options
        assert b"it is in /proc" in done.stderr, done.stderr
    done = daemon.sampan("run", "--rm", *NONE, "-v", "/etc/hosts:/proc/uptime:ro", "busybox", "cat", "/proc/uptime")
    assert done.stdout == Path("/etc/hosts").read_bytes()  # what lxcfs does
    daemon.sampan("volume", "rm", "v4")


def test_s011_what_stands_for_dev_null(daemon: Daemon) -> None:
    """S011, CVE-2025-31133: whatever the image, or a volume, has in its place, masks are of the host's null device."""
    image_with(
        daemon,
        "nullfile",
        ("dev/null", b"not null"),
        ("dev/pts/ptmx", b"x"),
        ("dev/console", "/proc/sys/kernel/core_pattern"),
    )
    before = Path("/proc/sys/kernel/core_pattern").read_text()
    daemon.ok("volume", "create", "devs")
    data = daemon.root / "data/volumes/devs/_data"
    (data / "null").symlink_to("/proc/sys/kernel/core_pattern")
    (data / "console").symlink_to("/proc/sys/kernel/core_pattern")
    (data / "pts").mkdir()
    os.mkfifo(data / "pts/ptmx")
    masked = "wc -c </proc/keys; wc -c </proc/timer_list; (echo x >/proc/sys/kernel/core_pattern) 2>/dev/null && echo WROTE; true"
    assert daemon.ok("run", "--rm", *NONE, "nullfile", "sh", "-c", masked).split() == ["0", "0"]
    assert daemon.ok("run", "--rm", "-t", *NONE, "nullfile", "sh", "-c", masked).split() == ["0", "0"]
    assert daemon.ok("run", "--rm", *NONE, "-v", "devs:/dev", "busybox", "sh", "-c", masked).split() == ["0", "0"]
    done = daemon.sampan("run", "--rm", "-t", *NONE, "-v", "devs:/dev", "busybox", "true")
    assert done.returncode == 125
    assert b"is not the kernel's" in done.stderr + done.stdout
    assert Path("/proc/sys/kernel/core_pattern").read_text() == before
    daemon.ok("volume", "rm", "devs")


NUMBERS = ["4294967296", "4294967295", "-1", "2147483648", "0x0", "+0", " 0", "\u0660"]


def test_t55_a_number_is_never_a_name(daemon: Daemon, tmp_path: Path) -> None:
    """T55: with lines of such names in the image's files nobody becomes root by them."""
    lines = "".join(f"{name}:x:0:0::/:/bin/sh\n" for name in (*NUMBERS, "root"))
    groups = "".join(f"{name}:x:0:\n" for name in (*NUMBERS, "root"))
    image_with(daemon, "numbers", ("etc/passwd", lines.encode()), ("etc/group", groups.encode()))
    daemon.ok("run", "-d", "--name", "numbered", *NONE, "numbers", "sleep", "1000")
    for name in NUMBERS[::2]:
        for command in (
            ("run", "--rm", *NONE, f"--user={name}", "numbers"), ("run", "--rm", *NONE, f"--user=5:{name}", "numbers"),
            ("run", "--rm", *NONE, f"--group-add={name}", "-u", "5", "numbers"), ("exec", f"--user={name}", "numbered"),
        ):  # fmt: skip
            done = daemon.sampan(*command, "id", "-u")
            assert done.returncode, (command, done)
            assert b"0\n" not in done.stdout
            assert b"out of range" in done.stderr or b"neither a name nor a number" in done.stderr, done.stderr
    for name in ("4294967296", "0x0"):
        for text in (
            f"USER {name}\nRUN id -u >/out",
            f"COPY --chown={name} Dockerfile /out",
            f"COPY --chown=5:{name} Dockerfile /out",
        ):
            top = lay(tmp_path / f"{name}{len(text)}", {"Dockerfile": f"FROM numbers\n{text}\n"})
            done = daemon.sampan("build", *NONE, str(top))
            assert done.returncode, (text, done.stdout)
    assert daemon.ok("run", "--rm", *NONE, "-u", "1000", "numbers", "id", "-u").strip() == "1000"


def test_cp_with_owners_of_the_container(daemon: Daemon) -> None:
    """`docker cp -a` to a container with a user: all of it is that user's, by the container's own files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, kind in (("d", tarfile.DIRTYPE), ("d/f", tarfile.REGTYPE), ("d/l", tarfile.SYMTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.mode, member.linkname, member.uid = (
                kind,
                0o755,
                "f" if kind == tarfile.SYMTYPE else "",
                77,
            )
            tar.addfile(member)
    daemon.ok("run", "-d", "--name", "owned", *NONE, "-u", "1000:1001", "busybox", "sleep", "1000")
    daemon.http.send("PUT", "/containers/owned/archive?path=/tmp&copyUIDGID=1", stream=iter([out.getvalue()])).read()
    found = daemon.ok("exec", "owned", "stat", "-c", "%u:%g", "/tmp/d", "/tmp/d/f", "/tmp/d/l").split()
    assert found == ["1000:1001"] * 3


@pytest.mark.parametrize("uid", [2**32 - 1, 2**32, 2**40])
def test_s017_an_archive_of_nobody(tmp_path: Path, uid: int) -> None:
    """-1 is "as it is" to chown(2): what the archive says to be nobody's would be root's."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("f")
        member.pax_headers, member.mode = {"uid": str(uid)}, 0o4755
        tar.addfile(member)
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with pytest.raises(ImageError):
            Extractor(fd).extract(io.BytesIO(out.getvalue()))
    finally:
        os.close(fd)


def test_s017_shapes(tmp_path: Path) -> None:
    """S017, CVE-2007-4559, CVE-2024-12718, CVE-2025-4138, -4330, -4435, -4517, CVE-2026-7774: nothing outside is made, changed or linked."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("of the host")
    long = "/".join(["d" * 240] * 18)  # longer than PATH_MAX: realpath(3) gives up there
    link, hard, file, directory = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.REGTYPE, tarfile.DIRTYPE
    shapes: list[list[tuple[str, bytes, str]]] = [
        [("l", link, str(outside)), ("l/f", file, "")],
        [("l", link, str(outside)), ("l/secret", file, "")],
        [("l", link, str(outside)), ("l", directory, "")],
        [("l/", link, str(outside)), ("l/f", file, "")],
        [("l", link, ""), ("l/f", file, "")],
        [("a/", link, "../" * 30 + str(outside)[1:]), ("a/f", file, "")],
        [("l", hard, str(outside / "secret"))],
        [("l", link, str(outside / "secret")), ("h", hard, "l"), ("h", file, "")],
        [("l", hard, "../outside/secret"), ("l", file, "")],
        [("x", link, "."), ("x/y", link, ".."), ("x/y/outside/f", file, "")],
        [("../outside/f", file, ""), ("/../outside/g", file, ""), (f"{outside}/h", file, "")],
        [(f"{long}/l", link, "../" * 40 + str(outside)[1:]), (f"{long}/l/f", file, "")],
    ]
    for number, members in enumerate(shapes):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for name, kind, target in members:
                member = tarfile.TarInfo(name)
                member.type, member.linkname, member.mode = kind, target, 0o777
                tar.addfile(member)
        root = tmp_path / f"root{number}"
        root.mkdir()
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            Extractor(fd).extract(io.BytesIO(out.getvalue()))
        except (ImageError, OSError):
            pass  # refusing is fine
        finally:
            os.close(fd)
        assert os.listdir(outside) == ["secret"], members
        assert (outside / "secret").read_text() == "of the host"
        assert (outside / "secret").stat().st_nlink == 1
        assert outside.stat().st_mode & 0o777 != 0o777, members
