"""Many streams over the one port between host and guest, each with its own flow control.

A frame is a stream's number, a length, a kind, and bytes. Stream 0 has the messages, JSON; of every other
stream one side sends and the other receives. A receiver allows WINDOW bytes ahead and gives back what it
has passed on, so a reader that is slow stops its own stream only. Standard library only.

What comes from the other side is bounded in every way, and anything that is no frame ends the port (ADR 26).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable

from sampan import quickjson
from sampan.linux.eventloop import READ, WRITE, Loop
from sampan.vm.errors import VmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.keeper.fields import Message

_FRAME = struct.Struct("!IIB")
_DATA, _END, _CREDIT, _BROKEN = range(4)
WINDOW = 256 << 10
MAX_MESSAGE = 8 << 20
_CHUNK, _HIGH = 32 << 10, 256 << 10
_DRAINED = 1 << 20  # what a pipe holds at most, which drain() sends without being allowed
_MAX_DATA = 64 << 10  # of one frame of a stream
_MAX_UNREAD = 4 * MAX_MESSAGE


class Mux:
    """One end of the port. `on_message(value)` gets the other side's messages and may raise VmError, which ends the port;
    `on_lost(why)` is called at its end, "" when the other side has closed it. A message has at most `most` bytes."""

    def __init__(
        self,
        loop: Loop,
        fd: int,
        on_message: Callable[[object], None],
        on_lost: Callable[[str], None],
        most: int = MAX_MESSAGE,
    ) -> None:
        os.set_blocking(fd, False)
        self.loop = loop
        self.ignored = 0  # frames for streams that are not there
        self._most, self._over = most, False
        self._fd, self._on_message, self._on_lost = fd, on_message, on_lost
        self._in, self._out = bytearray(), bytearray()
        self._sources: dict[int, _Source] = {}
        self._sinks: dict[int, _Sink] = {}
        loop.watch(fd, self._ready)

    def send(self, message: Message) -> None:
        """Sends a message."""
        self._frame(0, _DATA, quickjson.dumps(message).encode())

    def source(self, stream: int, fd: int) -> None:
        """Sends what comes out of `fd`, which is ours to close, and its end."""
        self._sources[stream] = source = _Source(self, stream, fd)
        source.resume()

    def sink(self, stream: int, fd: int) -> None:
        """Writes what the other side sends to `fd`, which is ours to close, at its end."""
        self._sinks[stream] = _Sink(self, stream, fd)

    def flush(self, stream: int) -> None:
        """Sends everything that is in a source's descriptor now, whatever the credit, and ends it.

        For what a process has left in its pipe when others may hold the pipe open for ever.
        """
        source = self._sources.get(stream)
        if source is not None:
            source.drain()

    def drop(self, stream: int) -> None:
        """Ends a stream here without a word to the other side."""
        for table in (self._sources, self._sinks):
            found = table.pop(stream, None)
            if found is not None:
                found.close()

    @property
    def crowded(self) -> bool:
        """Whether so much waits to be sent that no more should be read."""
        return len(self._out) > _HIGH

    def _frame(self, stream: int, kind: int, data: bytes = b"") -> None:
        if self._over:
            return
        if len(self._out) + len(data) > _MAX_UNREAD:
            self._lost("it does not read what it is sent")
            return
        self._out += _FRAME.pack(stream, len(data), kind) + data
        self._write()

    def _write(self) -> None:
        try:
            while self._out:
                sent = os.write(self._fd, memoryview(self._out)[:65536])
                del self._out[:sent]
        except BlockingIOError:
            pass
        except OSError:
            self._lost("")
            return
        self.loop.watch(self._fd, self._ready, READ | (WRITE if self._out else 0))
        if not self.crowded:
            for source in list(self._sources.values()):
                source.resume()

    def _lost(self, why: str) -> None:
        if self._over:
            return
        self._over = True
        self._out.clear()
        self._in.clear()
        self.loop.forget(self._fd)
        self._on_lost(why)

    def _ready(self, events: int) -> None:
        if events & WRITE:
            self._write()
        if not events & ~WRITE:
            return
        try:
            data = os.read(self._fd, 65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lost("")
            return
        self._in += data
        while len(self._in) >= _FRAME.size:
            stream, length, kind = _FRAME.unpack_from(self._in)
            if length > (_MAX_DATA if stream else self._most):
                self._lost(f"a frame of {length} bytes")
                return
            end = _FRAME.size + length
            if len(self._in) < end:
                return
            payload = bytes(self._in[_FRAME.size : end])
            del self._in[:end]
            self._handle(stream, kind, payload)

    def _handle(self, stream: int, kind: int, payload: bytes) -> None:
        if kind > _BROKEN or len(payload) != (4 if kind == _CREDIT else len(payload) if kind == _DATA else 0):
            self._lost(f"a frame of kind {kind} with {len(payload)} bytes")
        elif stream == 0:
            try:
                self._on_message(quickjson.loads(payload))
            except (ValueError, RecursionError, MemoryError):
                self._lost("a message that is not JSON")
            except VmError as error:
                self._lost(str(error))
        elif kind == _DATA and stream in self._sinks:
            self._sinks[stream].add(payload)
        elif kind == _END and stream in self._sinks:
            self._sinks[stream].end()
        elif kind == _CREDIT and stream in self._sources:
            self._sources[stream].allow(int.from_bytes(payload, "big"))
        elif kind == _BROKEN and stream in self._sources:
            self._sources[stream].finish(tell=False)
        else:
            self.ignored += 1
            if kind == _DATA and not self.crowded:
                self._frame(stream, _BROKEN)  # nobody wants it

    def when_ended(self, stream: int, call: Callable[[], None]) -> None:
        """Calls back when a stream's sink has written its last, or now if there is none."""
        sink = self._sinks.get(stream)
        if sink is None:
            call()
        else:
            sink.done = call

    def ended(self, stream: int) -> bool:
        """Whether a stream is neither sent nor received any more."""
        return stream not in self._sources and stream not in self._sinks


class _Source:
    """A descriptor that is read while the other side allows it."""

    def __init__(self, mux: Mux, stream: int, fd: int) -> None:
        os.set_blocking(fd, False)
        self._mux, self._stream, self._fd = mux, stream, fd
        self._credit, self._watched = WINDOW, False

    def allow(self, count: int) -> None:
        self._credit += count
        self.resume()

    def resume(self) -> None:
        wanted = self._credit > 0 and not self._mux.crowded
        if wanted and not self._watched:
            try:
                self._mux.loop.watch(self._fd, lambda _: self._read())
            except PermissionError:  # a file or /dev/null, which epoll(7) does not take: it is always ready
                self._read()
                return
        elif not wanted and self._watched:
            self._mux.loop.forget(self._fd)
        self._watched = wanted

    def _read(self) -> None:
        try:
            data = os.read(self._fd, min(_CHUNK, self._credit))
        except BlockingIOError:
            return
        except OSError:
            data = b""  # a terminal whose last user has gone: EIO
        if not data:
            self.finish()
            return
        self._credit -= len(data)
        self._mux._frame(self._stream, _DATA, data)
        self.resume()

    def drain(self) -> None:
        try:
            while data := os.read(self._fd, _CHUNK):
                self._mux._frame(self._stream, _DATA, data)
        except OSError:
            pass
        self.finish()

    def finish(self, tell: bool = True) -> None:
        if self._mux._sources.pop(self._stream, None) is None:
            return
        self.close()
        if tell:
            self._mux._frame(self._stream, _END)

    def close(self) -> None:
        self._mux.loop.forget(self._fd)
        os.close(self._fd)


class _Sink:
    """A descriptor that is written to; what it does not take at once waits here, at most a window of it."""

    def __init__(self, mux: Mux, stream: int, fd: int) -> None:
        os.set_blocking(fd, False)
        self._mux, self._stream, self._fd = mux, stream, fd
        self._waiting, self._ending = bytearray(), False
        self.done: Callable[[], None] | None = None

    def add(self, data: bytes) -> None:
        if len(self._waiting) > WINDOW + _DRAINED:
            self._mux._lost("it sends more of a stream than it may")
            return
        self._waiting += data
        self._write()

    def end(self) -> None:
        self._ending = True
        self._write()

    def _write(self) -> None:
        before = len(self._waiting)
        try:
            while self._waiting:
                del self._waiting[: os.write(self._fd, self._waiting)]
        except BlockingIOError:
            pass
        except OSError:
            self._mux._frame(self._stream, _BROKEN)
            self._waiting.clear()
            self._ending = True
            before = 0
        passed = before - len(self._waiting)
        if passed and not self._ending:
            self._mux._frame(self._stream, _CREDIT, passed.to_bytes(4, "big"))
        if self._waiting:
            self._mux.loop.watch(self._fd, lambda _: self._write(), WRITE)
            return
        self._mux.loop.forget(self._fd)
        if self._ending and self._mux._sinks.pop(self._stream, None) is not None:
            self.close()
            if self.done is not None:
                self.done()

    def close(self) -> None:
        self._mux.loop.forget(self._fd)
        os.close(self._fd)
