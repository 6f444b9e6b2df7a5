"""Directories over a session: fsutil's exchange of what there is, what is wanted, and its content."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import posixpath
import stat
from typing import Any
from urllib.parse import quote_plus

from grpclib.exceptions import StreamTerminatedError

from sampan.api.buildkit import messages
from sampan.api.buildkit.sessions import Session
from sampan.build.errors import BuildError
from sampan.build.file_tree import Tree, clean
from sampan.linux import nodes, openat2

_STAT, _REQ, _DATA, _FIN, _ERR = range(5)
# Go's os.FileMode, which the protocol speaks.
_DIR, _LINK, _DEVICE, _PIPE, _SOCKET = 1 << 31, 1 << 27, 1 << 26, 1 << 25, 1 << 24
_SETUID, _SETGID, _CHAR, _STICKY = 1 << 23, 1 << 22, 1 << 21, 1 << 20
_TYPES = _DIR | _LINK | _DEVICE | _PIPE | _SOCKET | (1 << 19)
_RECEIVE, _SEND = "/moby.filesync.v1.FileSync/DiffCopy", "/moby.filesync.v1.FileSend/DiffCopy"
_CHUNK = 32 << 10
# What names and kinds of files can be to blame for, which are the client's.
_ITS_FAULT = (errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EINVAL, errno.ELOOP, errno.EXDEV,
              errno.EPERM, errno.EMLINK)  # fmt: skip


def _metadata(values: dict[str, list[str]]) -> list[tuple[str, str]]:
    """gRPC metadata; what is not ASCII is escaped and marked so."""
    found = []
    for key, items in values.items():
        plain = all(item.isascii() and item.isprintable() for item in items)
        found += [(key, item if plain else quote_plus(item)) for item in items]
        if not plain:
            found.append((f"{key}-encoded", "1"))
    return found


async def receive(
    session: Session, name: str, rootfd: int, include: list[str] | None = None, exclude: list[str] | None = None
) -> None:
    """Brings a directory of the client's below `rootfd`. Raises BuildError."""
    if _RECEIVE not in session.methods:
        raise BuildError("no local sources enabled")
    values = {"dir-name": [name], "include-patterns": include or [], "exclude-patterns": exclude or []}
    async with session.stream(_RECEIVE, "Packet", "Packet", _metadata(values)) as stream:
        await stream.send_request()
        await _Receiver(stream, rootfd).run()


class _Receiver:
    """One directory coming in. Names are the client's: nothing is made outside of the root."""

    def __init__(self, stream: Any, rootfd: int) -> None:
        self._stream, self._rootfd = stream, rootfd
        self._files: dict[int, tuple[int, Any]] = {}
        self._directories: list[tuple[str, Any]] = []
        self._count = 0
        self._listed = False

    async def run(self) -> None:
        try:
            while not (self._listed and not self._files):
                packet = await self._stream.recv_message()
                if packet is None:
                    raise BuildError("the client ended the transfer of the build context")
                if packet.type == _ERR:
                    raise BuildError(f"error from sender: {packet.data.decode(errors='replace')}")
                if packet.type == _STAT:
                    try:
                        await self._stat(packet)
                    except (OSError, ValueError, OverflowError) as error:
                        if isinstance(error, OSError) and error.errno not in _ITS_FAULT:
                            raise
                        name = packet.stat.path[:200]
                        raise BuildError(f"the build context can't be taken over: {name!r}: {error}") from None
                elif packet.type == _DATA:
                    self._data(packet)
            for path, row in reversed(self._directories):
                fd = openat2.open_in_root(self._rootfd, path, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    os.utime(fd, ns=(row.modTime, row.modTime))
                finally:
                    os.close(fd)
            await self._stream.send_message(messages.new("Packet", type=_FIN), end=True)
            with contextlib.suppress(StreamTerminatedError):  # it has what it needs: an answer is only polite
                while (packet := await self._stream.recv_message()) is not None and packet.type != _FIN:
                    pass
        finally:
            for fd, _ in self._files.values():
                os.close(fd)

    async def _stat(self, packet: Any) -> None:
        if not packet.HasField("stat") or not packet.stat.path:
            self._listed = True
            return
        row, number = packet.stat, self._count
        self._count += 1
        path = clean(row.path)
        if not path:
            raise BuildError(f"the client sends a file without a name: {row.path[:200]!r}")
        parent = openat2.mkdir_in_root(self._rootfd, posixpath.dirname(path))
        name, mode = posixpath.basename(path), row.mode & 0o777
        mode |= (
            (0o4000 if row.mode & _SETUID else 0)
            | (0o2000 if row.mode & _SETGID else 0)
            | (0o1000 if row.mode & _STICKY else 0)
        )
        try:
            if row.mode & _DIR:
                made = openat2.mkdir_beneath(parent, name)
                try:
                    nodes.chmod(made, mode)
                finally:
                    os.close(made)
                self._directories.append((path, row))
            elif row.mode & _LINK:
                os.symlink(row.linkname, name, dir_fd=parent)
                made = nodes.hold(parent, name)
                nodes.utime(made, row.modTime)
                os.close(made)
            elif not row.mode & _TYPES and row.linkname:  # a hard link to a file sent before
                source = openat2.open_in_root(
                    self._rootfd, posixpath.dirname(clean(row.linkname)) or ".", os.O_PATH | os.O_DIRECTORY
                )
                try:
                    os.link(
                        posixpath.basename(row.linkname),
                        name,
                        src_dir_fd=source,
                        dst_dir_fd=parent,
                        follow_symlinks=False,
                    )
                finally:
                    os.close(source)
            elif not row.mode & _TYPES:
                fd = os.open(
                    name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=parent
                )
                self._files[number] = (fd, row)
                os.fchmod(fd, mode)
                await self._stream.send_message(messages.new("Packet", type=_REQ, ID=number))
        except (OSError, OverflowError, ValueError) as error:
            raise BuildError(f"the client's {path[:200]!r} can't be made: {error}") from None
        finally:
            os.close(parent)

    def _data(self, packet: Any) -> None:
        if packet.ID not in self._files:
            raise BuildError(f"the client sends data of a file {packet.ID} that was not asked for")
        fd, row = self._files[packet.ID]
        if packet.data:
            view = memoryview(packet.data)
            while view:
                view = view[os.write(fd, view) :]
            return
        os.utime(fd, ns=(row.modTime, row.modTime))
        os.close(fd)
        del self._files[packet.ID]


async def send(session: Session, tree: Tree) -> None:
    """Gives the client a directory (`--output type=local`). Raises BuildError."""
    if _SEND not in session.methods:
        raise BuildError("the client takes no files: build with --output")
    async with session.stream(_SEND, "Packet", "Packet", {}) as stream:
        await stream.send_request()
        files: dict[int, str] = {}
        for number, (path, parent_fd, info) in enumerate(tree.walk("")):
            if stat.S_ISREG(info.st_mode):
                files[number] = path
            await stream.send_message(messages.new("Packet", type=_STAT, stat=_described(path, parent_fd, info)))
        await stream.send_message(messages.new("Packet", type=_STAT))
        while (packet := await stream.recv_message()) is not None:
            if packet.type == _ERR:
                raise BuildError(f"error from receiver: {packet.data.decode(errors='replace')}")
            if packet.type == _REQ:
                await _send_file(stream, tree, packet.ID, files)
            elif packet.type == _FIN:
                await stream.send_message(messages.new("Packet", type=_FIN), end=True)
                break


def _described(path: str, parent_fd: int, info: os.stat_result) -> Any:
    mode = stat.S_IMODE(info.st_mode) & 0o777
    kinds = {stat.S_IFDIR: _DIR, stat.S_IFLNK: _LINK, stat.S_IFIFO: _PIPE, stat.S_IFSOCK: _SOCKET, stat.S_IFBLK: _DEVICE,
             stat.S_IFCHR: _DEVICE | _CHAR}  # fmt: skip
    mode |= kinds.get(stat.S_IFMT(info.st_mode), 0)
    mode |= (
        (_SETUID if info.st_mode & 0o4000 else 0)
        | (_SETGID if info.st_mode & 0o2000 else 0)
        | (_STICKY if info.st_mode & 0o1000 else 0)
    )
    found = messages.new("Stat", path=path, mode=mode, uid=info.st_uid, gid=info.st_gid, modTime=info.st_mtime_ns)
    if stat.S_ISREG(info.st_mode):
        found.size = info.st_size
    elif stat.S_ISLNK(info.st_mode):
        found.linkname = os.readlink(posixpath.basename(path), dir_fd=parent_fd)
    elif stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode):
        found.devmajor, found.devminor = os.major(info.st_rdev), os.minor(info.st_rdev)
    return found


async def _send_file(stream: Any, tree: Tree, number: int, files: dict[int, str]) -> None:
    if number not in files:
        raise BuildError(f"the client asks for a file {number} that there is not")
    held = openat2.open_in_root(tree.rootfd, files[number])
    try:
        fd = nodes.reopen_regular(held, files.pop(number))
    finally:
        os.close(held)
    with open(fd, "rb") as file:
        while block := file.read(_CHUNK):
            await stream.send_message(messages.new("Packet", type=_DATA, ID=number, data=block))
    await stream.send_message(messages.new("Packet", type=_DATA, ID=number))


async def send_bytes(session: Session, path: str, metadata: dict[str, str]) -> None:
    """Gives the client a file (`--output type=tar|oci|docker`)."""
    if _SEND not in session.methods:
        raise BuildError("the client takes no files: build with --output")
    async with session.stream(
        _SEND, "BytesMessage", "BytesMessage", {f"exporter-md-{k}": v for k, v in metadata.items()}
    ) as stream:
        await stream.send_request()
        with open(path, "rb") as file:
            while block := await asyncio.to_thread(file.read, 1 << 20):
                await stream.send_message(messages.new("BytesMessage", data=block))
        await stream.end()
        while await stream.recv_message() is not None:
            pass


async def fetch_upload(session: Session, path: str, target: str) -> None:
    """A tar that the client offers for `docker build -` (its upload service)."""
    method = "/moby.upload.v1.Upload/Pull"
    if method not in session.methods:
        raise BuildError("the client offers no upload")
    async with session.stream(method, "BytesMessage", "BytesMessage", {"urlpath": path}) as stream:
        await stream.send_request()
        await stream.end()
        with open(target, "wb") as file:
            while (message := await stream.recv_message()) is not None:
                file.write(message.data)
