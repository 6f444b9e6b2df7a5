"""The engine's two directories, its own for as long as it runs: flock(2) on the directories themselves, which needs no space."""

from __future__ import annotations

import errno
import fcntl
import os
import socket

from sampan.engine.errors import EngineError
from sampan.linux import durable

_OWNER = "data-root"  # in the exec root: whose keeper it is


class Premises:
    """The data root and the exec root, held by this process and by no other engine."""

    def __init__(self, data_root: str, run_root: str) -> None:
        """Makes and locks them. Raises EngineError naming the one that another engine has."""
        self._fds: list[int] = []
        try:
            for path, option in ((data_root, "--data-root"), (run_root, "--exec-root")):
                self._fds.append(_hold(path, option))
            self._claim_keeper(data_root, run_root)
        except BaseException:
            self.close()
            raise

    def _claim_keeper(self, data_root: str, run_root: str) -> None:
        """A keeper outlives its engine: one that keeps the containers of another data root is not ours."""
        info = os.fstat(self._fds[0])
        own = f"{info.st_dev}:{info.st_ino} {os.path.realpath(data_root)}"
        marker = f"{run_root}/{_OWNER}"
        try:
            with open(marker, encoding="utf-8", errors="surrogateescape") as file:
                owner = file.read().strip()
        except OSError:
            owner = ""
        same = not owner or set(owner.split(" ", 1)) & set(own.split(" ", 1))
        if not same and listens(f"{run_root}/keeper.sock"):
            raise EngineError(
                f"the keeper in {run_root} keeps the containers of the data root {owner.partition(' ')[2]}: "
                "start sampand with that --data-root, or with another --exec-root"
            )
        if owner != own:
            durable.replace(marker, os.fsencode(f"{own}\n"))

    def close(self) -> None:
        """Lets others have them."""
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()


def make(path: str) -> None:
    """A directory for root only; fine when it is there already on a read-only file system. Raises OSError."""
    try:
        os.makedirs(path, 0o700, exist_ok=True)
        if os.stat(path).st_mode & 0o777 != 0o700:
            os.chmod(path, 0o700)
    except OSError as error:
        if error.errno != errno.EROFS or not os.path.isdir(path):
            raise


def _hold(path: str, option: str) -> int:
    try:
        make(path)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise EngineError(f"{path} can't be used: {error.strerror}: give sampand another {option}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise EngineError(
            f"{path} is used by another sampand{_holder(path)}: stop it, or give this one another {option}"
        ) from None
    except BaseException:
        os.close(fd)
        raise
    return fd


def _holder(path: str) -> str:
    """ " (process N)", as far as /proc/locks tells."""
    info = os.stat(path)
    place = f"{os.major(info.st_dev):02x}:{os.minor(info.st_dev):02x}:{info.st_ino}"
    try:
        with open("/proc/locks", encoding="ascii") as file:
            rows = [line.split() for line in file]
    except OSError:
        return ""
    pid = next((row[4] for row in rows if len(row) > 5 and row[1] == "FLOCK" and row[5] == place), "")
    return f" (process {pid})" if pid else ""


def listens(path: str) -> bool:
    """Whether somebody takes connections at a Unix socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
            return True
        except OSError:
            return False
