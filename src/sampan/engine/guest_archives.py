"""Archives that a guest makes of its files, told anew to who has asked for them.

A guest can send any archive: names of files that nobody has asked for, which a client would put into the directory that it copies to
(as CVE-2019-6111), or forms that readers of tar take differently. So each member is read by the bounded reader, must have a name that
was asked for, and is written in one form.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import IO, cast

from sampan.images.errors import ImageError
from sampan.images.extract import FORBIDDEN_XATTRS
from sampan.images.tarstream import Entry, TarStream

_XATTR = "SCHILY.xattr."
_BLOCK = 1 << 20
_KINDS = {b"\0": tarfile.REGTYPE, b"7": tarfile.REGTYPE}
_KNOWN = (tarfile.REGTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE)  # fmt: skip


def retell(source: IO[bytes], out: IO[bytes], top: str) -> None:
    """Writes the archive in `source` to `out`. Every member is `top` or below it; with "." it may be anything below there.

    Raises ImageError for one that is not, or that is no archive, when what was before it is written.
    """
    stream = TarStream(source.read)
    tar = tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT, bufsize=_BLOCK)
    tar.copybufsize = _BLOCK  # type: ignore[attr-defined]
    try:
        for entry in stream:
            content = _Content(stream.content()) if entry.is_file else None
            tar.addfile(_member(entry, top), cast("IO[bytes] | None", content))
            tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps them all, and never looks at them again
    except (ValueError, OverflowError) as error:
        raise ImageError(f"damaged tar archive: {error}") from error
    tar.close()
    if len(source.read(_BLOCK)) == _BLOCK:  # a tar is filled up with 10 KiB at most
        raise ImageError("damaged tar archive: it goes on behind its end")


def _member(entry: Entry, top: str) -> tarfile.TarInfo:
    kind = _KINDS.get(entry.kind, entry.kind)
    if kind not in _KNOWN:
        raise ImageError(f"damaged tar archive: a member of type {entry.kind!r}")
    member = tarfile.TarInfo(_below(entry.name, top))
    member.type, member.mode, member.uid, member.gid = kind, entry.mode & 0o7777, entry.uid, entry.gid
    member.mtime = entry.mtime // 10**9
    member.size = entry.size if entry.is_file else 0
    member.linkname = _below(entry.target, top) if kind == tarfile.LNKTYPE else entry.target
    member.devmajor, member.devminor = entry.major, entry.minor
    member.pax_headers = {
        _XATTR + name: value.decode("utf-8", "surrogateescape")
        for name, value in entry.xattrs.items()
        if not name.startswith(FORBIDDEN_XATTRS)
    }
    return member


def _below(name: str, top: str) -> str:
    """The name, if that is what was asked for."""
    parts = name.rstrip("/").split("/")
    if ".." in parts or not parts[0] or (top != "." and parts[0] != top):
        raise ImageError(f"the virtual machine has sent {name[:80]!r}, and {top!r} was asked for")
    return name


class _Content:
    """A member's content as a file that is read in order."""

    def __init__(self, pieces: Iterator[memoryview]) -> None:
        self._pieces, self._waiting = pieces, bytearray()

    def read(self, count: int) -> bytes:
        while len(self._waiting) < count and (piece := next(self._pieces, None)) is not None:
            self._waiting += piece
        data = bytes(self._waiting[:count])
        del self._waiting[:count]
        return data
