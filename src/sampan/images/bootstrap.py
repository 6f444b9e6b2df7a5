"""Base images made from the host's own Debian packages, without any registry."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import tarfile
import tempfile

from sampan.images import archive
from sampan.images.config import Execution
from sampan.images.errors import ImageError
from sampan.images.image import Image
from sampan.images.index import Check
from sampan.images.store import ImageStore

_LONGEST = 3600.0  # seconds for a tool that downloads a distribution
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SUITE = re.compile(r"[a-z][a-z0-9-]{1,40}")
_DISTRIBUTIONS = ("debian", "ubuntu")


def bootstrap(store: ImageStore, name: str, packages: list[str] | None = None, check: Check | None = None) -> Image:
    """Makes `busybox` or `debian:SUITE` / `ubuntu:SUITE`. Raises ImageError with the way out.

    With `packages` beside the smallest set the image has no name: it is for a machine.
    """
    distribution, _, suite = name.partition(":")
    if distribution == "busybox":
        return _busybox(store, name, check)
    if distribution not in _DISTRIBUTIONS or not _SUITE.fullmatch(suite):
        raise ImageError(
            f"can't bootstrap {name!r}: say busybox, debian:SUITE or ubuntu:SUITE, such as debian:bookworm"
        )
    return _debian(store, name, suite, packages or [], check)


def _busybox(store: ImageStore, name: str, check: Check | None) -> Image:
    binary = next((p for p in ("/bin/busybox", "/usr/bin/busybox") if os.path.exists(p)), None)
    if binary is None:
        raise ImageError("no busybox on this host: apt-get install busybox-static")
    with open(binary, "rb") as file:
        if b"ld-linux" in file.read(4096):
            raise ImageError("the host's busybox needs shared libraries: apt-get install busybox-static")
    applets = subprocess.run([binary, "--list"], capture_output=True, text=True, check=True, timeout=60).stdout.split()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for directory, mode in (("bin", 0o755), ("dev", 0o755), ("etc", 0o755), ("home", 0o755), ("proc", 0o755),
                                ("root", 0o700), ("sys", 0o755), ("tmp", 0o1777), ("usr", 0o755),
                                ("usr/sbin", 0o755), ("var", 0o755), ("var/www", 0o755)):  # fmt: skip
            member = tarfile.TarInfo(directory)
            member.type, member.mode = tarfile.DIRTYPE, mode
            tar.addfile(member)
        files = {
            "etc/passwd": "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\n"
            "www-data:x:33:33:www-data:/var/www:/bin/false\nnobody:x:65534:65534:nobody:/home:/bin/false\n",
            "etc/group": "root:x:0:\ndaemon:x:1:\nwww-data:x:33:\nnogroup:x:65534:\n",
        }
        for path, text in files.items():
            member = tarfile.TarInfo(path)
            member.size, member.mode = len(text), 0o644
            tar.addfile(member, io.BytesIO(text.encode()))
        member = tar.gettarinfo(binary, "bin/busybox")
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        member.mode = 0o755
        with open(os.path.realpath(binary), "rb") as file:
            member.type, member.linkname = tarfile.REGTYPE, ""
            member.size = os.fstat(file.fileno()).st_size
            tar.addfile(member, file)
        for applet in applets:
            if applet != "busybox":
                link = tarfile.TarInfo(f"bin/{applet}")
                link.type, link.linkname, link.mode = tarfile.LNKTYPE, "bin/busybox", 0o755
                tar.addfile(link)
    out.seek(0)
    return archive.from_tar(store, out, name, Execution(cmd=("sh",), env=(_PATH,)), "sampan bootstrap busybox", check)


def _mirror(suite: str) -> list[str]:
    """The archive address the host's own apt uses, so that we reach what it reaches."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME)", "Created-By: Packages"]
    answer = _run(command)
    rows = [line.split() for line in answer.stdout.splitlines() if line.strip()]
    exact = [row[0] for row in rows if row[-1] == suite]
    plain = [row[0] for row in rows if "security" not in row[0]]
    return (exact or plain)[:1]


def _debian(store: ImageStore, name: str, suite: str, packages: list[str], check: Check | None) -> Image:
    tool = next((t for t in ("mmdebstrap", "debootstrap") if shutil.which(t)), None)
    if tool is None:
        raise ImageError("bootstrapping needs mmdebstrap or debootstrap: apt-get install mmdebstrap")
    mirror = _mirror(suite)
    include = [f"--include={','.join(packages)}"] if packages else []
    with tempfile.TemporaryDirectory(prefix="sampan-bootstrap-") as directory:
        target = f"{directory}/rootfs.tar"
        if tool == "mmdebstrap":
            command = [tool, "--mode=root", "--variant=minbase", *include, suite, target, *mirror]
            run = _run(command)
        else:
            command = [tool, "--variant=minbase", *include, suite, f"{directory}/root", *mirror]
            run = _run(command)
            if run.returncode == 0:
                run = _run(
                    ["tar", "--numeric-owner", "--one-file-system", "-C", f"{directory}/root", "-cf", target, "."]
                )
        if run.returncode != 0:
            raise ImageError(f"{tool} {suite} failed:\n{(run.stderr or run.stdout)[-2000:]}")
        with open(target, "rb") as file:
            return archive.from_tar(
                store,
                file,
                "" if packages else name,
                Execution(cmd=("bash",), env=(_PATH,)),
                f"sampan bootstrap {name}",
                check,
            )


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """A program that has ended. Raises ImageError when it goes on for too long."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=_LONGEST)
    except subprocess.TimeoutExpired:
        raise ImageError(f"{command[0]}: it has not ended in {_LONGEST:g} s") from None
