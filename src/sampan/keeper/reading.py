"""Reading logs: forward from a position, and back from the end, in bounded pieces. For sampand's threads."""

from __future__ import annotations

import errno
import fcntl
import os

from sampan.keeper import frames
from sampan.keeper.frames import Frame
from sampan.linux.files import regular
from sampan.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.keeper.frames import Dialect

_PIECE = 1 << 20


@record
class Position:
    """Where a reader stands: file number and offset of the next frame. The default is the beginning."""

    number: int = 0
    offset: int = 0


class Reader:
    """Reads one container's frames. It holds the directory and the file it is in, which may be removed meanwhile.

    While it `follows`, the writer keeps what is rotated away under it (up to a limit, see `logs`).
    """

    def __init__(self, directory: str, position: Position | None = None, follows: bool = False) -> None:
        """Raises FileNotFoundError."""
        self._directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._fd, self._name = -1, ""
        self._form: Dialect | None = None
        self._number, self._offset = (position.number, position.offset) if position else (0, 0)
        if follows:
            self.follow()

    @property
    def position(self) -> Position:
        """Where the next frame is."""
        return Position(self._number, self._offset)

    @property
    def path(self) -> str:
        """The directory by descriptor, for as long as this is open."""
        return f"/proc/self/fd/{self._directory}"

    def follow(self) -> None:
        """Has the writer keep what this reader has not read yet."""
        fcntl.flock(self._directory, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def end(self) -> Position:
        """The position after everything written so far."""
        found = frames.files(self.path)
        if not found:
            return Position(1, 0)
        number, name = list(found.items())[-1]
        return Position(number, self._size(name))

    def read(self, until: Position | None = None) -> list[Frame]:
        """The next frames, of about a megabyte; none when there is nothing more now, or before `until`."""
        while True:
            if until is not None and (self._number, self._offset) >= (until.number, until.offset):
                return []
            if self._fd < 0 and not self._open(self._number):
                return []
            before = self._offset
            if found := self._scan(False):
                return found
            if self._offset != before:
                continue  # stepped over damage
            if not any(number > self._number for number in frames.files(self.path)):
                return []
            if found := self._scan(True):  # once more: the last frame may have come before the next file
                return found
            if self._offset == before:
                self._close_file()
                self._number, self._offset = self._number + 1, 0

    def _scan(self, final: bool) -> list[Frame]:
        if self._form is None:
            self._form = frames.dialect(self._fd, self._name)
            if self._form is None:
                return []
        found, self._offset = frames.scan(self._fd, self._form, self._offset, _PIECE, final)
        return found

    def _open(self, number: int) -> bool:
        """Opens the file of that number or the next there is."""
        for each, name in frames.files(self.path).items():
            if each < number:
                continue
            try:
                self._fd = regular(name, dir_fd=self._directory)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.EINVAL):
                    raise
                continue
            if each > number:
                self._offset = 0
            self._number, self._name, self._form = each, name, None
            return True
        return False

    def seek(self, position: Position) -> None:
        """Goes on from there."""
        self._close_file()
        self._number, self._offset = position.number, position.offset

    def before(self, position: Position, distance: int) -> tuple[Position, bool]:
        """A frame's position at least `distance` bytes before another, and whether it is the beginning of all."""
        found = [item for item in frames.files(self.path).items() if item[0] <= position.number]
        for number, name in reversed(found):
            end = position.offset if number == position.number else self._size(name)
            if distance >= end:
                distance -= end
                continue
            at = self._boundary(name, end - distance, end)
            if at is not None:
                return Position(number, at), at == 0 and number == found[0][0]
            distance = 0  # no frame begins there: the file before
        return Position(found[0][0] if found else 1, 0), True

    def _boundary(self, name: str, at: int, end: int) -> int | None:
        """Where a frame begins: the first from `at` on, or one before it."""
        try:
            fd = regular(name, dir_fd=self._directory)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EINVAL):
                raise
            return None
        try:
            form = frames.dialect(fd, name)
            while form is not None:
                data = os.pread(fd, min(end - at, _PIECE) + form.size, at)
                if (found := form.find(data, 0)) >= 0 and at + found < end:
                    return at + found
                if at == 0:
                    return None
                end, at = min(end, at + form.size), max(0, at - _PIECE)
        finally:
            os.close(fd)
        return None

    def _size(self, name: str) -> int:
        try:
            return os.stat(name, dir_fd=self._directory).st_size
        except FileNotFoundError:
            return 0

    def _close_file(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._form = -1, None

    def close(self) -> None:
        """Lets go of the directory."""
        self._close_file()
        if self._directory >= 0:
            os.close(self._directory)
        self._directory = -1
