"""Hijacked connections: Docker's stream framing out, bytes in, half-close understood."""

from __future__ import annotations

import asyncio
import fcntl
import os
import select
import struct
import termios
from collections.abc import Callable
from typing import Protocol, cast

from aiohttp import web

from sampan.api.requests import begin, version

RAW = "application/vnd.docker.raw-stream"
MULTIPLEXED = "application/vnd.docker.multiplexed-stream"


def frame(stream: int, data: bytes) -> bytes:
    """Docker's frame: stream, three zeros, length, data."""
    return struct.pack(">BxxxI", stream, len(data)) + data


class Hijacked(asyncio.Protocol):
    """A connection taken over from HTTP. Reads go to a sink, writes wait for a slow client."""

    def __init__(self, transport: asyncio.Transport, original: asyncio.BaseProtocol) -> None:
        self._transport = transport
        self._original = original
        self._writable = asyncio.Event()
        self._writable.set()
        self._sink: Sink | None = None
        self._early = bytearray()
        self._eof = False
        self._headers_read = False
        self.closed = asyncio.Event()

    def feed(self, sink: Sink) -> None:
        """Sends what the client sends to `sink` from now on."""
        self._sink = sink
        if self._early:
            sink.write(bytes(self._early))
            self._early.clear()
        self._transport.resume_reading()
        if self._eof:
            sink.end()

    def data_received(self, data: bytes) -> None:
        """Part of asyncio.Protocol."""
        if self._sink is None:
            self._early += data
            if len(self._early) > 1 << 16:
                self._transport.pause_reading()
        else:
            self._sink.write(data)

    def eof_received(self) -> bool:
        """The client has no more input but still reads: keep our side open."""
        self._eof = True
        if self._sink is not None:
            self._sink.end()
        return True

    def pause_writing(self) -> None:
        """Part of asyncio.Protocol."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Part of asyncio.Protocol."""
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Part of asyncio.Protocol."""
        self.closed.set()
        self._writable.set()
        if self._sink is not None:
            self._sink.lost()
        self._original.connection_lost(exc)

    async def write(self, data: bytes) -> None:
        """Writes, waiting while the client's buffer is full."""
        if not self._headers_read:
            self._headers_read = True
            await self._until_read()
        if self.closed.is_set():
            raise ConnectionResetError("the client is gone")
        self._transport.write(data)
        await self._writable.wait()

    async def _until_read(self) -> None:
        """Waits, a second at most, until the client has taken the headers out of the socket.

        docker-py loses whatever its buffered reader fetches together with them (docker-py#3160), so data
        must not lie behind them in the same socket buffer. TIOCOUTQ counts what the peer has not read (unix(7)).
        """
        sock = self._transport.get_extra_info("socket")
        for _ in range(1000):
            if self.closed.is_set() or sock is None or sock.fileno() < 0:
                return
            if fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)) == bytes(4):
                return
            await asyncio.sleep(0.001)

    def hung_up(self) -> bool:
        """Whether the client has closed both directions (POLLHUP, unix(7)); half-closed is not that."""
        sock = self._transport.get_extra_info("socket")
        if self.closed.is_set() or sock is None or sock.fileno() < 0:
            return True
        poll = select.poll()
        poll.register(sock.fileno(), 0)
        return any(event & select.POLLHUP for _, event in poll.poll(0))

    def pause_reading(self) -> None:
        """Stops taking input for a while."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Takes input again."""
        self._transport.resume_reading()

    def close(self) -> None:
        """Flushes and closes."""
        self._transport.close()


class Reader(Protocol):
    """What a sink holds back when it is full."""

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class Client(Reader, Protocol):
    """Whoever has a process's streams: a connection taken over, or a WebSocket."""

    closed: asyncio.Event

    def feed(self, sink: Sink) -> None: ...
    async def write(self, data: bytes) -> None: ...
    def hung_up(self) -> bool: ...
    def close(self) -> None: ...


class Sink:
    """Writes a client's input to a descriptor without blocking; a full one pauses the client."""

    def __init__(self, fd: int, client: Reader, on_end: Callable[[], None], detach: bytes = b"") -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._client = client
        self._on_end = on_end
        self._buffer = bytearray()
        self._ended = False
        self._detach_keys = detach
        self._tail = b""
        self.detached = asyncio.Event()

    def write(self, data: bytes) -> None:
        """Takes input."""
        if self._fd < 0 or self.detached.is_set():
            return
        if self._detach_keys:
            self._tail = (self._tail + data)[-len(self._detach_keys) :]
            if self._tail == self._detach_keys:
                self.detached.set()
                return
        self._buffer += data
        self._flush()

    def end(self) -> None:
        """No more input: close the descriptor once everything is written."""
        self._ended = True
        self._flush()

    def lost(self) -> None:
        """The client is gone."""
        self.detached.set()
        self.end()

    def _flush(self) -> None:
        if self._fd < 0:
            return
        loop = asyncio.get_running_loop()
        loop.remove_writer(self._fd)
        try:
            while self._buffer:
                del self._buffer[: os.write(self._fd, bytes(self._buffer[: 1 << 16]))]
        except BlockingIOError:
            loop.add_writer(self._fd, self._flush)
            if len(self._buffer) > 1 << 16:
                self._client.pause_reading()
            return
        except OSError:
            self._buffer.clear()
            self._close()
            return
        try:
            self._client.resume_reading()
        except RuntimeError:
            pass
        if self._ended:
            self._close()

    def _close(self) -> None:
        if self._fd >= 0:
            asyncio.get_running_loop().remove_writer(self._fd)
            os.close(self._fd)
            self._fd = -1
            self._on_end()

    def stop(self) -> None:
        """Gives the descriptor up, whatever is left."""
        self._buffer.clear()
        if self._fd >= 0:
            asyncio.get_running_loop().remove_writer(self._fd)
            os.close(self._fd)
            self._fd = -1


def hijack(request: web.Request, tty: bool) -> Hijacked:
    """Answers 101 (or 200 to old clients) and takes the connection away from HTTP."""
    begin(request)
    transport = cast(asyncio.Transport, request.transport)
    kind = RAW if tty or version(request) < (1, 42) else MULTIPLEXED
    if request.headers.get("Upgrade"):
        head = f"HTTP/1.1 101 UPGRADED\r\nContent-Type: {kind}\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
    else:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {RAW}\r\n\r\n"  # whatever it is, as Docker says it
    protocol = Hijacked(transport, transport.get_protocol())
    transport.set_protocol(protocol)
    transport.write(head.encode())
    return protocol


def detach_sequence(text: str | None) -> bytes:
    """The bytes of "ctrl-p,ctrl-q" and the like. Raises ValueError."""
    out = bytearray()
    for key in (text or "ctrl-p,ctrl-q").split(","):
        if key.startswith("ctrl-") and len(key) == 6:
            out.append(ord(key[5].upper()) ^ 0x40)
        elif len(key) == 1:
            out += key.encode()
        else:
            raise ValueError(f"Invalid escape keys ({text}) provided")
    return bytes(out)
