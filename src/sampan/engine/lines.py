"""Lines of a log: frames joined to lines, and the last so many of them without reading all that came before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sampan.keeper.frames import Frame
from sampan.keeper.reading import Reader

LONGEST = 16 << 10  # a longer line comes in pieces, as Docker's: dockerd's Copier has a buffer of this size
_FIRST_LOOK = 64 << 10


class Lines:
    """Turns frames into lines: a line keeps the time of its first byte."""

    def __init__(self) -> None:
        self._partial: dict[int, tuple[int, bytes]] = {}

    def add(self, frame: Frame) -> Iterator[Frame]:
        """The lines that this frame completes."""
        stream = frame.stream
        began, rest = self._partial.pop(stream, (frame.time, b""))
        data, at = rest + frame.data, 0
        while True:
            end = data.find(b"\n", at, at + LONGEST) + 1
            if not end:
                if len(data) - at < LONGEST:
                    break
                end = at + LONGEST
            yield Frame(began, stream, data[at:end])
            at, began = end, frame.time
        if at < len(data):
            self._partial[stream] = (began, data[at:])

    def rest(self) -> Iterator[Frame]:
        """What is left without a newline at the end."""
        for stream, (began, data) in self._partial.items():
            yield Frame(began, stream, data)
        self._partial.clear()


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which lines somebody wants: of which streams, begun between two times in nanoseconds."""

    streams: frozenset[int]
    since: int
    until: int

    def has(self, line: Frame) -> bool:
        """Whether it is among them."""
        return line.stream in self.streams and self.since <= line.time <= self.until


def written(reader: Reader, tail: int | None, wanted: Wanted, render: Callable[[Frame], bytes]) -> Iterator[bytes]:
    """What has been written so far, rendered, or its last `tail` lines; each step reads a megabyte at most.

    The reader ends where following has to go on.
    """
    end, skip = reader.end(), 0
    if tail == 0:
        reader.seek(end)
        return
    distance = _FIRST_LOOK
    while tail is not None:
        start, whole = reader.before(end, distance)
        reader.seek(start)
        count = _Count(wanted, whole)
        while found := reader.read(end):
            count.add(found)
            yield b""
        if count.finish() >= tail:
            skip, end = max(0, count.total - tail), reader.position
            reader.seek(start)
            break
        distance *= 4
    lines = Lines()
    while found := reader.read(end):
        buffer = bytearray()
        for line in (line for frame in found for line in lines.add(frame) if wanted.has(line)):
            if skip:
                skip -= 1
            else:
                buffer += render(line)
        yield bytes(buffer)
    yield b"".join([render(line) for line in lines.rest() if wanted.has(line)][skip:])


class _Count:
    """Counts wanted lines from somewhere in a log on. Unless that is its beginning (`whole`), each stream's first is
    doubtful: it may have begun before; only what comes after the last doubtful one is surely what it seems."""

    def __init__(self, wanted: Wanted, whole: bool) -> None:
        self._wanted, self._whole = wanted, whole
        self._lines, self._begun = Lines(), set[int]()
        self.total = self._doubtful = 0

    def add(self, frames: list[Frame]) -> None:
        """Counts the lines that these complete."""
        if not self._begun and frames[0].time < self._wanted.since:
            self._whole = True  # whatever begins before is not wanted
        for frame in frames:
            self._note(self._lines.add(frame))

    def _note(self, lines: Iterator[Frame]) -> None:
        for line in lines:
            self.total += self._wanted.has(line)
            if line.stream not in self._begun:
                self._begun.add(line.stream)
                if line.stream in self._wanted.streams:
                    self._doubtful = self.total

    def finish(self) -> float:
        """How many there surely are; infinite when there can be no more."""
        self._note(self._lines.rest())
        return float("inf") if self._whole else self.total - self._doubtful
