"""The log store's writer: append-only files of frames (see `frames`), one frame per read, rotated by size.

From a pipe the bytes move with splice(2), so they leave the pipe only as they reach the file: a keeper killed in the middle
loses none, and the next one corrects the header of the last frame to what arrived. A disk that takes nothing more never
stops the process that writes: its output is dropped and counted until there is space again.
"""

from __future__ import annotations

import fcntl
import os
import time

from sampan import logline
from sampan.keeper import frames
from sampan.keeper.frames import STDERR, STDOUT

__all__ = ["STDERR", "STDOUT", "Writer"]

_FOLLOWED = 8 << 20  # bytes of files over the limit that are kept while somebody follows and has not read them
_RETRY_NS = 100_000_000


class Writer:
    """Appends frames for one container. `max_size` in bytes (0: no limit), `max_files` at least 1.

    Nothing it does raises OSError: it takes what it is given, and `dropped` counts the bytes that could not be written.
    """

    def __init__(self, directory: str, max_size: int = 0, max_files: int = 1) -> None:
        self._directory = directory
        self._max_size = max_size
        self._max_files = max(1, max_files)
        self._fd, self._number, self._size, self._salt = -1, 0, 0, b""
        self._torn = -1  # where a frame begins whose header could not be corrected
        self._retry = 0
        self._null = -1
        self.dropped = 0
        try:
            self._continue()
        except OSError as error:
            self._complain(error)

    def _continue(self) -> None:
        """Opens the newest file, or the first."""
        os.makedirs(self._directory, 0o700, exist_ok=True)
        existing = frames.files(self._directory)
        number = max(existing, default=1)
        if existing and existing[number].endswith(frames.OLD):
            number += 1
        self._use(self._open(number), number)
        self._prune()

    def _open(self, number: int) -> int:
        path = f"{self._directory}/{number:08}{frames.NEW}"
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def _use(self, fd: int, number: int) -> None:
        """Makes an open file the one that is written to, and closes the one before. Raises OSError; then nothing changed."""
        try:
            size = os.fstat(fd).st_size
            form = frames.dialect(fd, frames.NEW) if size else None
            salt = form.salt if isinstance(form, frames.Salted) else os.urandom(frames.SALT_SIZE)
            size = _repair(fd, frames.Salted(salt), size)
        except BaseException:
            os.close(fd)
            raise
        before, self._fd = self._fd, fd
        self._number, self._size, self._salt, self._torn = number, size, salt, -1
        if before >= 0:
            os.close(before)

    def splice(self, pipe: int, available: int, stream: int) -> int:
        """Moves up to `available` bytes from a pipe into one frame. Returns the number moved, or dropped."""
        length = min(available, frames.MAX_DATA)
        try:
            start = self._begin(length, stream)
        except OSError as error:
            return self._drop(pipe, length, error)
        done, failure = 0, None
        try:
            while done < length:
                moved = os.splice(pipe, self._fd, length - done, None, start + frames.SIZE + done)
                if moved == 0:
                    break
                done += moved
        except BlockingIOError:
            pass
        except OSError as error:
            failure = error
        self._end(start, done, length, stream)
        return done if failure is None else done + self._drop(pipe, length - done, failure)

    def append(self, data: bytes, stream: int) -> None:
        """Writes one frame."""
        done = 0
        try:
            start = self._begin(len(data), stream)
            try:
                while done < len(data):
                    done += os.pwrite(self._fd, data[done:], start + frames.SIZE + done)
            finally:
                self._end(start, done, len(data), stream)
        except OSError as error:
            self._count(len(data) - done, error)

    def _begin(self, length: int, stream: int) -> int:
        """Writes a header and returns where. Raises OSError."""
        if self._fd < 0 or self._torn >= 0:
            self._recover()
        start, self._stamp = self._size, time.time_ns()
        os.pwrite(self._fd, frames.header(self._salt, self._stamp, length, stream), start)
        return start

    def _recover(self) -> None:
        """Opens or corrects what could not be opened or corrected before. Raises OSError."""
        if self._fd < 0:
            now = time.monotonic_ns()
            if now < self._retry:
                raise OSError(5, "the log could not be opened")
            self._retry = now + _RETRY_NS
            self._continue()
        else:
            self._use(os.dup(self._fd), self._number)

    def _end(self, start: int, done: int, length: int, stream: int) -> None:
        try:
            if done == 0:
                os.ftruncate(self._fd, start)
            elif done < length:
                os.pwrite(self._fd, frames.header(self._salt, self._stamp, done, stream), start)
        except OSError:
            self._torn = start
        if done == 0:
            return
        self._size = start + frames.SIZE + done
        if self.dropped and done == length:
            logline.write(
                "sampan-keeper", "info", f"the log of {self._directory} goes on: {self.dropped} bytes are missing"
            )
            self.dropped = 0
        if self._max_size and self._size >= self._max_size:
            self._rotate()

    def _rotate(self) -> None:
        """Goes on in a new file; where there can be none (a full disk, no descriptors) in the same, until there can."""
        try:
            self._use(self._open(self._number + 1), self._number + 1)
        except OSError:
            return
        self._prune()

    def _prune(self) -> None:
        """Removes the files over the limit; those that somebody follows only when they are more than he may be behind."""
        if not self._max_size:
            return
        try:
            old = [(n, f"{self._directory}/{name}") for n, name in frames.files(self._directory).items()]
            old = [(n, path) for n, path in old if n <= self._number - self._max_files]
            kept = _FOLLOWED if old and self._followed() else 0
            for _, path in reversed(old):
                kept -= os.stat(path).st_size
                if kept < 0:
                    os.unlink(path)
        except OSError:
            pass  # with the next rotation

    def _followed(self) -> bool:
        """Whether somebody has the directory locked, as followers have."""
        fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def _drop(self, pipe: int, length: int, error: OSError) -> int:
        """Empties a pipe of what can't be written."""
        if self._null < 0:
            try:
                self._null = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
            except OSError:
                return self._count(len(os.read(pipe, length)), error)
        try:
            return self._count(os.splice(pipe, self._null, length), error)
        except BlockingIOError:
            return 0

    def _count(self, dropped: int, error: OSError) -> int:
        if dropped and not self.dropped:
            self._complain(error)
        self.dropped += dropped
        return dropped

    def _complain(self, error: OSError) -> None:
        reason = "no space" if error.errno in (28, 122) else os.strerror(error.errno or 5)  # ENOSPC, EDQUOT
        identifier = os.path.basename(os.path.dirname(self._directory))
        logline.write("sampan-keeper", "warn", f"{reason} for the log of {identifier}: its output is dropped")

    def close(self) -> None:
        """Closes the current file."""
        for fd in (self._fd, self._null):
            if fd >= 0:
                os.close(fd)
        self._fd = self._null = -1


def _repair(fd: int, form: frames.Salted, size: int) -> int:
    """Corrects the last frame to the bytes that are there, and returns the end of the file. Reads one frame's length at most.

    Anything that is no frame stays where it is: readers step over it.
    """
    offset = max(0, size - frames.MAX_DATA - 2 * frames.SIZE)
    tail = os.pread(fd, size - offset, offset)
    at = form.find(tail, 0)
    while at >= 0:
        begins = form.parse(tail, at)
        if begins is None:
            at = form.find(tail, at + 1)
            continue
        time_, length, stream = begins
        start = at + frames.SIZE
        if start + length <= len(tail) and length:
            at = start + length
            continue
        if (within := form.find(tail, start)) >= 0:
            at = within
            continue
        if start >= len(tail):
            os.ftruncate(fd, offset + at)
            return offset + at
        os.pwrite(fd, frames.header(form.salt, time_, len(tail) - start, stream), offset + at)
        return size
    return size
