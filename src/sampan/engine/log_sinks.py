"""Where lines of containers are sent: systemd's journal and syslog, each as Docker's driver of that name writes it."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

from sampan.engine import log_options
from sampan.engine.container import Container
from sampan.engine.errors import BadRequest
from sampan.engine.model import HostConfig
from sampan.keeper.frames import Frame

JOURNAL = "/run/systemd/journal/socket"
SYSLOG = ("/dev/log", "/var/run/syslog", "/var/run/log")
FACILITIES = ("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp", *[""] * 4,
              *(f"local{number}" for number in range(8)))  # fmt: skip
FORMATS = ("", "rfc3164", "rfc5424", "rfc5424micro")
_SEVERITY = {1: 6, 2: 3}  # informational, error
_PATIENCE = 5.0  # seconds to connect


def check(host: HostConfig) -> None:
    """Raises BadRequest for a server that can't be meant, or is not here."""
    driver, options = host.log_config.driver, host.log_config.options
    if driver == "journald" and not os.path.exists(JOURNAL):
        raise BadRequest("failed to initialize logging driver: journald is not enabled on this host")
    if driver != "syslog":
        return
    try:
        scheme, place, _ = address(options)
        facility(options)
    except ValueError as error:
        raise BadRequest(f"log opt: {error}") from None
    if options.get("syslog-format", "") not in FORMATS:
        raise BadRequest(f"log opt: Invalid syslog format: {options['syslog-format']}")
    if scheme.startswith("unix") and not any(map(os.path.exists, [place] if place else SYSLOG)):
        raise BadRequest(f"failed to initialize logging driver: no syslog listens on {place or ' or '.join(SYSLOG)}")


class Journal:
    """systemd's journal by its own protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL)."""

    def __init__(self, container: Container, path: str = "") -> None:
        options = container.host_config.log_config.options
        tag = log_options.tag(container, options.get("tag") or "{{.ID}}")
        fields = {"CONTAINER_ID": container.id[:12], "CONTAINER_ID_FULL": container.id, "CONTAINER_NAME": container.name,
                  "CONTAINER_TAG": tag, "IMAGE_NAME": container.image_name, "SYSLOG_IDENTIFIER": tag}  # fmt: skip
        for name, value in log_options.attributes(container).items():
            if name != "tag":
                key = "".join(c if c.isascii() and c.isalnum() else "_" for c in name.upper()).strip("_")
                fields[key or "LABEL"] = value
        self._fields = b"".join(_field(name, value.encode()) for name, value in fields.items())
        self._path = path or JOURNAL
        self._sock: socket.socket | None = None

    async def open(self) -> None:
        """Raises OSError."""
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        self._sock.connect(self._path)

    async def send(self, line: Frame) -> None:
        """Raises OSError."""
        assert self._sock is not None
        data = b"".join(
            [
                _field("MESSAGE", line.data.rstrip(b"\n")),
                _field("PRIORITY", b"%d" % _SEVERITY[line.stream]),
                _field("SYSLOG_TIMESTAMP", _rfc3339(line.time, micro=True).encode()),
                self._fields,
            ]
        )
        await asyncio.get_running_loop().sock_sendall(self._sock, data)

    def close(self) -> None:
        """Ends the connection."""
        if self._sock is not None:
            self._sock.close()


def _field(name: str, value: bytes) -> bytes:
    if b"\n" in value:
        return name.encode() + b"\n" + len(value).to_bytes(8, "little") + value + b"\n"
    return name.encode() + b"=" + value + b"\n"


def address(options: Mapping[str, str]) -> tuple[str, str, int]:
    """(scheme, path or host, port) of a syslog server. Raises ValueError."""
    text = options.get("syslog-address") or ""
    if not text:
        return "unixgram", "", 0
    parts = urlsplit(text)
    if parts.scheme in ("unix", "unixgram"):
        if not parts.path or parts.netloc:
            raise ValueError(f"syslog-address {text!r}: unix:///PATH is wanted")
        return parts.scheme, parts.path, 0
    if parts.scheme not in ("udp", "tcp"):
        raise ValueError(
            f"syslog-address should be in form proto://address, got {text!r}: udp, tcp, unix and unixgram are there"
        )
    if not parts.hostname:
        raise ValueError(f"syslog-address {text!r}: it names no host")
    return parts.scheme, parts.hostname, parts.port or 514


def facility(options: Mapping[str, str]) -> int:
    """The number of a facility by name or number. Raises ValueError."""
    text = options.get("syslog-facility") or "daemon"
    if text.isdecimal() and int(text) < len(FACILITIES):
        return int(text)
    if not text or text not in FACILITIES:
        raise ValueError(f"invalid syslog facility: {text}")
    return FACILITIES.index(text)


class Syslog:
    """A syslog server (RFC 3164, RFC 5424), on this machine or another."""

    def __init__(self, container: Container) -> None:
        options = container.host_config.log_config.options
        self._scheme, self._place, self._port = address(options)
        self._facility, self._form = facility(options), options.get("syslog-format") or ""
        self._local = self._scheme.startswith("unix")
        self._tag = log_options.tag(container, options.get("tag") or "{{.ID}}")
        self._sock: socket.socket | None = None

    async def open(self) -> None:
        """Raises OSError."""
        loop = asyncio.get_running_loop()
        if self._local:
            kind = socket.SOCK_STREAM if self._scheme == "unix" else socket.SOCK_DGRAM
            place: object = self._place or next(filter(os.path.exists, SYSLOG), SYSLOG[0])
            family = socket.AF_UNIX
        else:
            kind = socket.SOCK_STREAM if self._scheme == "tcp" else socket.SOCK_DGRAM
            found = await loop.getaddrinfo(self._place, self._port, type=kind)
            family, place = found[0][0], found[0][4]
        self._sock = socket.socket(family, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        await asyncio.wait_for(loop.sock_connect(self._sock, place), _PATIENCE)  # type: ignore[arg-type]
        self._stream = kind == socket.SOCK_STREAM

    async def send(self, line: Frame) -> None:
        """Raises OSError."""
        assert self._sock is not None
        data = self.message(line)
        if self._stream:
            data = b"%d %b" % (len(data), data) if self._form.startswith("rfc5424") else data + b"\n"
        await asyncio.get_running_loop().sock_sendall(self._sock, data)

    def message(self, line: Frame) -> bytes:
        """A line as the server gets it."""
        priority, pid, name = self._facility * 8 + _SEVERITY[line.stream], os.getpid(), os.uname().nodename
        stamp = time.strftime("%b %e %H:%M:%S", time.localtime(line.time // 10**9))
        if self._form.startswith("rfc5424"):
            moment = _rfc3339(line.time, micro=self._form.endswith("micro"))
            head = f"<{priority}>1 {moment} {name} {self._tag} {pid} {self._tag} - "
        elif self._form == "rfc3164":
            head = f"<{priority}>{stamp} {name} {self._tag}[{pid}]: "
        elif self._local:
            head = f"<{priority}>{stamp} {self._tag}[{pid}]: "
        else:
            head = f"<{priority}>{_rfc3339(line.time)} {name} {self._tag}[{pid}]: "
        return head.encode() + line.data.rstrip(b"\n")

    def close(self) -> None:
        """Ends the connection."""
        if self._sock is not None:
            self._sock.close()


def _rfc3339(nanoseconds: int, micro: bool = False) -> str:
    seconds, rest = divmod(nanoseconds, 10**9)
    fraction = f".{rest // 1000:06d}" if micro else ""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + fraction + "Z"


Sink = Journal | Syslog


def of(container: Container) -> Sink | None:
    """Where the lines of a container go besides, if anywhere."""
    driver = container.host_config.log_config.driver
    return Journal(container) if driver == "journald" else Syslog(container) if driver == "syslog" else None
