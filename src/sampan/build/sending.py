"""Contexts and results of clients who are not root: read and written by a process with the client's rights, sent as tar (T52).

What the engine works on is a copy of its own, as if the client had sent it: no file that the client may not read is in it, and
nothing is written where the client may not write.
"""

from __future__ import annotations

import base64
import io
import os
import select
import stat
import subprocess
import tarfile
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, cast

from sampan.build.errors import BuildError
from sampan.build.file_tree import Tree
from sampan.build.patterns import Ignore, parse_ignore
from sampan.images.extract import Extractor
from sampan.linux.peer import Peer
from sampan.runtime import borrowed

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

_PATIENCE = 120.0  # seconds in which something has to move
_STUCK = "the client's files are on a file system that does not answer"


def bring(who: Peer, directory: int, target: int, dockerfile: str, ignore: bytes | None) -> None:
    """Copies a client's context to the directory `target`. Raises BuildError, ImageError."""
    given = None if ignore is None else base64.b64encode(ignore).decode()
    reader, writer = os.pipe()
    with _Pipe(reader) as pipe:
        process = _start(who, "send", [dockerfile, given], directory, writer)
        _finish(process, pipe, lambda: Extractor(target).extract(io.BufferedReader(pipe, 1 << 20)))


def put(who: Peer, directory: int, pack: Callable[[IO[bytes]], None]) -> None:
    """Writes what `pack` writes as tar below a client's directory, as files of the client's. Raises BuildError."""
    reader, writer = os.pipe()
    with _Pipe(writer) as pipe:
        process = _start(who, "receive", [], directory, reader)
        _finish(process, pipe, lambda: pack(cast("IO[bytes]", pipe)))


def _start(who: Peer, work: str, arguments: list[str | None], directory: int, end: int) -> subprocess.Popen[bytes]:
    try:
        return borrowed.start(who, f"{__name__}:{work}", arguments, [directory, end], stderr=subprocess.PIPE)
    finally:
        os.close(end)


def _finish(process: subprocess.Popen[bytes], pipe: _Pipe, work: Callable[[], None]) -> None:
    """Does our part, and says what the process at the other end had to say when either fails."""
    failed: Exception | None = None
    try:
        work()
    except Exception as error:
        failed = error
    try:
        pipe.close()
        _, said = process.communicate(timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        raise BuildError(_STUCK) from failed
    finally:
        borrowed.end(process)
    if process.returncode == 1:
        raise BuildError(said.decode(errors="replace").strip().rpartition("\n")[2]) from failed
    if failed is not None:
        raise failed
    if process.returncode:
        raise BuildError(f"the process that reaches the client's files ended with {process.returncode}")


class _Pipe(io.RawIOBase):
    """Our end of a pipe, at whose other end somebody may let us wait, though not for ever."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        os.set_blocking(fd, False)

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        target = memoryview(buffer)
        if not select.select([self._fd], [], [], _PATIENCE)[0]:
            raise BuildError(_STUCK)
        data = os.read(self._fd, len(target))
        target[: len(data)] = data
        return len(data)

    def write(self, data: ReadableBuffer) -> int:
        rest = whole = memoryview(data)
        while rest:
            if not select.select([], [self._fd], [], _PATIENCE)[1]:
                raise BuildError(_STUCK)
            rest = rest[os.write(self._fd, rest) :]
        return len(whole)

    def close(self) -> None:
        if not self.closed:
            os.close(self._fd)
        super().close()


# In a process that is the client, from here on.


def send(directory: int, out: int, dockerfile: str, ignore: str | None) -> None:
    """Writes what a build may see of a directory as tar."""
    whole = Tree(directory)
    try:
        text = base64.b64decode(ignore) if ignore is not None else whole.read(f"{dockerfile}.dockerignore")
        text = whole.read(".dockerignore") if text is None else text
        visible = Tree(directory, parse_ignore(text) if text else Ignore([]))
        with open(out, "wb") as file, tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT) as tar:
            for path, parent, info in visible.walk(""):
                _add(tar, path, parent, info)
            for path in (dockerfile, f"{dockerfile}.dockerignore", ".dockerignore"):
                _again(tar, whole, path)
    except BrokenPipeError:
        raise SystemExit(2) from None  # the engine has something to say itself
    except (OSError, BuildError) as error:
        raise SystemExit(f"error checking context: {_said(error)}") from None


def _again(tar: tarfile.TarFile, whole: Tree, path: str) -> None:
    """What a build reads of a context though it may be hidden."""
    data = whole.read(path)
    if data is not None:
        member = tarfile.TarInfo(path.strip("/"))
        member.size, member.mode = len(data), 0o644
        tar.addfile(member, io.BytesIO(data))


def _add(tar: tarfile.TarFile, path: str, parent: int, info: os.stat_result) -> None:
    name = os.path.basename(path)
    member = tarfile.TarInfo(path)
    member.mode, member.mtime = stat.S_IMODE(info.st_mode), int(info.st_mtime)
    member.uid, member.gid = info.st_uid, info.st_gid
    if stat.S_ISDIR(info.st_mode):
        member.type = tarfile.DIRTYPE
        tar.addfile(member)
    elif stat.S_ISLNK(info.st_mode):
        member.type, member.linkname = tarfile.SYMTYPE, os.readlink(name, dir_fd=parent)
        tar.addfile(member)
    elif stat.S_ISFIFO(info.st_mode):
        member.type = tarfile.FIFOTYPE
        tar.addfile(member)
    elif stat.S_ISREG(info.st_mode):
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=parent)
        with open(fd, "rb") as file:
            now = os.fstat(fd)
            if not stat.S_ISREG(now.st_mode):
                raise OSError(116, "it was exchanged while it was read", path)
            member.size = now.st_size
            tar.addfile(member, cast("IO[bytes]", _Whole(file, now.st_size)))
    tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps them all


class _Whole:
    """A file that may shrink while it is read: the missing rest is zeros, so the tar stays whole."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._left = file, size

    def read(self, count: int) -> bytes:
        data = self._file.read(min(count, self._left))
        self._left -= count
        return data.ljust(count, b"\0")


def receive(directory: int, source: int) -> None:
    """Writes a tar's members below a directory, as one's own."""
    from sampan.images import compression

    with open(source, "rb", buffering=1 << 20) as stream:
        try:
            Extractor(directory, owner=(os.getuid(), os.getgid()), harmless=True).extract(stream)
        except compression.ERRORS as error:
            raise SystemExit(f"failed to write the output: {error}") from None


def _said(error: Exception) -> str:
    return f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
