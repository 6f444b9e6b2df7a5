"""The guest's kernel: from the distribution's package, extracted as far as a guest needs it and never installed.

Not the one for clouds: that has no 9p, and so no way to the host's files (ADR 13)."""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from typing import IO

from sampan.images import compression
from sampan.linux import durable, filetree
from sampan.vm.errors import VmError

_LONGEST = 900.0  # seconds for any program: a download of 100 MB on a slow line
_PACKAGE = {"x86_64": "linux-image-amd64", "aarch64": "linux-image-arm64"}
# What of a package is kept: the kernel, and the parts of the module tree where MODULES of initramfs are.
_KEPT = ["./boot/vmlinuz-*", *(f"./*lib/modules/*/kernel/{part}/*" for part in ("fs", "net", "lib", "crypto", "arch", "block", "drivers/virtio",
         "drivers/block", "drivers/char", "drivers/net", "drivers/scsi", "drivers/ata", "drivers/nvme", "drivers/message", "drivers/hv", "drivers/cdrom", "drivers/acpi"))]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel on this machine's disk: its release, its image and its modules."""

    release: str
    image: str
    modules: str

    def load_order(self, names: list[str]) -> list[tuple[str, bytes]]:
        """(name, content) of the modules called `names` and of what they need, in the order to load them.

        Those that are built in, or that this kernel has not, are left out. What a module needs is in its
        .modinfo section, as "depends=a,b" (include/linux/module.h).
        """
        found: dict[str, bytes] = {}
        files = self._files()

        def add(name: str) -> None:
            path = files.get(name)
            if name in found or path is None:
                return
            data = _plain(path)
            for need in _depends(data):
                add(need)
            found[name] = data

        for name in names:
            add(name.replace("-", "_"))
        return list(found.items())

    def _files(self) -> dict[str, str]:
        return {
            os.path.basename(path).partition(".ko")[0].replace("-", "_"): path
            for path in glob.glob(f"{self.modules}/kernel/**/*.ko*", recursive=True)
        }


def _plain(path: str) -> bytes:
    """A module's bytes; distributions compress them in several ways."""
    with open(path, "rb") as file:
        return compression.decompress(file).read()


def _depends(data: bytes) -> list[str]:
    at = data.find(b"\0depends=")
    text = data[at + 9 : data.index(b"\0", at + 9)].decode() if at >= 0 else ""
    return [name.replace("-", "_") for name in text.split(",") if name]


def find(cache: str) -> Kernel | None:
    """The kernel that was fetched before, the newest."""
    for image in sorted(glob.glob(f"{cache}/kernel/*/boot/vmlinuz-*"), reverse=True):
        release = os.path.basename(image).removeprefix("vmlinuz-")
        top = os.path.dirname(os.path.dirname(image))
        for modules in (f"{top}/lib/modules/{release}", f"{top}/usr/lib/modules/{release}"):
            if os.path.isdir(f"{modules}/kernel"):
                return Kernel(release, image, modules)
    return None


def fetch(cache: str) -> Kernel:
    """Downloads the package by apt, as the machine is set up, and extracts it below the cache. Raises VmError."""
    package = _PACKAGE.get(os.uname().machine)
    if package is None:
        raise VmError(f"no kernel package is known for {os.uname().machine}")
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise VmError(f"{program} is missing: a kernel is taken from Debian's packages: apt-get install dpkg")
    os.makedirs(f"{cache}/kernel", 0o755, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=f"{cache}/kernel") as work:
        _run(["apt-get", "-o", "APT::Sandbox::User=root", "download", _real(package)], work)
        archive = glob.glob(f"{work}/*.deb")[0]
        _extract(archive, f"{work}/root")
        release = os.path.basename(glob.glob(f"{work}/root/boot/vmlinuz-*")[0]).removeprefix("vmlinuz-")
        target = f"{cache}/kernel/{release}"
        filetree.remove(target, ignore_errors=True)
        durable.sync_tree(work)
        durable.rename(f"{work}/root", target)
    found = find(cache)
    if found is None:
        raise VmError(f"the package {package} holds no kernel we can use")
    return found


def _extract(archive: str, target: str) -> None:
    os.mkdir(target, 0o755)
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", archive], stdout=subprocess.PIPE) as unpack:
        try:
            _run(["tar", "-x", "-C", target, "--wildcards", "--wildcards-match-slash", *_KEPT], "/", unpack.stdout)
        except BaseException:
            unpack.kill()
            raise
    if unpack.returncode:
        raise VmError(f"dpkg-deb: {os.path.basename(archive)} can't be read")


def _real(package: str) -> str:
    """The package with the kernel that a meta package depends on."""
    out = _run(["apt-cache", "depends", "--no-recommends", "--no-suggests", package], "/")
    for line in out.splitlines():
        name = line.strip().removeprefix("Depends: ")
        if line.strip().startswith("Depends: linux-image-"):
            return name
    raise VmError(f"{package} is in none of the machine's package sources: apt-get update")


def _run(command: list[str], directory: str, stdin: IO[bytes] | None = None) -> str:
    try:
        done = subprocess.run(
            command, cwd=directory, stdin=stdin, capture_output=True, text=True, check=False, timeout=_LONGEST
        )
    except subprocess.TimeoutExpired:
        raise VmError(f"{' '.join(command[:3])}: it has not ended in {_LONGEST:g} s") from None
    if done.returncode:
        raise VmError(f"{' '.join(command[:3])}: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout
