"""Where the content of a sparse member of a tar goes: the maps of GNU tar, in its old format and in pax 0.0, 0.1 and 1.0.

Pure functions of the bytes. Source: GNU tar's manual, "Storing Sparse Files".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sampan.images.errors import ImageError

_MAX_ROWS = 100_000
_MAX_SIZE = 1 << 60

Rows = list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Map:
    """(offset, length) of the parts that follow in the archive, in order, and the size of the whole."""

    rows: Rows
    size: int


def checked(rows: Rows, size: int, stored: int) -> Map:
    """The map, when it can be one of `stored` bytes. Raises ImageError."""
    at = total = 0
    for begin, length in rows:
        if begin < at or length < 0:
            raise _damaged()
        at = begin + length
        total += length
    if at > size or size > _MAX_SIZE or total > stored:
        raise _damaged()
    return Map(rows, size)


def of_header(header: bytes) -> tuple[Rows, bool]:
    """The rows in an old header (type S), and whether blocks with more of them follow."""
    rows: Rows = []
    _take_rows(header[386:482], rows)
    return rows, header[482] != 0


def real_size(header: bytes) -> int:
    """The whole's size in an old header."""
    return _octal(header[483:495])


def of_extension(block: bytes, rows: Rows) -> bool:
    """Adds the rows of a block that follows an old header. Whether there is one more."""
    _take_rows(block[:504], rows)
    if len(rows) > _MAX_ROWS:
        raise _damaged()
    return block[504] != 0


def _take_rows(data: bytes, rows: Rows) -> None:
    for at in range(0, len(data), 24):
        if data[at] == 0:
            break
        rows.append((_octal(data[at : at + 12]), _octal(data[at + 12 : at + 24])))


def of_records(pax: list[tuple[str, bytes]]) -> tuple[bytes, int, Rows | None]:
    """(name, size of the whole, rows) of a member's pax records; no rows when they are in front of its content (1.0)."""
    found = dict(pax)
    name = found.get("GNU.sparse.name", b"")
    size = _decimal(found.get("GNU.sparse.realsize") or found.get("GNU.sparse.size") or b"")
    if found.get("GNU.sparse.major") == b"1":
        return name, size, None
    if "GNU.sparse.map" in found:
        numbers = [_decimal(part) for part in found["GNU.sparse.map"].split(b",") if part]
    else:  # 0.0: a record for each number
        numbers = [_decimal(value) for key, value in pax if key in ("GNU.sparse.offset", "GNU.sparse.numbytes")]
    if len(numbers) % 2 or len(numbers) > 2 * _MAX_ROWS:
        raise _damaged()
    return name, size, list(zip(numbers[::2], numbers[1::2], strict=True))


def of_content(take: Callable[[int], bytes], size: int) -> tuple[Rows, int]:
    """The rows in front of a content of `size` bytes, and how many bytes they took: lines of decimal numbers, in blocks."""
    numbers: list[int] = []
    rest, taken, wanted = b"", 0, 1
    while len(numbers) < wanted:
        if taken + 512 > size:
            raise _damaged()
        *lines, rest = (rest + take(512)).split(b"\n")
        taken += 512
        if len(rest) > 512:
            raise _damaged()
        for line in lines[: 2 * _MAX_ROWS]:
            if len(numbers) < wanted:  # what follows the last number fills its block
                numbers.append(_decimal(line))
                if len(numbers) == 1:
                    wanted = 1 + 2 * numbers[0]
                    if numbers[0] > _MAX_ROWS:
                        raise _damaged()
    return list(zip(numbers[1::2], numbers[2::2], strict=True)), taken


def _octal(field: bytes) -> int:
    if field[0] & 0x80:
        return int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
    text = field.split(b"\0", 1)[0].strip()
    try:
        return int(text, 8) if text else 0
    except ValueError:
        raise _damaged() from None


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > 20:
        raise _damaged()
    return int(text)


def _damaged() -> ImageError:
    return ImageError("damaged tar archive: the map of a sparse file")
