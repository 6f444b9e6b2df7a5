"""Every exception's HTTP status, in one place."""

from __future__ import annotations

import errno
import json
import sqlite3

from aiohttp import web

from sampan.engine import errors
from sampan.images.errors import ImageError, ImageInUse, ImageNotFound, StoreFull
from sampan.images.registry.errors import Incomplete, RegistryError, RegistryNotFound, Unauthorized
from sampan.keeper.client import KeeperGone
from sampan.network.errors import NetworkConflict, NetworkError, NetworkForbidden, NetworkNotFound
from sampan.oci.reference import BadReference
from sampan.runtime.errors import NOT_EXECUTABLE, NOT_FOUND, REFUSED, RuntimeFailure
from sampan.vm.errors import BadDisk, VmError
from sampan.volumes.local import VolumeConflict, VolumeError, VolumeNotFound

_DISK = {
    errno.ENOSPC: "no space is left on the disk: free some, or remove containers, images or volumes",
    errno.EDQUOT: "the disk quota is used up: free some space, or remove containers, images or volumes",
    errno.EROFS: "the file system is read-only: nothing can be changed, what is there can be read",
    errno.EIO: "the disk fails (input/output error)",
    errno.EUCLEAN: "the disk fails (its file system is damaged)",
}
_STATUS: list[tuple[type[Exception], int]] = [
    (errors.NotModified, 304),
    (errors.BadRequest, 400),
    (errors.Forbidden, 403),
    (errors.NotFound, 404),
    (errors.Conflict, 409),
    (errors.TooLarge, 413),
    (errors.Unsupported, 501),
    (errors.Busy, 503),
    (ImageNotFound, 404),
    (RegistryNotFound, 404),
    (Unauthorized, 401),
    (Incomplete, 502),
    (RegistryError, 500),
    (ImageInUse, 409),
    (StoreFull, 507),
    (ImageError, 400),
    (BadReference, 400),
    (KeeperGone, 500),
    (BadDisk, 400),
    (VmError, 500),
    (VolumeNotFound, 404),
    (VolumeConflict, 409),
    (VolumeError, 400),
    (NetworkNotFound, 404),
    (NetworkConflict, 409),
    (NetworkForbidden, 403),
    (NetworkError, 400),
]


def status_of(error: Exception) -> int:
    """The HTTP status for an exception; 500 for those we did not expect."""
    if isinstance(error, RuntimeFailure):
        return 400 if error.kind in (NOT_FOUND, NOT_EXECUTABLE, REFUSED) else 500
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def is_expected(error: Exception) -> bool:
    """Whether it is one of ours, with a message for the user, and no fault of the program."""
    if (isinstance(error, OSError) and error.errno in _DISK) or isinstance(error, sqlite3.OperationalError):
        return True
    return isinstance(error, (RuntimeFailure, errors.EngineError, *(kind for kind, _ in _STATUS)))


def message_of(error: Exception) -> str:
    """What the client is told: for a disk that takes nothing, what is wrong and what helps."""
    if isinstance(error, sqlite3.OperationalError):
        return f"a database can't be written: the disk is full, read-only or failing ({error})"
    sentence = _DISK.get(error.errno or 0) if isinstance(error, OSError) else None
    if sentence is None:
        return str(error)
    filename = getattr(error, "filename", None)
    return f"{sentence} ({filename})" if filename else sentence


def response(status: int, message: str) -> web.Response:
    """Docker's error body."""
    if status == 304:
        return web.Response(status=304)
    # Exactly this type: the docker CLI shows the message only when no charset follows.
    data = json.dumps({"message": message}).encode()
    return web.Response(body=data, status=status, headers={"Content-Type": "application/json"})


def headed(status: int, message: str) -> web.Response:
    """The answer to HEAD, which has no body: what it would say is in a header, for our own clients."""
    answer = response(status, message)
    answer.headers["X-Sampan-Error"] = "".join(char if " " <= char <= "~" else "?" for char in message)[:1000]
    return answer
