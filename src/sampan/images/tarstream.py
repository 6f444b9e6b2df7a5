"""Reading a tar stream fast: headers by struct, contents as views of the blocks they came in.

Python's tarfile needs some 0.15 ms per member, several times what making the file takes. This reader knows what
layers consist of: ustar, GNU long names, pax records, numbers in base 256 (tar(5), POSIX.1-2017 pax). For
anything else it raises Unsupported, and tarfile does it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from sampan.images.errors import ImageError

BLOCK = 512
_CHUNK = 1 << 20
_MAX_RECORD = 1 << 20  # of a pax header or a long name


class Unsupported(Exception):
    """A kind of archive that this reader leaves to tarfile."""


@dataclass(slots=True)
class Entry:
    """A member. `kind` is the type flag; `xattrs` come from pax records."""

    name: str
    kind: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int  # nanoseconds
    target: str
    major: int
    minor: int
    xattrs: dict[str, bytes] = field(default_factory=dict)


class TarStream:
    """Iterates over members; the content of the current one is read by `content()` before going on."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._block = memoryview(b"")
        self._position = 0
        self._left = 0  # of the current member's content
        self._padding = 0

    def __iter__(self) -> Iterator[Entry]:
        pax: dict[str, bytes] = {}
        name = target = ""
        while True:
            self._skip(self._left + self._padding)
            self._left = self._padding = 0
            header = self._take(BLOCK)
            if header.count(0) == BLOCK:
                return
            entry = _parse(header)
            kind = entry.kind
            if kind in (b"x", b"L", b"K"):
                data = self._record(entry)
                if kind == b"x":
                    pax = _pax(data)
                elif kind == b"L":
                    name = _text(data.split(b"\0", 1)[0])
                else:
                    target = _text(data.split(b"\0", 1)[0])
                continue
            if kind == b"g":
                self._record(entry)
                continue
            if kind == b"S":
                raise Unsupported("a sparse member")
            if name or target:
                entry.name, entry.target = name or entry.name, target or entry.target
            if pax:
                _apply(entry, pax)
            pax, name, target = {}, "", ""
            self._left = entry.size if kind in (b"0", b"\0", b"7") else 0
            self._padding = -self._left % BLOCK
            yield entry

    def content(self) -> Iterator[memoryview]:
        """The current member's content in pieces, valid until the next is asked for. Raises ImageError at a cut."""
        while self._left:
            if self._position == len(self._block):
                self._fill()
            piece = self._block[self._position : self._position + self._left]
            self._position += len(piece)
            self._left -= len(piece)
            yield piece

    def _fill(self) -> None:
        data = self._read(_CHUNK)
        if not data:
            raise ImageError("damaged tar archive: unexpected end of data")
        self._block, self._position = memoryview(data), 0

    def _take(self, count: int) -> bytes:
        end = self._position + count
        if end <= len(self._block):
            data = bytes(self._block[self._position : end])
            self._position = end
            return data
        parts, left = [], count
        while left:
            if self._position == len(self._block):
                self._fill()
            piece = bytes(self._block[self._position : self._position + left])
            self._position += len(piece)
            left -= len(piece)
            parts.append(piece)
        return b"".join(parts)

    def _skip(self, count: int) -> None:
        while count:
            if self._position == len(self._block):
                self._fill()
            step = min(count, len(self._block) - self._position)
            self._position += step
            count -= step

    def _record(self, entry: Entry) -> bytes:
        if entry.size > _MAX_RECORD:
            raise ImageError(f"damaged tar archive: a header of {entry.size} bytes")
        data = self._take(entry.size)
        self._skip(-entry.size % BLOCK)
        return data


def _parse(header: bytes) -> Entry:
    checksum = _number(header[148:156])
    if sum(header) - sum(header[148:156]) + 8 * 32 != checksum:
        raise ImageError("damaged tar archive: bad checksum")
    name = _text(header[0:100].split(b"\0", 1)[0])
    if header[257:263] == b"ustar\0":
        prefix = header[345:500].split(b"\0", 1)[0]
        if prefix:
            name = f"{_text(prefix)}/{name}"
    size = _number(header[124:136])
    if size < 0:
        raise ImageError("damaged tar archive: a negative size")
    kind = header[156:157]
    device = kind in (b"3", b"4")
    return Entry(
        name, kind, _number(header[100:108]) & 0o7777, _number(header[108:116]), _number(header[116:124]), size,
        _number(header[136:148]) * 10**9, _text(header[157:257].split(b"\0", 1)[0]),
        _number(header[329:337]) if device else 0, _number(header[337:345]) if device else 0,
    )  # fmt: skip


def _number(field_: bytes) -> int:
    if field_[0] & 0x80:
        value = int.from_bytes(field_, "big") & ((1 << (8 * len(field_) - 1)) - 1)
        if field_[0] == 0xFF:
            value -= 1 << (8 * len(field_) - 1)
        return value
    text = field_.split(b"\0", 1)[0].strip()
    try:
        return int(text, 8) if text else 0
    except ValueError:
        raise ImageError(f"damaged tar archive: {text[:20]!r} is no octal number") from None


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _pax(data: bytes) -> dict[str, bytes]:
    """The records "LENGTH KEY=VALUE\\n" of an extended header."""
    found: dict[str, bytes] = {}
    position = 0
    while position < len(data):
        space = data.find(b" ", position, position + 12)
        if space < 0 or not data[position:space].isdigit():
            if not data[position:].strip(b"\0"):
                break
            raise ImageError("damaged tar archive: bad pax record")
        length = int(data[position:space])
        record = data[space + 1 : position + length]
        key, equals, value = record[:-1].partition(b"=")
        if length < 5 or position + length > len(data) or not equals or record[-1:] != b"\n":
            raise ImageError("damaged tar archive: bad pax record")
        found[_text(key)] = value
        position += length
    return found


def _apply(entry: Entry, pax: dict[str, bytes]) -> None:
    for key, value in pax.items():
        if key == "path":
            entry.name = _text(value)
        elif key == "linkpath":
            entry.target = _text(value)
        elif key.startswith("SCHILY.xattr."):
            entry.xattrs[key[13:]] = value
        elif key.startswith("GNU.sparse."):
            raise Unsupported("a sparse member")
        elif key in ("size", "uid", "gid", "mtime"):
            try:
                if key == "mtime":
                    entry.mtime = _nanoseconds(value)
                else:
                    setattr(entry, key, int(value))
            except ValueError:
                raise ImageError(f"damaged tar archive: pax {key} is {value[:20]!r}") from None
    if entry.size < 0:
        raise ImageError("damaged tar archive: a negative size")


def _nanoseconds(value: bytes) -> int:
    whole, _, fraction = value.decode("ascii").partition(".")
    seconds = int(whole or "0")
    part = int(fraction[:9].ljust(9, "0")) if fraction else 0
    return seconds * 10**9 + (-part if whole.startswith("-") else part)
