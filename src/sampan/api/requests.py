"""Reading requests: query parameters, filters, JSON bodies."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import struct
import tempfile
from collections.abc import AsyncIterator, Mapping
from typing import IO, Any

from aiohttp import web

from sampan.api.errors import is_expected, message_of
from sampan.api.json import decode
from sampan.engine.engine import Engine
from sampan.engine.errors import BadRequest, TooLarge
from sampan.engine.filters import reading

_log = logging.getLogger(__name__)

ENGINE: web.AppKey[Engine] = web.AppKey("engine", Engine)
_GO_TRUE, _GO_FALSE = {"1", "t", "T", "true", "TRUE", "True"}, {"0", "f", "F", "false", "FALSE", "False"}
MAX_JSON = 4 << 20  # bytes: what is started from it, with every letter escaped, is below what the keeper takes


def engine_of(request: web.Request) -> Engine:
    """The engine behind the application."""
    return request.app[ENGINE]


def peer(request: web.Request) -> tuple[int, int] | None:
    """(pid, uid) of the client at the other end of a unix socket (SO_PEERCRED, unix(7)); None over TCP."""
    sock = request.transport.get_extra_info("socket") if request.transport is not None else None
    if sock is None or sock.family != socket.AF_UNIX:
        return None
    pid, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(pid), int(uid)


NEWEST = "1.51"


def version(request: web.Request) -> tuple[int, ...]:
    """The version of the API that the client speaks; without one, the newest."""
    return tuple(int(part) for part in (request.match_info.get("version") or NEWEST).split("."))


def flag(request: web.Request, name: str, default: bool = False) -> bool:
    """A boolean as Docker reads it: everything but "", 0, no, false, none is true."""
    value = request.query.get(name)
    if value is None:
        return default
    return value.strip().lower() not in ("", "0", "no", "false", "none")


def strict_flag(request: web.Request, name: str) -> bool:
    """A boolean of the few that Docker refuses to read otherwise than Go writes it. Raises BadRequest."""
    value = request.query.get(name) or "0"
    if value not in _GO_TRUE | _GO_FALSE:
        raise BadRequest(f'invalid value for {name}: {value}: strconv.ParseBool: parsing "{value}": invalid syntax')
    return value in _GO_TRUE


def number(request: web.Request, name: str) -> int | None:
    """An integer parameter, or None. Raises BadRequest."""
    value = request.query.get(name)
    if value in (None, ""):
        return None
    try:
        return int(value or "")
    except ValueError:
        raise BadRequest(f"invalid value for {name}: {value!r} is not a number") from None


def filters(request: web.Request) -> reading.Filters:
    """The request's `filters`. Raises BadRequest."""
    return reading.parse(request.query.get("filters"))


_BEGUN = "sampan.begun"


def begin(request: web.Request) -> None:
    """Notes that the first byte of the answer goes out: from now on an error can't be an answer."""
    request[_BEGUN] = True


def begun(request: web.Request) -> bool:
    """Whether the answer has begun."""
    return _BEGUN in request


async def body(request: web.Request, optional: bool = False) -> dict[str, Any]:
    """The JSON object in the body. Raises BadRequest, TooLarge."""
    data = await _whole(request) if request.can_read_body else b""
    if not data:
        if optional:
            return {}
        raise BadRequest("invalid JSON: got EOF while reading request body")
    if request.content_type not in ("application/json", "application/octet-stream", "text/plain"):
        raise BadRequest(f"unsupported Content-Type header ({request.content_type}): must be 'application/json'")
    value = decode(data, "invalid JSON")
    if value is None and optional:
        return {}
    if not isinstance(value, dict):
        raise BadRequest("invalid JSON: the body must be an object")
    return value


async def _whole(request: web.Request) -> bytes:
    """The body, up to the limit: what is announced or sent beyond it is not read."""
    if (request.content_length or 0) > MAX_JSON:
        raise TooLarge(f"the request's body has {request.content_length} bytes: {MAX_JSON} at most")
    parts, size = [], 0
    async for chunk in request.content.iter_any():
        size += len(chunk)
        if size > MAX_JSON:
            raise TooLarge(f"the request's body is too large: {MAX_JSON} bytes at most")
        parts.append(chunk)
    return b"".join(parts)


async def spool(request: web.Request, directory: str) -> IO[bytes]:
    """The body as a seekable temporary file. The caller closes it."""
    file = tempfile.TemporaryFile(dir=directory)
    try:
        async for chunk in request.content.iter_chunked(1 << 20):
            await asyncio.to_thread(file.write, chunk)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file


def json_line(value: Mapping[str, object]) -> bytes:
    """One message of a JSON stream."""
    return json.dumps(value).encode() + b"\r\n"


async def json_stream(request: web.Request, messages: AsyncIterator[Mapping[str, object]]) -> web.StreamResponse:
    """Streams messages. An error before the first of them is the response's, one after it the stream's last message."""
    response: web.StreamResponse | None = None
    try:
        async for message in messages:
            if response is None:
                response = await writer(request, "application/json")
            await response.write(json_line(message))
    except Exception as error:
        if response is None:
            raise
        if not is_expected(error):
            _log.exception("an answer that had begun")
        text = message_of(error)
        await response.write(json_line({"errorDetail": {"message": text}, "error": text}))
    return response or await writer(request, "application/json")


async def writer(request: web.Request, content_type: str) -> web.StreamResponse:
    """A prepared streaming response."""
    response = web.StreamResponse(headers={"Content-Type": content_type})
    await response.prepare(request)
    return response
