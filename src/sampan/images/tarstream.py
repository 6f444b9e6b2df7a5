"""Reading a tar stream fast and within bounds: headers by struct, contents as views of the blocks they came in.

Python's tarfile needs some 0.15 ms per member, several times what making the file takes, keeps every header, and reads
names and records of any length. This reader knows what archives from elsewhere consist of: ustar, GNU long names, pax
records, numbers in base 256 (tar(5), POSIX.1-2017 pax), and sparse files in GNU's four forms (tar's manual, "Storing
Sparse Files"; here in `sparse`). Whatever comes, its memory does not depend on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from sampan.images import sparse
from sampan.images.errors import ImageError

BLOCK = 512
_CHUNK = 1 << 20
_MAX_RECORD = 1 << 20  # of a pax header or a long name
_MAX_NAME = 4096  # PATH_MAX
_MAX_SIZE = 1 << 60
_MAX_EXTRA = 64  # headers that only say something of the next member, in a row
_MAX_MEMBERS = 20_000_000
_ZEROS = memoryview(bytes(_CHUNK))


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

    @property
    def is_file(self) -> bool:
        """Whether it has a content."""
        return self.kind in (b"0", b"\0", b"7")


class TarStream:
    """Iterates over members; the content of the current one is read by `content()` before going on.

    `seek` skips what is not read, by a number of bytes from where the source is.
    """

    def __init__(self, read: Callable[[int], bytes], seek: Callable[[int], object] | None = None) -> None:
        self._read, self._seek = read, seek
        self._block = memoryview(b"")
        self._position = 0
        self._base = 0  # of the block in the stream
        self._left = 0  # of the current member's content
        self._padding = 0
        self._map: sparse.Map | None = None
        self._size = 0

    @property
    def offset(self) -> int:
        """Where in the stream the next byte is that is read."""
        return self._base + self._position

    def __iter__(self) -> Iterator[Entry]:
        pax: list[tuple[str, bytes]] = []
        name = target = ""
        members = extra = 0
        while True:
            self._skip(self._left + self._padding)
            self._left = self._padding = 0
            header = self._header(members)
            if header is None:
                return
            entry = _parse(header)
            kind = entry.kind
            if kind in (b"x", b"X", b"L", b"K", b"g"):
                extra += 1
                if extra > _MAX_EXTRA:
                    raise ImageError(f"damaged tar archive: more than {_MAX_EXTRA} extended headers in a row")
                data = self._record(entry)
                if kind in (b"x", b"X"):
                    pax = _pax(data)
                elif kind == b"L":
                    name = _text(data.split(b"\0", 1)[0])
                elif kind == b"K":
                    target = _text(data.split(b"\0", 1)[0])
                continue
            members += 1
            if members > _MAX_MEMBERS:
                raise ImageError(f"the archive has more than {_MAX_MEMBERS} members")
            if name or target:
                entry.name, entry.target = name or entry.name, target or entry.target
            if pax:
                _apply(entry, pax)
            if kind in (b"0", b"\0", b"7", b"S"):
                self._begin(entry, header, pax)
            pax, name, target, extra = [], "", "", 0
            if len(entry.name) > _MAX_NAME or len(entry.target) > _MAX_NAME or "\0" in entry.name + entry.target:
                raise ImageError(f"damaged tar archive: the name {entry.name[:40]!r}… is no path")
            if kind == b"2" and not entry.target:
                raise ImageError(f"damaged tar archive: {entry.name[:40]!r} is a link to nothing")
            yield entry

    def _header(self, members: int) -> bytes | None:
        """The next header; None at the end, also where the marks of the end are missing."""
        if self._position == len(self._block) and not self._more():
            if members:
                return None
            raise ImageError("not a tar archive: it is empty")
        header = self._take(BLOCK)
        return None if header.count(0) == BLOCK else header

    def _begin(self, entry: Entry, header: bytes, pax: list[tuple[str, bytes]]) -> None:
        """A member with content: how much of it follows, and where it goes when it has holes."""
        self._left, self._padding, self._map = entry.size, -entry.size % BLOCK, None
        if entry.kind == b"S":
            rows, more = sparse.of_header(header)
            while more:
                more = sparse.of_extension(self._take(BLOCK), rows)
            self._map = sparse.checked(rows, sparse.real_size(header), entry.size)
        elif any(key.startswith("GNU.sparse.") for key, _ in pax):
            name, size, form = sparse.of_records(pax)
            if isinstance(form, list):
                rows = form
            else:  # version 1.0: it is in front of the content
                rows, taken = sparse.of_content(self._take, entry.size)
                self._left -= taken
            entry.name = _text(name) if name else entry.name
            self._map = sparse.checked(rows, size, self._left)
        elif entry.kind == b"\0" and entry.name.endswith("/"):
            entry.kind = b"5"  # as tars of before POSIX have it
            self._map = None
            return
        if self._map is not None:
            entry.kind, entry.size = b"0", self._map.size
        self._size = entry.size

    def content(self) -> Iterator[memoryview]:
        """The current member's content in pieces, valid until the next is asked for. Raises ImageError at a cut."""
        if self._map is None:
            yield from self._raw(self._left)
            return
        at = 0
        for begin, length in self._map.rows:
            yield from _hole(begin - at)
            yield from self._raw(length)
            at = begin + length
        yield from _hole(self._map.size - at)

    def _raw(self, count: int) -> Iterator[memoryview]:
        while count:
            if self._position == len(self._block):
                self._fill()
            piece = self._block[self._position : self._position + count]
            self._position += len(piece)
            self._left -= len(piece)
            count -= len(piece)
            yield piece

    def _more(self) -> bool:
        self._base += len(self._block)
        data = self._read(_CHUNK)
        self._block, self._position = memoryview(data), 0
        return bool(data)

    def _fill(self) -> None:
        if not self._more():
            raise ImageError("damaged tar archive: unexpected end of data")

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
                if self._seek is not None and count > _CHUNK:
                    self._base += len(self._block) + count
                    self._block, self._position = memoryview(b""), 0
                    self._seek(count)
                    return
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


def is_tar(head: bytes) -> bool:
    """Whether this is how a tar begins."""
    if len(head) < BLOCK:
        return False
    try:
        _parse(head[:BLOCK])
        return True
    except ImageError:
        return False


def _hole(count: int) -> Iterator[memoryview]:
    while count > 0:
        yield _ZEROS[: min(count, _CHUNK)]
        count -= _CHUNK


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
    if not 0 <= size <= _MAX_SIZE:
        raise ImageError(f"damaged tar archive: a size of {size}")
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


def _pax(data: bytes) -> list[tuple[str, bytes]]:
    """The records "LENGTH KEY=VALUE\\n" of an extended header, in their order."""
    found: list[tuple[str, bytes]] = []
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
        found.append((_text(key), value))
        position += length
    return found


def _apply(entry: Entry, pax: list[tuple[str, bytes]]) -> None:
    for key, value in pax:
        if key == "path":
            entry.name = _text(value)
        elif key == "linkpath":
            entry.target = _text(value)
        elif key.startswith("SCHILY.xattr."):
            if "\0" in key:
                raise ImageError("damaged tar archive: the name of an extended attribute")
            entry.xattrs[key[13:]] = value
        elif key in ("size", "uid", "gid", "mtime"):
            try:
                if key == "mtime":
                    entry.mtime = _nanoseconds(value)
                else:
                    setattr(entry, key, _decimal(value))
            except ValueError:
                raise ImageError(f"damaged tar archive: pax {key} is {value[:20]!r}") from None
    if entry.size > _MAX_SIZE:
        raise ImageError(f"damaged tar archive: a size of {entry.size}")


def _decimal(value: bytes) -> int:
    """Raises ValueError, for a negative number too."""
    if not value.isdigit() or len(value) > 20:
        raise ValueError
    return int(value)


def _nanoseconds(value: bytes) -> int:
    text = value[:40].decode("ascii")
    whole, _, fraction = text.partition(".")
    seconds = int(whole or "0")
    part = int(fraction[:9].ljust(9, "0")) if fraction else 0
    return seconds * 10**9 + (-part if whole.startswith("-") else part)
