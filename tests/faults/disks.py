"""Disks that a test can fill, break and copy: an ext4 file system in a sparse file, on a loop device."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Nothing but what is asked for reaches such a disk soon: no commit every five seconds, no flush of what replaces a file.
LAZY = "commit=600,noauto_da_alloc,noinit_itable"


def memory_directory() -> str | None:
    """Where a file costs no disk: the images of disks are copied often."""
    shm = "/dev/shm"
    return shm if os.path.isdir(shm) and shutil.disk_usage(shm).free > 4 << 30 else None


@dataclass
class Disk:
    """A file system image and the place where one machine mounts it; nobody else sees it there, or holds it."""

    image: Path
    mountpoint: Path
    options: str = ""
    pid: int = 0  # the machine's first process

    def make(self, megabytes: int, inodes: int = 0) -> None:
        """A new, empty file system; `inodes` are all that it will ever have."""
        subprocess.run(["truncate", "-s", f"{megabytes}M", str(self.image)], check=True)
        wanted = ["-N", str(inodes)] if inodes else []
        command = ["mkfs.ext4", "-q", "-F", "-m", "0", "-E", "nodiscard", *wanted, str(self.image)]
        subprocess.run(command, check=True, capture_output=True)

    def _run(self, *command: str) -> None:
        inside = ["nsenter", "-t", str(self.pid), "--mount", "--", *command]
        subprocess.run(inside, check=True, capture_output=True)

    def mount(self, pid: int, options: str = "") -> None:
        """Mounts it in a machine; the journal is replayed as after a power cut. Raises CalledProcessError."""
        self.pid = pid
        self.mountpoint.mkdir(parents=True, exist_ok=True)
        chosen = ",".join(part for part in ("loop", self.options, options) if part)
        self._run("mount", "-t", "ext4", "-o", chosen, str(self.image), str(self.mountpoint))

    def remount(self, options: str) -> None:
        """Changes how it is mounted. Raises CalledProcessError."""
        self._run("mount", "-o", f"remount,{options}", str(self.mountpoint))

    @property
    def files(self) -> Path:
        """The mounted file system, as we reach it."""
        return Path(f"/proc/{self.pid}/root{self.mountpoint}")

    @property
    def device(self) -> str:
        """The loop device, as the kernel names it: "loop3". Raises LookupError when it is not mounted."""
        for line in Path(f"/proc/{self.pid}/mounts").read_text().splitlines():
            source, target = line.split()[:2]
            if target == str(self.mountpoint):
                return os.path.basename(source)
        raise LookupError(f"{self.mountpoint} is not mounted")

    def break_down(self) -> None:
        """The kernel finds an error on it: from then on it is read-only (mount it with errors=remount-ro)."""
        Path(f"/sys/fs/ext4/{self.device}/trigger_fs_error").write_text("a test broke it\n")

    def mend(self) -> None:
        """What an administrator does with a disk that broke. It is not mounted."""
        done = subprocess.run(["e2fsck", "-f", "-y", str(self.image)], capture_output=True)
        assert done.returncode in (0, 1), done.stdout.decode()

    def released(self) -> None:
        """Waits until the machine, whose plug has been pulled, has let go of it, and all that was in memory is written."""
        for _ in range(800):
            if not self._attached():
                return
            time.sleep(0.025)
        raise AssertionError(f"{self.image} stays mounted somewhere")

    def _attached(self) -> bool:
        """Whether a loop device has the image; the last mount namespace that knows it takes it along."""
        for file in Path("/sys/block").glob("loop*/loop/backing_file"):
            try:
                if file.read_text().strip() == str(self.image):
                    return True
            except OSError:
                continue
        return False

    def _writes(self) -> tuple[int, int]:
        """Writes that the device has done so far, and requests that are under way."""
        fields = Path(f"/sys/block/{self.device}/stat").read_text().split()
        return int(fields[4]), int(fields[8])

    def copy(self, target: Path) -> bool:
        """What would be on the disk if the power failed now: the image, copied while nothing was written to it.

        What is only in the kernel's memory of the file system is not in the image. False when the disk was
        busy for a second: a copy of it then would be a mixture of several moments.
        """
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline:
            before = self._writes()
            if before[1] == 0:
                copy_sparse(self.image, target)
                if self._writes() == before:
                    return True
            time.sleep(0.001)
        target.unlink(missing_ok=True)
        return False


def copy_sparse(source: Path, target: Path) -> None:
    """Copies what a file has, and leaves its holes holes."""
    with open(source, "rb") as old, open(target, "wb") as new:
        size = os.fstat(old.fileno()).st_size
        os.truncate(new.fileno(), size)
        place = 0
        while place < size:
            try:
                place = os.lseek(old.fileno(), place, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return
                raise
            end = os.lseek(old.fileno(), place, os.SEEK_HOLE)
            while place < end:
                data = os.pread(old.fileno(), min(end - place, 1 << 22), place)
                os.pwrite(new.fileno(), data, place)
                place += len(data)


@contextlib.contextmanager
def disk(mountpoint: Path, megabytes: int, inodes: int = 0, options: str = "") -> Iterator[Disk]:
    """A new disk, to be mounted in a machine that ends inside of the context."""
    with tempfile.TemporaryDirectory(prefix="sampan-disk-", dir=memory_directory()) as directory:
        made = Disk(Path(directory) / "disk", mountpoint, options)
        made.make(megabytes, inodes)
        yield made
        made.released()


def fill(directory: Path) -> Path:
    """Takes every byte that is left. Removing the file that is returned gives them back."""
    ballast = directory / "ballast"
    with open(ballast, "ab", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            block = bytes(size)
            with contextlib.suppress(OSError):
                while file.write(block) == size:
                    pass
        with contextlib.suppress(OSError):
            os.fsync(file.fileno())
    return ballast


def use_inodes(directory: Path) -> Path:
    """Takes every inode that is left. Removing the directory that is returned gives them back."""
    ballast = directory / "ballast"
    ballast.mkdir()
    with contextlib.suppress(OSError):
        for number in range(1 << 20):
            os.close(os.open(ballast / str(number), os.O_CREAT | os.O_WRONLY))
    return ballast
