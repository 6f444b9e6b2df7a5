"""HTTP/1.1 over a unix socket, as little of it as the engine's API needs.

The standard library's client costs 25 ms to import, half of the budget of ``sampan run``
(docs/adr/0003).
"""

from __future__ import annotations

from _socket import AF_UNIX, socket  # the plain module costs 4 ms to import

from sampan import quickjson

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


class APIError(Exception):
    """The engine answered with an error. `status` is the HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class NoEngine(Exception):
    """Nobody listens on the socket."""


_SAFE = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


def quote(text: str) -> str:
    """Percent-encodes everything but unreserved characters (RFC 3986)."""
    return "".join(
        c if c in _SAFE else "".join(f"%{byte:02X}" for byte in c.encode("utf-8", "surrogateescape")) for c in text
    )


def at(template: str, *names: str) -> str:
    """A path with names in its {}, of which each stays one segment, whatever is in it. Raises APIError for an empty one, which would be
    another path."""
    if not all(names):
        raise APIError(400, "invalid name or ID: value is empty")
    return template.format(*(quote(name) for name in names))


def query(**parameters: object) -> str:
    """A query string of those parameters that are not None; lists repeat, booleans are 1 and 0."""
    parts = []
    for key, value in parameters.items():
        values = value if isinstance(value, list) else [value]
        for item in values:
            if item is not None:
                text = str(int(item)) if isinstance(item, bool) else str(item)
                parts.append(f"{key}={quote(text)}")
    return "?" + "&".join(parts) if parts else ""


def encode_request(method: str, path: str, body: object, streamed: bool, connection: str = "") -> bytes:
    """Head and JSON body of a request; a `streamed` body follows in chunks. `connection`: header lines."""
    head = f"{method} {path} HTTP/1.1\r\nHost: sampan\r\n{connection}"
    data = b""
    if streamed:
        head += "Transfer-Encoding: chunked\r\nContent-Type: application/x-tar\r\n"
    elif body is not None:
        data = quickjson.dumps(body).encode()
        head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n"
    elif method in ("POST", "PUT"):
        head += "Content-Length: 0\r\n"
    return head.encode() + b"\r\n" + data


UPGRADE = "Connection: Upgrade\r\nUpgrade: tcp\r\n"


def encode_chunk(data: bytes) -> bytes:
    """A chunk of a streamed body; the empty one ends it."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class Head:
    """Status and headers of a response, from the bytes before the empty line."""

    def __init__(self, data: bytes) -> None:
        lines = data.decode("latin-1").split("\r\n")
        self.status = int(lines[0].split(" ", 2)[1])
        self.headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:])}
        self.warnings = [line.partition('"')[2][:-1] for line in lines[1:] if line.startswith("Warning: 199")]
        self.tty = self.headers.get("content-type") == "application/vnd.docker.raw-stream"
        self.hijacked = self.status == 101 or "transfer-encoding" not in self.headers

    def error(self, body: bytes) -> APIError:
        """What the engine says in the body of an error."""
        try:
            message = quickjson.loads(body)["message"]
        except (ValueError, KeyError, TypeError):
            message = body.decode(errors="replace") or self.headers.get("x-sampan-error") or f"status {self.status}"
        return APIError(self.status, message)


def split_frames(buffer: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """The whole (stream, data) frames at the beginning of a buffer, and what is left of it."""
    found = []
    while len(buffer) >= 8:
        length = int.from_bytes(buffer[4:8], "big")
        if len(buffer) < 8 + length:
            break
        found.append((buffer[0], buffer[8 : 8 + length]))
        buffer = buffer[8 + length :]
    return found, buffer


class Response:
    """A response whose body is read as it comes. Close it, or read it to the end."""

    def __init__(self, sock: socket, bodyless: bool = False) -> None:
        self.sock = sock
        self._bodyless = bodyless
        self._buffer = b""
        head = self._head()
        while head.startswith(b"HTTP/1.1 100"):
            head = self._head()
        self.head = Head(head)
        self.status, self.headers, self.tty = self.head.status, self.head.headers, self.head.tty

    def _head(self) -> bytes:
        while b"\r\n\r\n" not in self._buffer:
            self._more(1 << 16, "the engine closed the connection")
        head, self._buffer = self._buffer.split(b"\r\n\r\n", 1)
        return head

    def raw(self) -> Iterator[bytes]:
        """What follows the headers, unframed, to the end of the connection."""
        if self._buffer:
            data, self._buffer = self._buffer, b""
            yield data
        while data := self.sock.recv(1 << 18):
            yield data

    def _more(self, size: int, otherwise: str = "the engine closed the connection in the middle of an answer") -> None:
        """Reads on in an answer that has an end of its own: one that breaks off is none. Raises NoEngine."""
        try:
            data = self.sock.recv(size)
        except ConnectionError:
            data = b""
        if not data:
            raise NoEngine(otherwise)
        self._buffer += data

    def _read(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._more(1 << 18)
        data, self._buffer = self._buffer[:count], self._buffer[count:]
        return data

    def chunks(self) -> Iterator[bytes]:
        """The body in pieces, by Content-Length, chunked, or to the end."""
        if self._bodyless or self.status in (204, 304):
            return
        if "content-length" in self.headers:
            left = int(self.headers["content-length"])
            while left:
                part = self._read(min(left, 1 << 18))
                left -= len(part)
                yield part
        elif self.headers.get("transfer-encoding") == "chunked":
            while True:
                while b"\r\n" not in self._buffer:
                    self._more(1 << 16)
                size, self._buffer = self._buffer.split(b"\r\n", 1)
                count = int(size.split(b";")[0], 16)
                data = self._read(count)
                self._read(2)
                if not count:
                    return
                yield data
        else:
            yield from self.raw()

    def read(self) -> bytes:
        """The whole body."""
        return b"".join(self.chunks())

    def lines(self) -> Iterator[bytes]:
        """The body line by line."""
        rest = b""
        for chunk in self.chunks():
            *whole, rest = (rest + chunk).split(b"\n")
            yield from whole
        if rest:
            yield rest

    def frames(self) -> Iterator[tuple[int, bytes]]:
        """(stream, data) of an attached or logged process, whether framed or raw."""
        buffer = b""
        for data in self.raw() if self.head.hijacked else self.chunks():
            if self.tty:
                yield 1, data
                continue
            found, buffer = split_frames(buffer + data)
            yield from found

    def close(self) -> None:
        """Closes the connection."""
        self.sock.close()


class Http:
    """Requests to one engine, over one kept connection where possible."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._idle: socket | None = None

    def connect(self) -> socket:
        """A new connection. Raises NoEngine."""
        sock = socket(AF_UNIX)
        try:
            sock.connect(self._path)
        except OSError as error:
            sock.close()
            raise NoEngine(f"Cannot connect to the Sampan engine at unix://{self._path}: {error.strerror}") from error
        return sock

    def open(self) -> None:
        """Connects now, for the next request. Raises NoEngine."""
        self._idle = self._idle or self.connect()

    def close(self) -> None:
        """Closes the kept connection, if there is one."""
        if self._idle is not None:
            self._idle.close()
            self._idle = None

    def send(
        self,
        method: str,
        path: str,
        body: object = None,
        upgrade: bool = False,
        stream: Iterator[bytes] | None = None,
        headers: str = "",
    ) -> Response:
        """Makes a request and returns once the headers are there. Raises APIError, NoEngine.

        `body` goes as JSON; `stream` goes in chunks; `headers` are further header lines.
        """
        sock, self._idle = self._idle or self.connect(), None
        try:
            sock.sendall(encode_request(method, path, body, stream is not None, (UPGRADE if upgrade else "") + headers))
            for chunk in stream or ():
                sock.sendall(encode_chunk(chunk))
            if stream is not None:
                sock.sendall(encode_chunk(b""))
        except BrokenPipeError:
            pass  # an early error answer: read it
        response = Response(sock, bodyless=method == "HEAD")
        if response.status >= 400:
            error = response.head.error(response.read())
            self._keep(response)
            raise error
        return response

    def _keep(self, response: Response) -> None:
        if response.headers.get("connection") == "close" or self._idle is not None:
            response.close()
        else:
            self._idle = response.sock

    def call(self, method: str, path: str, body: object = None) -> Any:
        """A request whose whole JSON answer (or None) is returned. Raises APIError, NoEngine."""
        response = self.send(method, path, body)
        data = response.read()
        self._keep(response)
        return quickjson.loads(data) if data else None
